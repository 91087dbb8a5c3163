"""Dramatiq alone, with its own results; in the pool asyncio with its middleware for async actors."""

from __future__ import annotations

import asyncio
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from side import POOL, URL, Side, Sleeper, one_by_one, running

# redis-py's pool has 100 connections, and a thread that finds none loses its result.
connections = redis.ConnectionPool.from_url(URL, max_connections=4096)
broker = RedisBroker(connection_pool=connections)
broker.add_middleware(Results(backend=RedisBackend(connection_pool=connections)))
if POOL == "asyncio":
    broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(text: str) -> int:
    return len(text)


@dramatiq.actor(store_results=True)
def started() -> float:
    return time.time()


if POOL == "asyncio":

    @dramatiq.actor(store_results=True)
    async def sleep(seconds: float) -> float:
        with running():
            await asyncio.sleep(seconds)
        return seconds

else:

    @dramatiq.actor(store_results=True)
    def sleep(seconds: float) -> float:
        with running():
            time.sleep(seconds)
        return seconds


def many(count: int, text: str) -> None:
    for start in range(0, count, 500):
        dramatiq.group(noop.message(text) for _ in range(min(500, count - start))).run()


def later(count: int, seconds: float) -> None:
    for number in range(count):
        noop.send_with_options(args=("later",), delay=1000 * int(60 + seconds * number / count))


PLAIN = ["-m", "dramatiq", "bare_dramatiq"]

SIDE = Side(
    enqueue=one_by_one(noop.send),
    started=lambda: started.send().get_result(block=True, timeout=10_000),
    sleep=one_by_one(sleep.send),
    stored=("scan", "?" * 32),  # the name of a result is a hash, and nothing else has 32 characters
    workers={"threads": [*PLAIN, "-p", "1", "-t", "8"]},
    sleepers={
        "threads": Sleeper([*PLAIN, "-p", "1", "-t", "1000"]),
        "asyncio": Sleeper([*PLAIN, "-p", "1", "-t", "1000"]),
        "newcomer": Sleeper(PLAIN),
    },
    many={"group": many},
    later=later,
)
