"""Celery on Redis: a list for each queue, of kombu's envelopes: JSON around a body in base64."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from typing import TYPE_CHECKING, Any

import redis

from queuekit.testing.raw import Bomb, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.settings import Settings

JSON = "application/json"
PICKLE = "application/x-python-serialize"
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    assert settings.broker_url is not None
    client = redis.Redis.from_url(settings.broker_url)
    name = f"queuekit.{settings.namespace}.{queue}"

    def push(raw: bytes | str) -> Callable[[], object]:
        return lambda: client.lpush(name, raw)

    def envelope(body: bytes, headers: Any, content_type: str = JSON) -> str:
        return json.dumps(
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

    def task(task: str, **more: Any) -> dict[str, Any]:
        return {"lang": "py", "task": task, "id": str(uuid.uuid4()), "root_id": "foreign", "retries": 0, **more}

    arguments = json.dumps([[1], {}, EMBED]).encode()
    command = json.dumps([[f"touch '{ran}'"], {}, EMBED]).encode()
    bomb = pickle.dumps(Bomb(ran))
    add, ours = "queuekit.testing.tasks.add", header(settings, queue)

    yield "not JSON", True, push(b"garbage")
    yield "no text", True, push(b"\xff\xfe\x00")
    yield "a pickle", True, push(bomb)
    yield "JSON that is no envelope", True, push(b'[1, "two", null]')
    yield "an empty envelope", True, push(b"{}")
    yield "a body that is a pickle", True, push(envelope(bomb, task(add), PICKLE))
    yield "a pickle under our header", True, push(envelope(bomb, task(add, queuekit=ours), PICKLE))
    yield "a pickle that says it is JSON", True, push(envelope(bomb, task(add, queuekit=ours)))
    yield "a body cut short", True, push(envelope(arguments[:-5], task(add, queuekit=ours)))
    yield "a task that nobody declared", True, push(envelope(command, task("os.system")))
    yield "another task under our header", True, push(envelope(command, task("os.system", queuekit=ours)))
    yield "a task of ours without our header", True, push(envelope(arguments, task(add)))
    yield "no headers", True, push(envelope(arguments, {}))
    yield "headers that are none", True, push(envelope(arguments, ["task", add]))
    client.close()
