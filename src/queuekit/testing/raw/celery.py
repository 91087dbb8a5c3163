"""Celery on Redis: a list for each queue, of kombu's envelopes: JSON around a body in base64. On RabbitMQ: a queue."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
import zlib
from typing import TYPE_CHECKING, Any

from queuekit.testing.rabbit import confirmed_channel
from queuekit.testing.raw import Bomb, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.settings import Settings

    Send = Callable[[bytes, Any, str], Callable[[], object]]  # a body, headers and a content type

JSON = "application/json"
PICKLE = "application/x-python-serialize"
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    assert settings.broker_url is not None
    name = f"queuekit.{settings.namespace}.{queue}"
    on_redis = not settings.broker_url.startswith("amqp")
    send = _redis_send(settings.broker_url, name) if on_redis else _rabbitmq_send(settings.broker_url, name)

    def task(task: str, **more: Any) -> dict[str, Any]:
        return {"lang": "py", "task": task, "id": str(uuid.uuid4()), "root_id": "foreign", "retries": 0, **more}

    arguments = json.dumps([[1], {}, EMBED]).encode()
    command = json.dumps([[f"touch '{ran}'"], {}, EMBED]).encode()
    bomb = pickle.dumps(Bomb(ran))
    add, ours = "queuekit.testing.tasks.add", header(settings, queue)

    if on_redis:
        push = _redis_push(settings.broker_url, name)
        yield "not JSON", True, push(b"garbage")
        yield "no text", True, push(b"\xff\xfe\x00")
        yield "a pickle", True, push(bomb)
        yield "JSON that is no envelope", True, push(b'[1, "two", null]')
        yield "an empty envelope", True, push(b"{}")
        yield "headers that are none", True, send(arguments, ["task", add], JSON)
    else:
        yield "an empty body", True, send(b"", {}, JSON)
        yield "not JSON", True, send(b"garbage", task(add, queuekit=ours), JSON)
        yield "no text", True, send(b"\xff\xfe\x00", task(add, queuekit=ours), JSON)
        yield "a content type that nobody knows", True, send(b"x", task(add, queuekit=ours), "no/such-type")
    yield "a body that is a pickle", True, send(bomb, task(add), PICKLE)
    yield "a pickle under our header", True, send(bomb, task(add, queuekit=ours), PICKLE)
    yield "a pickle that says it is JSON", True, send(bomb, task(add, queuekit=ours), JSON)
    yield "a body cut short", True, send(arguments[:-5], task(add, queuekit=ours), JSON)
    yield "a task that nobody declared", True, send(command, task("os.system"), JSON)
    yield "another task under our header", True, send(command, task("os.system", queuekit=ours), JSON)
    yield "a task of ours without our header", True, send(arguments, task(add), JSON)
    large = zlib.compress(bytes(1 << 26))
    packed = task(add, queuekit=ours, compression="gzip")
    yield "what becomes a thousand times as large", True, send(large, packed, JSON)
    yield "a compression that nobody knows", True, send(arguments, {**packed, "compression": "no-such"}, JSON)
    yield "no headers", True, send(arguments, {}, JSON)


def _redis_push(url: str, name: str) -> Callable[[bytes | str], Callable[[], object]]:
    import redis

    def push(raw: bytes | str) -> Callable[[], object]:
        def put() -> None:
            with redis.Redis.from_url(url) as client:
                client.lpush(name, raw)

        return put

    return push


def _redis_send(url: str, name: str) -> Send:
    push = _redis_push(url, name)

    def send(body: bytes, headers: Any, content_type: str) -> Callable[[], object]:
        return push(
            json.dumps(
                {
                    "body": base64.b64encode(body).decode(),
                    "content-type": content_type,
                    "content-encoding": "binary" if content_type == PICKLE else "utf-8",
                    "headers": headers,
                    "properties": {
                        "correlation_id": "foreign",
                        "delivery_mode": 2,
                        "delivery_info": {"exchange": "", "routing_key": name},
                        "priority": 0,
                        "body_encoding": "base64",
                        "delivery_tag": str(uuid.uuid4()),
                    },
                }
            )
        )

    return send


def _rabbitmq_send(url: str, name: str) -> Send:
    def send(body: bytes, headers: Any, content_type: str) -> Callable[[], object]:
        def put() -> None:
            import amqp

            with confirmed_channel(url) as channel:
                encoding = "binary" if content_type == PICKLE else "utf-8"
                make: Any = amqp.Message  # its types are wrong
                message = make(body, content_type=content_type, content_encoding=encoding, application_headers=headers)
                channel.basic_publish(message, routing_key=name, mandatory=True)

        return put

    return send
