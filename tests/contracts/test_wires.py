"""What an adapter has the store write in the step that records a job is what its engine's own client sends."""

from __future__ import annotations

import base64
import json
import secrets
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import Settings
from queuekit.adapters import Wiring, load_adapter
from queuekit.message import Message, Publication
from queuekit.payload.arguments import IN_THE_RECORD, Arguments
from queuekit.store import WireForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.plugin import Broker

ID = secrets.token_hex(8)  # RQ's hashes have no namespace
LARGE, OBJECT = "larger than what messages repeat", "what kombu would read an object out of"
SENT: Any = {
    "plain": {},
    "with a priority and a limit": {"priority": 7, "timeout": 2.5, "result_ttl": 100.0},
    "private": {"private": True},
    LARGE: {"args": ["x" * 20_000]},
    "private, and as large": {"args": ["x" * 20_000], "private": True},
    OBJECT: {"args": [{"__type__": "uuid", "__value__": "x"}]},
}
LEFT_OUT = {"celery": {LARGE, OBJECT}, "rq": {LARGE}, "dramatiq": {LARGE}}


@pytest.fixture
def client(queuekit_broker: Broker) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(queuekit_broker.url) as client:
        yield client


def taken(client: redis.Redis, namespace: str) -> dict[str, Any]:
    """All that lies in the broker for that namespace, which is emptied."""
    found: dict[str, Any] = {}
    client_: Any = client
    for key in client_.keys(f"*{namespace}*") + client_.keys(f"rq:job:{ID}"):
        kind = client_.type(key)
        value = client_.hgetall(key) if kind == b"hash" else client_.lrange(key, 0, -1)
        found[key.decode()] = value
        client_.delete(key)
    ours = [name for name in client_.smembers("rq:queues") if namespace in name.decode()]
    if ours:  # other tests of this server leave theirs
        client_.srem("rq:queues", *ours)
        found["rq:queues"] = len(ours)
    return found


def celery(found: dict[str, Any]) -> Any:
    ((key, (text,)),) = found.items()
    envelope = json.loads(text)
    assert envelope["properties"].pop("delivery_tag")
    return key, {**envelope, "body": json.loads(base64.b64decode(envelope["body"]))}


def rq(found: dict[str, Any]) -> Any:
    fields = next(value for key, value in found.items() if key.startswith("rq:job:"))
    for name in (b"created_at", b"enqueued_at"):
        assert len(fields.pop(name)) == len("2026-11-29T00:47:17.965323Z")
    data = fields[b"data"]
    # RQ reads what is not compressed as it is: test_rq.py
    fields[b"data"] = json.loads(zlib.decompress(data) if data[:1] == b"x" else data)
    fields[b"meta"] = json.loads(fields[b"meta"])
    return found


def dramatiq(found: dict[str, Any]) -> Any:
    lists = {key: value for key, value in found.items() if not key.endswith(".msgs")}
    ((queue, (id,)),) = lists.items()
    bodies = found[f"{queue}.msgs"]
    assert list(bodies) == [id]
    body = json.loads(bodies[id])
    assert body["options"].pop("redis_message_id") == id.decode()
    assert body.pop("message_timestamp") > 1.7e12
    return queue, body


@pytest.mark.parametrize("what", SENT)
@pytest.mark.parametrize(("backend", "read"), [("celery", celery), ("rq", rq), ("dramatiq", dramatiq)])
def test_the_same_message(
    backend: str, read: Callable[[dict[str, Any]], Any], what: str, queuekit_broker: Broker, client: redis.Redis
) -> None:
    pytest.importorskip(backend)
    adapter = load_adapter(backend)(Settings(**queuekit_broker.settings(backend)).resolve())
    try:
        assert isinstance(adapter, Wiring)
        args: dict[str, Any] = {"args": ["é 😀", {"a": [1, None]}], "kwargs": {"b": 2.5}, **SENT[what]}
        message = Message(ID, "shop.tasks.price", queue="q", backend=backend, **args)
        publication = Publication(message, 4711, 1, "epoch")
        adapter.publish([publication])
        theirs = read(taken(client, queuekit_broker.namespace))
        assert (IN_THE_RECORD.args[0] in str(theirs)) is (what in LEFT_OUT[backend])
        wiring = adapter.wiring(replace(message, id="", args=[], kwargs={}))
        assert wiring is not None
        wire = wiring(ID, Arguments.of(message.args, message.kwargs))
        assert sum(command.count(WireForm.DOORBELL) for command in wire.form.commands) == 1
        values = iter(wire.values)
        for command in wire.form.commands:
            args = list(command)
            for place, arg in enumerate(command):
                if arg == WireForm.OWN:
                    args[place] = next(values)
                elif arg == WireForm.DOORBELL:
                    args[place] = f"{next(values)}4711{next(values)}epoch{next(values)}"
            client.execute_command(*args)
        assert next(values, None) is None
        assert read(taken(client, queuekit_broker.namespace)) == theirs
    finally:
        adapter.close()
