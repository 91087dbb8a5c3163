"""What somebody who can write to Redis could put into huey's queues, for the conformance suite."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import redis
from huey.registry import Message

from queuekit.testing.raw import Bomb, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit import Settings


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    client = redis.Redis.from_url(settings.broker_url)
    name = f"queuekit.{settings.namespace}"

    def push(raw: bytes | str) -> Callable[[], object]:
        return lambda: client.lpush(f"huey.redis.{name}.{queue}.0", raw)

    def message(task: str, args: object, **more: object) -> Callable[[], object]:
        return push(json.dumps({"id": "foreign", "name": task, "args": args, "kwargs": {}, **more}))

    def native(**more: Any) -> Callable[[], object]:
        return push(pickle.dumps(Message(id="foreign", name=add, **more)))

    ours = header(settings, queue)
    add = "queuekit.testing.tasks.add"
    bomb = pickle.dumps(Bomb(ran))

    def revoked() -> None:
        """huey asks its results, which are pickles, whether a task was revoked."""
        client.hset(f"huey.results.{name}", "r:foreign", bomb)
        message(add, [1], queuekit=ours)()

    yield "not JSON", True, push(b"garbage")
    yield "an empty message", True, push(b"")
    yield "no text", True, push(b"\xff\xfe\x00")
    yield "JSON that is no message", True, push(b'[1, "two", null]')
    yield "JSON that is too deep", True, push(b"[" * 100_000)
    yield "a number of 5000 digits", True, push(b"1" * 5000)
    yield "a pickle", True, push(bomb)
    yield "a native message of huey's, with a pickle", True, native(args=(Bomb(ran),), kwargs={})
    yield "a native message that huey would run later", True, native(args=(1,), kwargs={}, on_complete=Bomb(ran))
    yield "a pickle in huey's schedule", False, lambda: client.zadd(f"huey.schedule.{name}", {bomb: 0})
    yield "a revocation that is a pickle", True, revoked
    yield "a task of ours without our header", True, message(add, [1])
    yield "a header that is none", True, message(add, [1], queuekit="x")
    yield "arguments that are none", True, message(add, "x", queuekit=ours)
    # The header names a job of a store that does not exist: what its record was is not known.
    yield "another task under our header", True, message("os.system", [f"touch '{ran}'"], queuekit=ours)
    client.close()
