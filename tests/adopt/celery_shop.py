"""A running system that was not written for queuekit: a Celery app with its own tasks, schedule, results and settings."""

from __future__ import annotations

import copy
import json
import os
import signal
import time

from celery import Celery, chord, signals
from kombu import Queue

JOURNAL = os.environ["SHOP_JOURNAL"]

app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_RESULTS"])
app.conf.update(
    task_default_queue="shop",
    task_queues=[Queue("shop"), Queue("reports", routing_key="reports")],
    task_routes={"shop.report": {"queue": "reports"}},
    task_serializer="pickle",
    accept_content=["json", "pickle"],
    result_serializer="pickle",
    result_expires=600,
    task_track_started=True,
    task_time_limit=4,
    task_soft_time_limit=3,
    task_default_rate_limit="1000/m",
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 1800},
    beat_schedule={"every-second": {"task": "shop.tick", "schedule": 1.0}},
    beat_schedule_filename=os.environ["SHOP_SCHEDULE"],
    timezone="Europe/Vienna",
)
app.conf.update(json.loads(os.environ.get("SHOP_SETTINGS", "{}")))


def note(event: str, **what: object) -> None:
    line = json.dumps({"event": event, "pid": os.getpid(), **what}) + "\n"
    file = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def settings() -> dict[str, object]:
    return {name: copy.deepcopy(app.conf[name]) for name in app.conf}


at_start: dict[str, object] = {}


@signals.worker_init.connect
def remember(**_: object) -> None:
    at_start.update(settings())


@app.task(name="shop.add")
def add(a: int, b: int) -> int:
    return a + b


@app.task(name="shop.report", bind=True)
def report(self, text: bytes) -> bytes:
    return text.upper() + self.request.delivery_info["routing_key"].encode()


@app.task(name="shop.flaky", bind=True, max_retries=3, default_retry_delay=0.1)
def flaky(self) -> int:
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries


@app.task(name="shop.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="shop.both")
def both(count: int) -> str:
    return chord([add.s(n, n) for n in range(count)], total.s())().id


@app.task(name="shop.tick", ignore_result=True)
def tick() -> None:
    note("tick")


@app.task(name="shop.sleep")
def sleep(seconds: float) -> float:
    note("sleep", seconds=seconds)
    time.sleep(seconds)
    note("slept", seconds=seconds)
    return seconds


@app.task(name="shop.handlers")
def handlers() -> list[str]:
    return [str(signal.getsignal(one)) for one in (signal.SIGTERM, signal.SIGQUIT)]


@app.task(name="shop.differences")
def differences() -> list[str]:
    """The settings that are not what they were when this worker began to start."""
    now = settings()
    # Celery itself notes there, between the two, in which modules it has found tasks.
    return [name for name in now if name != "include" and now[name] != at_start.get(name)]
