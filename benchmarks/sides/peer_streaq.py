"""streaq, with its own results."""

from __future__ import annotations

import asyncio
import time

from side import POOL, URL, Side, Sleeper, await_each, running
from streaq import Worker

worker: Worker[None] = Worker(redis_url=URL, concurrency=int(POOL) if POOL.isdigit() else 16)  # 16: its default


@worker.task
async def noop(text: str) -> int:
    return len(text)


@worker.task
async def started() -> float:
    return time.time()


@worker.task
async def sleep(seconds: float) -> float:
    with running():
        await asyncio.sleep(seconds)
    return seconds


async def many(count: int, text: str) -> None:
    for start in range(0, count, 500):
        await worker.enqueue_many([noop.enqueue(text) for _ in range(min(500, count - start))])


async def sleeping(count: int, seconds: float) -> None:
    await worker.enqueue_many([sleep.enqueue(seconds) for _ in range(count)])


async def wait() -> float:
    task = await started.enqueue()
    found = await task.result(timeout=10)
    assert found.success
    return float(found.result)


PLAIN = ["-m", "streaq", "run", "peer_streaq:worker"]
QUIET = ["-c", "from peer_streaq import worker; worker.run_sync()"]

SIDE = Side(
    enqueue=await_each(noop.enqueue),
    started=wait,
    sleep=sleeping,
    stored=("scan", "streaq:default:task:results:*"),
    workers={"100": QUIET},
    sleepers={"1000": Sleeper(QUIET), "newcomer": Sleeper(PLAIN)},
    many={"enqueue_many": many},
)
CONTEXT = worker
