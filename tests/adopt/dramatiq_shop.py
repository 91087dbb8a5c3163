"""A running system that was not written for queuekit: its own broker, middleware, results, and ten actors."""

from __future__ import annotations

import json
import os
import signal
import time

import dramatiq
from dramatiq.middleware import AsyncIO, CurrentMessage, Retries, TimeLimitExceeded, default_middleware
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

JOURNAL = os.environ["SHOP_JOURNAL"]


def note(event: str, **what: object) -> None:
    line = json.dumps({"event": event, "pid": os.getpid(), **what}) + "\n"
    file = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Audit(dramatiq.Middleware):
    """Counts what it is told, as a monitor does."""

    def after_process_boot(self, broker):
        note("process_boot")
        if "SHOP_BUSY_PARENT" in os.environ:  # it does not get to hear that this process is up
            os.kill(os.getppid(), signal.SIGSTOP)

    def after_worker_boot(self, broker, worker):
        note("worker_boot")

    def before_process_message(self, broker, message):
        note("process", actor=message.actor_name, queue=message.queue_name)


def make_broker():
    middleware = [one() for one in default_middleware if one is not Retries]
    if "SHOP_WITHOUT_ASYNC" not in os.environ:
        middleware.insert(0, AsyncIO())
    middleware += [Retries(min_backoff=50, max_retries=3), CurrentMessage(), Audit()]
    url = os.environ["SHOP_BROKER"]
    if url.startswith("amqp"):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=url, middleware=middleware, confirm_delivery=True)
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=url, middleware=middleware, **json.loads(os.environ.get("SHOP_OPTIONS", "{}")))


broker = make_broker()
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["SHOP_RESULTS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def order(n):
    return n * 10


@dramatiq.actor(store_results=True)
def invoice(n):
    return f"invoice {n}"


@dramatiq.actor(store_results=True, queue_name="shop.mail", priority=5)
def mail(to):
    return {"to": to}


@dramatiq.actor(store_results=True)
async def stock(n):
    return n + 1


@dramatiq.actor(store_results=True)
def flaky(n):
    """Fails at first, and is retried by the user's own Retries."""
    retries = CurrentMessage.get_current_message().options.get("retries", 0)
    note("flaky", retries=retries)
    if retries < 2:
        raise ConnectionError("not yet")
    return n


@dramatiq.actor(store_results=True)
def double(n):
    return 2 * n


@dramatiq.actor(store_results=True)
def chained(n):
    """For a pipeline: order | chained."""
    return n + 1


@dramatiq.actor(time_limit=300, max_retries=0)
def endless():
    try:
        while True:
            time.sleep(0.01)
    except TimeLimitExceeded:
        note("time limit")
        raise


@dramatiq.actor(max_retries=0)
def hold(seconds):
    note("hold")
    time.sleep(seconds)
    note("held")


@dramatiq.actor(store_results=True, queue_name="shop.reports")
def total(*amounts):
    return sum(amounts)
