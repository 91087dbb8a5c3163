"""arq, with its own results."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from side import POOL, URL, Side, Sleeper, await_each, gather, running

SETTINGS = RedisSettings.from_dsn(URL)


async def noop(context: dict[str, Any], text: str) -> int:
    return len(text)


async def started(context: dict[str, Any]) -> float:
    return time.time()


async def sleep(context: dict[str, Any], seconds: float) -> float:
    with running():
        await asyncio.sleep(seconds)
    return seconds


class WorkerSettings:
    functions = (noop, started, sleep)
    redis_settings = SETTINGS
    max_jobs = int(POOL) if POOL.isdigit() else 10  # its default


class Connected:
    async def __aenter__(self) -> None:
        self.pool: ArqRedis = await create_pool(SETTINGS)

    async def __aexit__(self, *_: object) -> None:
        await self.pool.aclose()

    async def noop(self, text: str) -> object:
        return await self.pool.enqueue_job("noop", text)

    async def sleep(self, seconds: float) -> object:
        return await self.pool.enqueue_job("sleep", seconds)

    async def started(self) -> float:
        job = await self.pool.enqueue_job("started")
        assert job is not None
        return float(await job.result(timeout=10, poll_delay=0.02))


PLAIN = ["-m", "arq", "peer_arq.WorkerSettings"]
QUIET = ["-c", "from arq import run_worker; from peer_arq import WorkerSettings; run_worker(WorkerSettings)"]

CONTEXT = Connected()
SIDE = Side(
    enqueue=await_each(CONTEXT.noop),
    started=CONTEXT.started,
    sleep=await_each(CONTEXT.sleep),
    stored=("scan", "arq:result:*"),
    workers={"100": QUIET},
    sleepers={"1000": Sleeper(QUIET), "newcomer": Sleeper(PLAIN)},
    many={"gather": gather(CONTEXT.noop)},
)
