"""Dramatiq on Redis: a list of ids for each queue and level, and a hash of messages beside it."""

from __future__ import annotations

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


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    assert settings.broker_url is not None
    client = redis.Redis.from_url(settings.broker_url)
    name = f"queuekit.{settings.namespace}.{queue}.p0"

    def push(raw: bytes | str | None, id: str = "") -> Callable[[], object]:
        own = id or str(uuid.uuid4())

        def put() -> None:
            if raw is not None:
                client.hset(f"dramatiq:{name}.msgs", own, raw)
            client.rpush(f"dramatiq:{name}", own)

        return put

    def message(actor: str, args: list[Any], **options: Any) -> Callable[[], object]:
        id = str(uuid.uuid4())
        content = {
            "queue_name": name,
            "actor_name": actor,
            "args": args,
            "kwargs": {},
            "options": {"redis_message_id": id, **options},
            "message_id": "foreign",
            "message_timestamp": 1767225600000,
        }
        return push(json.dumps(content), id)

    add, ours = "queuekit.testing.tasks.add", header(settings, queue)

    yield "an id without a message", False, push(None)
    yield "not JSON", True, push(b"garbage")
    yield "no text", True, push(b"\xff\xfe\x00")
    yield "a pickle", True, push(pickle.dumps(Bomb(ran)))
    yield "JSON that is no message", True, push(b'[1, "two", null]')
    yield "an empty message", True, push(b"{}")
    yield "an actor that nobody declared", True, message("os.system", [f"touch '{ran}'"])
    yield "a task of ours without our header", True, message(add, [1])
    yield "a header that is none", True, message(add, [1], queuekit="x")
    yield "another task under our header", True, message("os.system", [f"touch '{ran}'"], queuekit=ours)
    yield "options that kill a worker", True, message(add, [1], throws=["ValueError"], eta=1)
    client.close()
