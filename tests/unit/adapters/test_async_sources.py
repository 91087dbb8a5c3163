"""How the pool `async` takes messages from each engine's own keys or queues, many at a time, and gives them back."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections import Counter, deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis

from queuekit import Settings
from queuekit.adapters import BrokerAway, load_adapter
from queuekit.adapters.pulling import IDLE, pull
from queuekit.execution import Delivery, Dropped, Unrecorded
from queuekit.execution.caps import Caps, Room
from queuekit.message import InvalidMessage, Message, Publication
from queuekit.testing import tasks
from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import a_rabbitmq
from queuekit.testing.rabbit import confirmed_channel
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from queuekit.testing.plugin import Broker
    from queuekit.testing.rabbit import RabbitServer
    from queuekit.testing.servers import RedisServer


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
    """`rabbitmq`: the URL of the broker, where that is not the Redis."""

    def __init__(self, backend: str, broker: Broker, rabbitmq: str = "", **settings: Any) -> None:
        pytest.importorskip(backend)
        self.backend, self.rabbitmq = backend, rabbitmq
        given = {"broker_url": rabbitmq, "store_url": broker.url} if rabbitmq else {}
        self.settings = Settings(**{**broker.settings(backend), **given, **settings})
        self.adapter = load_adapter(backend)(self.settings)
        self.worker = Worker(self.settings)
        self.client = redis.Redis.from_url(broker.url)
        self.namespace = broker.namespace
        self.source = getattr(self, f"_{backend}")()

    def _dramatiq(self) -> Any:
        from queuekit.adapters.dramatiq.aio import _Source

        self.broker: Any = self.adapter.make_broker(timeout=5.0)  # type: ignore[attr-defined]
        if self.rabbitmq:
            from queuekit.adapters.dramatiq.aio_rabbitmq import RabbitSource

            return RabbitSource(self.worker, self.broker)  # type: ignore[arg-type]
        return _Source(self.worker, self.broker)  # type: ignore[arg-type]

    def _rq(self) -> Any:
        from queuekit.adapters.rq.aio import _Source

        source = _Source(self.adapter, self.worker)  # type: ignore[arg-type]
        source.open()
        return source

    def _celery(self) -> Any:
        from queuekit.adapters.celery.aio import _Jobs, _source
        from queuekit.adapters.celery.gate import Gate
        from queuekit.adapters.celery.tasks import UNKNOWN, compile_task, make_app

        app = make_app(self.adapter.broker)  # type: ignore[attr-defined]
        compile_task(app, UNKNOWN, self.adapter.broker)  # type: ignore[attr-defined]
        self.jobs = _Jobs(self.worker, app, 10)  # type: ignore[arg-type]
        self.jobs._source = _source(self.jobs, self.adapter.broker, Gate(app.tasks))  # type: ignore[attr-defined]
        return self.jobs._source

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


@pytest.fixture(params=["celery", "rq", "dramatiq", "celery-rabbitmq", "dramatiq-rabbitmq"])
def world(request: pytest.FixtureRequest, queuekit_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    backend, _, broker = request.param.partition("-")
    url = request.getfixturevalue("queuekit_rabbitmq").url if broker else ""
    monkeypatch.setattr("queuekit.adapters.pulling.IDLE", 0.5)
    made = World(backend, queuekit_broker, url)
    yield made
    made.source.close()
    made.adapter.close()
    made.client.close()


def until(true: Callable[[], bool]) -> None:
    """RabbitMQ does not say when it has done what it was told."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


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
    until(lambda: world.depth() == 3)
    found = world.ids(world.take(3))
    # Dramatiq's own way of giving back is to the end of the queue, on Redis.
    assert found == (["c", "a", "b"] if world.backend == "dramatiq" and not world.rabbitmq else ["a", "b", "c"])


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


def spoil_rabbitmq(world: World) -> None:
    amqp = pytest.importorskip("amqp")
    queue = {"dramatiq": "q.p0", "celery": "q"}[world.backend]
    with confirmed_channel(world.rabbitmq) as channel:
        channel.basic_publish(amqp.Message(b"no JSON"), "", f"queuekit.{world.namespace}.{queue}")


SPOIL: dict[str, Callable[[World], None]] = {"dramatiq": spoil_dramatiq, "celery": spoil_celery}


def test_one_that_cannot_be_read_is_put_aside_beside_its_neighbours(world: World) -> None:
    if world.backend not in SPOIL:
        pytest.skip("its hash is read when it is fetched: see test_rq_adapter")
    world.publish("a", "b")
    spoil_rabbitmq(world) if world.rabbitmq else SPOIL[world.backend](world)
    taken = world.take(3)
    bad, *good = [*taken[2:], *taken[:2]] if world.rabbitmq else taken
    with pytest.raises(InvalidMessage, match=r"JSON|no header") as caught:
        world.source.delivery(bad)
    assert world.source.put_aside(bad, str(caught.value))
    ((why, source),) = world.worker.aside
    assert "JSON" in why or "no header" in why
    assert source.startswith(f"queuekit.{world.namespace}.q")
    assert world.ids(good) == ["a", "b"]
    world.source.settle([(one, Dropped("over")) for one in [bad, *good]])
    assert world.keys() == []
    world.source.close()  # with what it had taken and not acknowledged
    assert world.depth() == 0


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


# ---- RabbitMQ ------------------------------------------------------------------------------------------------------


class Counted:
    """Queues of a broker that has so many messages in each, and what was asked of it."""

    def __init__(self, **waiting: int) -> None:
        self.left, self.asked = dict(waiting), list[tuple[str, int, int]]()

    def waiting(self, name: str) -> int:
        return self.left[name]

    def take(self, names: Sequence[str], each: int, most: int, seconds: float) -> list[str]:
        self.asked.append((",".join(names), each, most))
        found = [name for name in names for _ in range(min(each, self.left[name]))]
        for name in found:
            self.left[name] -= 1
        return found


TWO: Final = {"a": ("a9", "a0"), "b": ("b9", "b0")}


def test_a_batch_is_no_larger_than_what_waits_and_has_room() -> None:
    tap = Counted(a9=1, a0=50, b9=0, b0=50)
    assert Counter(pull(tap, TWO, Room(20))) == {"a9": 1, "a0": 19}
    assert tap.asked == [("a9", 1, 1), ("a0", 19, 19)]
    assert Counter(pull(tap, TWO, Room(20, {"a": 5}))) == {"a0": 5, "b0": 15}


def test_an_idle_worker_waits_at_all_its_queues_if_it_has_room_for_one_of_each() -> None:
    for room, asked in (
        (Room(4), [("a9,a0,b9,b0", 1, 1)]),
        (Room(3), [("", 0, 1)]),  # it comes back soon, and counts
        (Room(9, {"a": 1}), [("", 0, 1)]),
        (Room(9, wait=False), []),
    ):
        tap = Counted(a9=0, a0=0, b9=0, b0=0)
        assert pull(tap, TWO, room) == []
        assert tap.asked == asked


@pytest.fixture(params=["celery", "dramatiq"])
def new_rabbit(request: pytest.FixtureRequest, queuekit_broker: Broker) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(url: str, **settings: Any) -> World:
        made.append(World(request.param, queuekit_broker, url, **settings))
        return made[-1]

    yield make
    for world in made:
        world.source.close()
        world.adapter.close()
        world.client.close()


@pytest.fixture(params=["classic", "quorum"])
def rabbit(request: pytest.FixtureRequest, new_rabbit: Callable[..., World], queuekit_rabbitmq: RabbitServer) -> World:
    return new_rabbit(queuekit_rabbitmq.url, amqp_queues=request.param)


def test_what_was_begun_is_acknowledged_and_the_rest_comes_again_when_its_connection_is_gone(rabbit: World) -> None:
    rabbit.publish(*"abcd")
    taken = rabbit.take(4)
    assert rabbit.ids(taken) == [*"abcd"]
    rabbit.source.begun(taken[:2])
    rabbit.source.settle([(taken[0], Dropped("it has ended"))])  # which changes nothing any more
    rabbit.source._drop()
    until(lambda: rabbit.depth() == 2)
    again = rabbit.take(9)
    assert rabbit.ids(again) == ["c", "d"]
    rabbit.source.begun(taken[2:])  # by a tag of the connection that is gone
    rabbit.source.settle([(again[0], Dropped("over")), (again[1], Unrecorded("for somebody else"))])
    rabbit.source.look_around()
    until(lambda: rabbit.depth() == 1)


def test_outcomes_may_be_told_by_any_thread(rabbit: World) -> None:
    rabbit.publish(*"abcdefgh")
    taken = rabbit.take(8)
    rabbit.ids(taken)
    threads = [threading.Thread(target=rabbit.source.settle, args=([(one, Dropped("over"))],)) for one in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rabbit.source.look_around()
    rabbit.source._drop()
    assert list(rabbit.source.fetch(Room(9, wait=False))) == []
    assert rabbit.depth() == 0


def test_a_queue_that_is_deleted_under_a_worker_that_waits_is_made_again(rabbit: World) -> None:
    names = [name for levels in rabbit.source._levels.values() for name in levels]
    assert rabbit.source.fetch(Room(1)) == []  # they are there now

    def delete() -> None:
        with confirmed_channel(rabbit.rabbitmq) as channel:
            for name in names:
                channel.queue_delete(name)

    late = threading.Timer(0.3, delete)
    late.start()
    before = time.monotonic()
    assert rabbit.take(100) == []  # it does not wait at what is gone
    assert time.monotonic() - before < IDLE
    late.join()
    rabbit.publish("a")
    found = rabbit.take(100) or rabbit.take(100)
    assert rabbit.ids(found) == ["a"]


def test_a_stop_is_not_kept_by_queues_that_are_empty(rabbit: World) -> None:
    threading.Timer(0.3, rabbit.worker.stopping.set).start()
    before = time.monotonic()
    assert rabbit.take(100) == []
    assert time.monotonic() - before < IDLE


def test_a_batch_leaves_no_consumer_and_nothing_in_memory(rabbit: World) -> None:
    for n in range(20):
        rabbit.publish(f"a{n}", f"b{n}")
        taken = list(rabbit.source.fetch(Room(10, wait=False)))
        assert len(taken) == 2
        rabbit.source.begun(taken)
    if rabbit.backend == "celery":
        channel = rabbit.source._channel
        assert (dict(channel.callbacks), dict(channel.cancel_callbacks), rabbit.source._word) == ({}, {}, deque())
    else:
        link = rabbit.source._link
        assert (link.channel.consumer_tags, link.channel._cancelled, link._lost) == ([], set(), set())
        assert sum(map(len, link.channel.callbacks._stack["1"].values())) < 40


def test_a_message_for_a_consumer_that_is_gone_goes_back(rabbit: World) -> None:
    """A quorum queue may send one after it has confirmed the cancel."""
    assert list(rabbit.source.fetch(Room(1))) == []  # the queues are there now
    name = rabbit.source._levels["q"][-1]
    rabbit.publish("a")
    if rabbit.backend == "celery":
        channel = rabbit.source._channel
        tag = channel.basic_consume(name, callback=lambda _: None)
        channel.callbacks.pop(tag)
        until(lambda: rabbit.depth() == 0)
        channel.basic_cancel(tag)
    else:
        from pika.spec import Basic

        link = rabbit.source._link
        tag = link.channel.basic_consume(name, lambda *_: pytest.fail("it is gone"))
        del link.channel._consumers[tag]
        link.flush()
        until(lambda: rabbit.depth() == 0)
        link.channel._send_method(Basic.Cancel(consumer_tag=tag, nowait=True))
    for _ in range(50):
        rabbit.source.look_around()
        time.sleep(0.01)
    assert rabbit.depth() == 1


def test_a_broker_that_restarts_is_found_again_and_delivers_again(
    new_rabbit: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("celery") is not None:
        monkeypatch.setattr("queuekit.adapters.celery.aio_rabbitmq.ANSWER", 1.0)
    with a_rabbitmq(tmp_path / "rabbitmq") as server:
        rabbit = new_rabbit(server.url)
        rabbit.publish(*"abc")
        taken = rabbit.take(2)
        assert rabbit.ids(taken) == ["a", "b"]
        server.stop()
        rabbit.source.look_around()
        with pytest.raises(BrokerAway):
            rabbit.take(1)
        rabbit.source.settle([(taken[0], Dropped("over"))])
        server.start()
        assert rabbit.ids(rabbit.take(9)) == ["a", "b", "c"]
        server.freeze()
        try:
            rabbit.source.look_around()  # it does not wait for an answer
            before = time.monotonic()
            with pytest.raises(BrokerAway):
                rabbit.take(1)
            assert time.monotonic() - before < 8.0
        finally:
            server.thaw()
        assert rabbit.ids(rabbit.take(9)) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_jobs_that_run_past_the_consumer_timeout(kind: str, queuekit_server: RedisServer, tmp_path: Path) -> None:
    for backend in ("celery", "dramatiq"):
        pytest.importorskip(backend)
    with a_rabbitmq(tmp_path / "rabbitmq", consumer_timeout=3000) as server:
        server.control("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
        for name in ("celery-async-rabbitmq", "dramatiq-async-rabbitmq"):
            (target,) = find_targets((name,))
            bench = WorkerBench(
                target, tmp_path / name, broker_url=server.url, store_url=queuekit_server.url, amqp_queues=kind,
                lease=30.0, concurrency=6,
            )  # fmt: skip
            try:
                with bench.in_use():
                    worker = bench.start_worker()
                    jobs = [tasks.sleep_async.enqueue(6.0) for _ in range(9)]
                    assert [job.result(timeout=60) for job in jobs] == ["slept"] * 9
                    assert [len(job.info().attempts) for job in jobs] == [1] * 9
                    assert [len(bench.journal.entries(job.id, "start")) for job in jobs] == [1] * 9
                    assert "the broker is away" not in worker.said()
            finally:
                bench.close()
