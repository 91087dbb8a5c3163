"""Celery alone, with its own results. It has no async tasks: those that wait hold a thread, a greenlet or a process."""

from __future__ import annotations

import time

from celery import Celery, group
from side import URL, Side, Sleeper, one_by_one, running

app = Celery("bare_celery", broker=URL, backend=URL)
app.conf.worker_send_task_events = False


@app.task(name="noop")
def noop(text: str) -> int:
    return len(text)


@app.task(name="started")
def started() -> float:
    return time.time()


@app.task(name="sleep")
def sleep(seconds: float) -> float:
    with running():
        time.sleep(seconds)
    return seconds


def many(count: int, text: str) -> None:
    for start in range(0, count, 500):
        group(noop.s(text) for _ in range(min(500, count - start))).delay()


def later(count: int, seconds: float) -> None:
    for number in range(count):
        noop.apply_async(("later",), countdown=60 + seconds * number / count)


PLAIN = ["-m", "celery", "-A", "bare_celery", "worker", "--loglevel", "ERROR"]


def command(pool: str, count: int) -> list[str]:
    return [*PLAIN, "-P", pool, "-c", str(count), "--without-gossip", "--without-mingle"]


SIDE = Side(
    enqueue=one_by_one(noop.delay),
    started=lambda: started.delay().get(timeout=10),
    sleep=one_by_one(sleep.delay),
    stored=("scan", "celery-task-meta-*"),
    workers={
        "prefork": command("prefork", 2),
        "threads": command("threads", 8),
        "gevent": command("gevent", 100),
    },
    sleepers={
        "prefork": Sleeper(command("prefork", 2), places=2),
        "threads": Sleeper(command("threads", 1000)),
        "gevent": Sleeper(command("gevent", 1000)),
        "newcomer": Sleeper(PLAIN, places=2),
    },
    many={"group": many},
    later=later,
)
