"""RQ: a list of ids for each queue, a hash for each job, whose `data` is compressed."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import TYPE_CHECKING, Any

import redis

from queuekit.testing.raw import Bomb, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.settings import Settings

NOW = "2026-01-01T00:00:00.000000Z"


def messages(settings: Settings, queue: str, ran: Path) -> Iterator[tuple[str, bool, Callable[[], object]]]:
    assert settings.broker_url is not None
    client = redis.Redis.from_url(settings.broker_url)
    key = f"rq:queue:queuekit.{settings.namespace}.{queue}.p0"

    def push(id: str | bytes, **fields: Any) -> Callable[[], object]:
        def put() -> None:
            if fields:
                hash: dict[Any, Any] = {"created_at": NOW, "status": "queued", **fields}
                client.hset(f"rq:job:{id!s}", mapping=hash)
            client.rpush(key, id)

        return put

    def packed(data: bytes) -> bytes:
        return zlib.compress(data)

    by_name = json.dumps(["os.system", None, [f"touch '{ran}'"], {}]).encode()
    ours = json.dumps(["queuekit.testing.tasks.add", None, [1], {}]).encode()
    bomb = pickle.dumps(Bomb(ran))
    meta = json.dumps({"queuekit": header(settings, queue)})

    yield "an id without a job", False, push("nothing-under-this-id")
    yield "an id that is no text", True, push(b"\xff\xfe")
    yield "a hash of nonsense", True, push("nonsense", data=b"\x00\x01", meta="{}")
    yield "a pickle", True, push("pickled", data=packed(bomb))
    yield "a pickle under our header", True, push("pickled-data", data=packed(bomb), meta=meta)
    yield "a pickled meta", True, push("pickled-meta", data=packed(ours), meta=bomb)
    yield "a function by name", True, push("by-name", data=packed(by_name), meta="{}")
    yield "a function by name under our header", True, push("by-name-2", data=packed(by_name), meta=meta)
    yield "a task of ours without our header", True, push("no-header", data=packed(ours))
    yield "a callback by name", True, push("callback", data=packed(ours), failure_callback_name="os.abort")
    yield "what becomes a thousand times as large", True, push("bomb", data=packed(bytes(1 << 26)), meta=meta)
    yield "a status that RQ does not know", True, push("status", data=packed(ours), meta=meta, status="mystery")
    client.close()
