"""Dramatiq on Redis: a list of ids for each queue and level, and a hash of messages beside it. On RabbitMQ: a queue for
each level.
"""

from __future__ import annotations

import json
import pickle
import uuid
from typing import TYPE_CHECKING, Any

from queuekit.testing.raw import Bomb, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.settings import Settings

    Push = Callable[[bytes | str, str], None]


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    assert settings.broker_url is not None
    name = f"queuekit.{settings.namespace}.{queue}.p0"
    on_redis = not settings.broker_url.startswith("amqp")
    push = _redis_push(settings.broker_url, name) if on_redis else _rabbitmq_push(settings.broker_url, name)

    def raw(body: bytes | str) -> Callable[[], object]:
        return lambda: push(body, str(uuid.uuid4()))

    def message(actor: str, args: list[Any], **options: Any) -> Callable[[], object]:
        id = str(uuid.uuid4())
        content = {
            "queue_name": name,
            "actor_name": actor,
            "args": args,
            "kwargs": {},
            "options": {**({"redis_message_id": id} if on_redis else {}), **options},
            "message_id": "foreign",
            "message_timestamp": 1767225600000,
        }
        return lambda: push(json.dumps(content), id)

    add, ours = "queuekit.testing.tasks.add", header(settings, queue)

    if on_redis:
        yield "an id without a message", False, lambda: push("", "nothing-under-this-id")
    else:
        yield "an empty body", True, raw(b"")
    yield "not JSON", True, raw(b"garbage")
    yield "no text", True, raw(b"\xff\xfe\x00")
    yield "a pickle", True, raw(pickle.dumps(Bomb(ran)))
    yield "JSON that is no message", True, raw(b'[1, "two", null]')
    yield "an empty message", True, raw(b"{}")
    yield "an actor that nobody declared", True, message("os.system", [f"touch '{ran}'"])
    yield "a task of ours without our header", True, message(add, [1])
    yield "a header that is none", True, message(add, [1], queuekit="x")
    yield "another task under our header", True, message("os.system", [f"touch '{ran}'"], queuekit=ours)
    yield "options that kill a worker", True, message(add, [1], throws=["ValueError"], eta=1)


def _redis_push(url: str, name: str) -> Push:
    """An empty body leaves its id alone in the list."""
    import redis

    def push(body: bytes | str, id: str) -> None:
        with redis.Redis.from_url(url) as client:
            if body:
                client.hset(f"dramatiq:{name}.msgs", id, body)
            client.rpush(f"dramatiq:{name}", id)

    return push


def _rabbitmq_push(url: str, name: str) -> Push:
    import pika

    parameters = pika.URLParameters(url.removesuffix("//") + "/%2F")

    def push(body: bytes | str, _id: str) -> None:
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", name, body, mandatory=True)

    return push
