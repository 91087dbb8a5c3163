from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer, Server


def layers(value: bytes) -> Iterator[bytes]:
    """The value, and what is packed into it: compressed, in base64, in JSON."""
    yield value
    if value[:1] == b"\x78":  # zlib
        try:
            yield from layers(zlib.decompress(value))
        except zlib.error:
            pass
        return
    try:
        found = json.loads(value)
    except ValueError:
        try:
            packed = base64.b64decode(value, validate=True)
        except ValueError:
            return
        if packed[:1] in {b"[", b"{", b"\x80"}:
            yield from layers(packed)
        return
    stack = [found]
    while stack:
        one = stack.pop()
        stack += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        if isinstance(one, str) and one.encode() != value:
            yield from layers(one.encode())


def assert_json_only(server: Server) -> bytes:
    """All that lies in it as one text."""
    every = [layer for value in server.values() for layer in layers(value)]
    for layer in every:
        assert not layer.startswith(b"\x80"), f"a pickle: {layer[:60]!r}"
    return b"\n".join(every)


class TestC14:
    """Our messages and records are JSON only, on every engine."""

    clause = "C14"

    def test_in_the_broker_and_in_the_store(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url)
        jobs: list[Job[Any]] = [
            tasks.add.enqueue(123454321),
            tasks.add_async.options(priority=9).enqueue(1),
            tasks.follow.enqueue(["connection"]),
            tasks.without_policy.enqueue(["bug"]),
            tasks.elsewhere.enqueue(),
        ]
        waiting = assert_json_only(broker)
        for job in jobs:
            assert job.id.encode() in waiting
        assert b"123454321" in waiting, "the arguments are not readable in the broker"
        assert jobs[0].id.encode() in assert_json_only(store)
        bench.start_worker()
        for job in jobs:
            bench.ended(job)
        assert_json_only(broker)
        assert_json_only(store)

    def test_private_arguments_stay_out_of_the_broker(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url)
        job = tasks.confidential.enqueue("hush-hush")
        assert b"hush-hush" not in assert_json_only(broker)
        bench.start_worker()
        assert job.result(timeout=20) == "HUSH-HUSH"
        after = assert_json_only(broker)
        assert b"hush-hush" not in after
        assert b"HUSH-HUSH" not in after
        assert "hush-hush" not in bench.worker.said().lower()
