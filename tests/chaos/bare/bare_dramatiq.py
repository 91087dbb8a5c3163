"""Dramatiq alone, with its own defaults: acknowledgement after the run, retries with backoff."""

import os
import time
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage
from ledger import execution

URL = os.environ["BARE_BROKER"]
broker: Any
if URL.startswith("amqp"):
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    # to pika the vhost of "//" is the empty one
    broker = RabbitmqBroker(url=URL.removesuffix("//") + "/%2F", confirm_delivery=True)
else:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=URL)
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bare", max_retries=7, min_backoff=1000)
def work(job: str, seconds: float, failures: int) -> None:
    with execution(job):
        time.sleep(seconds)
        message = CurrentMessage.get_current_message()
        if message is not None and message.options.get("retries", 0) < failures:
            raise ConnectionResetError("the service hung up")


COMMAND = ["dramatiq", "bare_dramatiq", "--processes", "1", "--threads", "2"]


def enqueue(job: str, seconds: float, failures: int) -> str:
    message = work.send(job, seconds, failures)
    return str(message.options.get("redis_message_id", message.message_id))
