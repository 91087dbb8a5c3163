"""RQ alone, with its own results. A worker runs one job at a time."""

from __future__ import annotations

import time
from datetime import timedelta

import redis
from rq import Queue
from rq.serializers import JSONSerializer
from side import URL, Side, Sleeper, one_by_one, running

QUEUE = Queue("default", connection=redis.Redis.from_url(URL), serializer=JSONSerializer)


def noop(text: str) -> int:
    return len(text)


def started() -> float:
    return time.time()


def sleep(seconds: float) -> float:
    with running():
        time.sleep(seconds)
    return seconds


def many(count: int, text: str) -> None:
    for start in range(0, count, 500):
        data = [Queue.prepare_data("bare_rq.noop", args=[text]) for _ in range(min(500, count - start))]
        QUEUE.enqueue_many(data)


def later(count: int, seconds: float) -> None:
    for number in range(count):
        QUEUE.enqueue_in(timedelta(seconds=60 + seconds * number / count), "bare_rq.noop", "later")


def wait() -> float:
    job = QUEUE.enqueue("bare_rq.started")
    found = job.latest_result(timeout=10)
    assert found is not None
    return float(found.return_value)


def command(name: str, options: str = "") -> list[str]:
    run = (
        "import redis, os; from rq.serializers import JSONSerializer; "
        f"from rq.worker import {name}; from rq import Queue; "
        "c = redis.Redis.from_url(os.environ['BENCH_URL']); "
        f"{name}([Queue('default', connection=c, serializer=JSONSerializer)], connection=c, "
        f"serializer=JSONSerializer).work(logging_level='ERROR', {options})"
    )
    return ["-c", run]


SIDE = Side(
    enqueue=one_by_one(lambda text: QUEUE.enqueue("bare_rq.noop", text)),
    started=wait,
    sleep=one_by_one(lambda seconds: QUEUE.enqueue("bare_rq.sleep", seconds)),
    stored=("zcard", "rq:finished:default"),
    workers={"worker": command("Worker"), "simple": command("SimpleWorker")},
    sleepers={
        "worker": Sleeper(command("Worker"), places=1),
        "newcomer": Sleeper(command("Worker"), places=1),
    },
    many={"enqueue_many": many},
    later=later,
)
