"""taskiq on the broker of taskiq-redis that acknowledges (BENCH_LIST=1: on the one that does not), with its results."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from side import URL, Side, Sleeper, await_each, gather, running
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

results = RedisAsyncResultBackend(redis_url=URL, prefix_str="result")
broker = (ListQueueBroker if os.environ.get("BENCH_LIST") else RedisStreamBroker)(URL).with_result_backend(results)


@broker.task
async def noop(text: str) -> int:
    return len(text)


@broker.task
async def started() -> float:
    return time.time()


@broker.task
async def sleep(seconds: float) -> float:
    with running():
        await asyncio.sleep(seconds)
    return seconds


async def wait() -> float:
    found = await (await started.kiq()).wait_result(check_interval=0.02, timeout=10)
    return float(found.return_value)


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


PLAIN = ["-m", "taskiq", "worker", "peer_taskiq:broker", "--log-level", "ERROR"]


def command(count: int) -> list[str]:
    return [*PLAIN, "--workers", "1", "--max-async-tasks", str(count)]


SIDE = Side(
    enqueue=await_each(noop.kiq),
    started=wait,
    sleep=await_each(sleep.kiq),
    stored=("scan", "result:*"),
    workers={"100": command(100)},
    sleepers={"1000": Sleeper(command(1000)), "newcomer": Sleeper(PLAIN)},
    many={"gather": gather(noop.kiq)},
)
CONTEXT = connected()
