"""queuekit on the engine, and with the Redis, that the environment names."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from side import POOL, Side, Sleeper
from sleeping import sleep

from queuekit import agent_task, current_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit import Call

ENGINE = os.environ["QUEUEKIT_BACKEND"]


def length(text: str) -> int:
    return len(text)


if os.environ.get("BENCH_STEP"):

    @agent_task(name="noop")
    def noop(text: str) -> int:
        return current_job().step("length", length, text)

elif POOL == "async def":

    @agent_task(name="noop")
    async def noop(text: str) -> int:
        return len(text)

else:

    @agent_task(name="noop")
    def noop(text: str) -> int:
        return len(text)


@agent_task(name="started")
def started() -> float:
    return time.time()


def one_by_one(count: int, text: str) -> None:
    for _ in range(count):
        noop.enqueue(text)


def batches(count: int, text: str) -> None:
    deque(noop.enqueue_batches((text,) for _ in range(count)), maxlen=0)


def later(count: int, seconds: float) -> None:
    def calls() -> Iterator[Call[int]]:
        for number in range(count):
            yield noop.options(delay=60 + seconds * number / count).bind("later")

    deque(noop.enqueue_batches(calls()), maxlen=0)


def command(pool: str, count: int, module: str = "ours.py") -> list[str]:
    base = ["-m", "queuekit", "worker", module, "--log-level", "ERROR"]
    return [*base, "--pool", pool, "--concurrency", str(count)]


POOLS = {
    "celery": {"prefork": 2, "threads": 8, "async": 8},
    "rq": {"worker": 1, "simple": 1, "async": 8},
    "dramatiq": {"threads": 8, "async": 8},
}

WORKERS = {pool: command(pool, count) for pool, count in POOLS[ENGINE].items()}
SIDE = Side(
    enqueue=one_by_one,
    started=lambda: started.enqueue().result(timeout=10),
    sleep=lambda count, seconds: sleep.enqueue_many((seconds,) for _ in range(count)),
    stored=("zcard", "queuekit:{bench}:succeeded"),
    workers={**WORKERS, "async def": command("async", 100)},
    sleepers={
        "async": Sleeper(command("async", 1000, "sleeping.py")),
        "newcomer": Sleeper(["-m", "queuekit", "worker", "sleeping.py"]),
    },
    many={
        "enqueue_many": lambda count, text: noop.enqueue_many((text,) for _ in range(count)),
        "enqueue_batches": batches,
    },
    later=later,
)
