"""How the pool `async` takes messages from each engine's own keys, many at a time, and gives them back."""

from __future__ import annotations

import importlib.util
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import Settings
from queuekit.adapters import load_adapter
from queuekit.execution import Delivery, Dropped, Unrecorded
from queuekit.execution.caps import Caps, Room
from queuekit.message import InvalidMessage, Message, Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.plugin import Broker


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sets how large an RQ job's hash may be, for its whole process."""
    if importlib.util.find_spec("rq") is not None:
        from queuekit.adapters.rq.job import DoorbellJob

        monkeypatch.setattr(DoorbellJob, "most", DoorbellJob.most)


class Worker:
    """What a source asks of one."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.queues = settings, ("q", "other")
        self.stopping = threading.Event()
        self.aside: list[tuple[str, str]] = []
        self.name = "w"
        self.execution: Any = SimpleNamespace()
        self.caps = Caps()

    def quarantine(self, raw: str, reason: str, *, source: str = "") -> bool:
        self.aside.append((reason, source))
        return True

    def watch(self) -> None: ...


class World:
    def __init__(self, backend: str, broker: Broker) -> None:
        pytest.importorskip(backend)
        self.backend = backend
        self.settings = Settings(**broker.settings(backend))
        self.adapter = load_adapter(backend)(self.settings)
        self.worker = Worker(self.settings)
        self.client = redis.Redis.from_url(broker.url)
        self.namespace = broker.namespace
        self.source = getattr(self, f"_{backend}")()

    def _dramatiq(self) -> Any:
        from queuekit.adapters.dramatiq.aio import _Source

        self.broker: Any = self.adapter.make_broker(timeout=5.0)  # type: ignore[attr-defined]
        return _Source(self.worker, self.broker)  # type: ignore[arg-type]

    def _rq(self) -> Any:
        from queuekit.adapters.rq.aio import _Source

        source = _Source(self.adapter, self.worker)  # type: ignore[arg-type]
        source.open()
        return source

    def _celery(self) -> Any:
        from queuekit.adapters.celery.aio import _Jobs, _Source
        from queuekit.adapters.celery.gate import Gate
        from queuekit.adapters.celery.tasks import UNKNOWN, compile_task, make_app

        app = make_app(self.adapter.broker)  # type: ignore[attr-defined]
        compile_task(app, UNKNOWN, self.adapter.broker)  # type: ignore[attr-defined]
        self.jobs = _Jobs(self.worker, app, 10)  # type: ignore[arg-type]
        return _Source(self.jobs, self.adapter.broker, Gate(app.tasks))  # type: ignore[attr-defined]

    def publish(self, *ids: str, priority: int = 0, queue: str = "q") -> None:
        messages = [Message(id, "mod.task", [id], {}, queue, self.backend, priority=priority) for id in ids]
        self.adapter.publish([Publication(one, 1, 1, "e") for one in messages])

    def depth(self, level: int = 0, queue: str = "q") -> int | None:
        return self.adapter.depth(f"{self.backend}:{queue}:{level}")

    def take(self, most: int) -> list[Any]:
        return list(self.source.fetch(Room(most)))

    def ids(self, taken: list[Any]) -> list[str]:
        found = [self.source.delivery(one) for one in taken]
        assert all(isinstance(one, Delivery) for one in found)
        return [one.bell.id for one in found]

    def keys(self) -> list[bytes]:
        """What is left in the broker that names the namespace, but for RQ's books."""
        return sorted(key for key in self.client.scan_iter(f"*{self.namespace}*") if b"rq:clean" not in key)


@pytest.fixture(params=["celery", "rq", "dramatiq"])
def world(request: pytest.FixtureRequest, queuekit_broker: Broker) -> Iterator[World]:
    made = World(request.param, queuekit_broker)
    yield made
    made.source.close()
    made.adapter.close()
    made.client.close()


def test_many_at_a_time_and_no_more_than_asked_for(world: World) -> None:
    world.publish("a", "b", "c", "d")
    assert world.ids(world.take(3)) == ["a", "b", "c"]
    assert world.depth() == 1
    assert world.ids(world.take(100)) == ["d"]
    assert world.take(100) == []


def test_the_highest_level_first_and_no_queue_always_first(world: World) -> None:
    world.publish("low")
    world.publish("high", priority=9)
    world.publish("other", queue="other")
    world.publish("middle", priority=3)
    assert world.ids(world.take(2)) == ["high", "middle"]
    assert set(world.ids(world.take(2))) == {"low", "other"}


def test_of_each_queue_no_more_than_it_has_room_for(world: World) -> None:
    world.publish("a", "b", "c")
    world.publish("high", priority=9)
    world.publish("other", queue="other")
    assert list(world.source.fetch(Room(10, {"q": 0, "other": 0}, wait=False))) == []
    assert set(world.ids(world.source.fetch(Room(10, {"q": 2}, wait=False)))) == {"high", "a", "other"}
    assert world.ids(world.source.fetch(Room(1, {"q": 2}))) == ["b"]
    assert list(world.source.fetch(Room(10, {"q": 0}, wait=False))) == []
    assert world.depth() == 1


def test_what_is_not_begun_goes_back_in_its_place(world: World) -> None:
    world.publish("a", "b", "c")
    taken = world.take(2)
    world.ids(taken)
    world.source.put_back(taken)
    assert world.depth() == 3
    found = world.ids(world.take(3))
    # Dramatiq's own way of giving back is to the end of the queue.
    assert found == (["c", "a", "b"] if world.backend == "dramatiq" else ["a", "b", "c"])


def test_one_that_waits_is_found_at_once(world: World) -> None:
    late = threading.Timer(0.1, world.publish, ["a"])
    late.start()
    found: list[Any] = []
    for _ in range(40):
        found = world.take(10)
        if found:
            break
    late.join()
    assert world.ids(found) == ["a"]


def spoil_dramatiq(world: World) -> None:
    key = f"dramatiq:queuekit.{world.namespace}.q.p0"
    world.client.hset(f"{key}.msgs", "bad", "no JSON")
    world.client.lpush(key, "bad")


def spoil_celery(world: World) -> None:
    world.client.rpush(f"queuekit.{world.namespace}.q", b"no JSON")


SPOIL: dict[str, Callable[[World], None]] = {"dramatiq": spoil_dramatiq, "celery": spoil_celery}


def test_one_that_cannot_be_read_is_put_aside_beside_its_neighbours(world: World) -> None:
    if world.backend not in SPOIL:
        pytest.skip("its hash is read when it is fetched: see test_rq_adapter")
    world.publish("a", "b")
    SPOIL[world.backend](world)
    bad, *good = world.take(3)
    with pytest.raises(InvalidMessage, match="JSON") as caught:
        world.source.delivery(bad)
    assert world.source.put_aside(bad, str(caught.value))
    ((why, source),) = world.worker.aside
    assert "JSON" in why
    assert source.startswith(f"queuekit.{world.namespace}.q")
    assert world.ids(good) == ["a", "b"]
    world.source.settle([(one, Dropped("over")) for one in [bad, *good]])
    assert world.keys() == []


def test_dramatiq_is_told_of_what_is_over_as_it_would_tell_itself(queuekit_broker: Broker) -> None:
    world = World("dramatiq", queuekit_broker)
    world.publish("a", "b", "c")
    taken = world.take(3)
    acks = f"dramatiq:__acks__.{world.broker.broker_id}.queuekit.{world.namespace}.q.p0"
    assert world.client.scard(acks) == 3
    world.source.settle([(taken[0], Dropped("over")), (taken[1], Unrecorded("the worker stops"))])
    assert world.client.scard(acks) == 1
    assert world.depth() == 1
    assert world.broker.held == {taken[2]}
    world.broker.do_ack(taken[2].key_queue, taken[2].redis_id)  # by the engine's own word
    (back,) = world.take(1)
    world.source.settle([(back, Dropped("over"))])
    assert world.keys() == []
    world.source.close()


def test_what_could_not_be_acknowledged_is_acknowledged_later(
    queuekit_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("dramatiq", queuekit_broker)
    world.publish("a", "b")
    taken = world.take(2)
    with monkeypatch.context() as away:
        away.setattr(world.broker.client, "pipeline", lambda **_: fail(redis.ConnectionError("away")))
        world.source.settle([(taken[0], Dropped("over"))])
    assert world.keys() != []
    world.source.settle([(taken[1], Dropped("over"))])
    assert world.keys() == []
    world.source.close()


def fail(error: Exception) -> None:
    raise error


def test_kombus_lists_hold_what_a_worker_of_celerys_own_would_read(queuekit_broker: Broker) -> None:
    world = World("celery", queuekit_broker)
    world.publish("a", priority=4)
    raw: Any = world.client.lindex(f"queuekit.{world.namespace}.q\x06\x166", 0)
    envelope = json.loads(raw)
    assert {"body", "headers", "properties", "content-type", "content-encoding"} <= envelope.keys()
    assert envelope["properties"]["body_encoding"] == "base64"
    assert world.ids(world.take(1)) == ["a"]
    world.source.close()
