"""huey, with its own results. It has no async tasks: those that wait hold a thread or a greenlet."""

from __future__ import annotations

import time

from huey import RedisHuey
from redis import ConnectionPool
from side import URL, Side, Sleeper, one_by_one, running

# redis-py's pool has 100 connections, and a greenlet that finds none loses its result.
huey = RedisHuey("bench", connection_pool=ConnectionPool.from_url(URL, max_connections=4096))


@huey.task()
def noop(text: str) -> int:
    return len(text)


@huey.task()
def started() -> float:
    return time.time()


@huey.task()
def sleep(seconds: float) -> float:
    with running():
        time.sleep(seconds)
    return seconds


def many(count: int, text: str) -> None:
    for start in range(0, count, 500):
        noop.map([text] * min(500, count - start))


PLAIN = ["-m", "huey.bin.huey_consumer", "peer_huey.huey", "-q"]
# With greenlets everything has to be patched before anything else is imported.
GREEN = "from gevent import monkey; monkey.patch_all(); from huey.bin.huey_consumer import consumer_main as m; m()"

SIDE = Side(
    enqueue=one_by_one(noop),
    started=lambda: started().get(blocking=True, timeout=10),
    sleep=one_by_one(sleep),
    stored=("hlen", "huey.results.bench"),
    workers={"threads": [*PLAIN, "-w", "8"]},
    sleepers={
        "greenlet": Sleeper(["-c", GREEN, "peer_huey.huey", "-q", "-k", "greenlet", "-w", "1000"]),
        "newcomer": Sleeper(PLAIN, places=1),
    },
    many={"map": many},
)
