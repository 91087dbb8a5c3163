"""The Celery adapter on RabbitMQ: what it publishes and when it believes that, and what a worker takes and gives back."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from amqp.basic_message import Message as AmqpContent  # noqa: E402
from amqp.exceptions import PreconditionFailed  # noqa: E402  # after the check that Celery is there
from kombu import Connection, Queue  # noqa: E402

from queuekit import Settings  # noqa: E402
from queuekit.adapters import BrokerAway  # noqa: E402
from queuekit.adapters.celery import CeleryAdapter  # noqa: E402
from queuekit.adapters.celery.transport import read_any_properties  # noqa: E402
from queuekit.message import HEADER, Message, Publication  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import WorkerBench  # noqa: E402
from queuekit.testing.plugin import a_rabbitmq  # noqa: E402
from queuekit.testing.target import find_targets  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing import plugin
    from queuekit.testing.rabbit import RabbitServer
    from queuekit.testing.servers import RedisServer

MESSAGE = Message("j", "mod.task", [1, "ü"], {"k": [2]}, "q", "celery", priority=9, timeout=2.5)
FIRST = Publication(MESSAGE, 1, 1, "e")


@pytest.fixture
def new_adapter(queuekit_broker: plugin.Broker) -> Iterator[Callable[..., CeleryAdapter]]:
    made = []

    def make(url: str, **settings: Any) -> CeleryAdapter:
        given = {"store_url": queuekit_broker.url, "namespace": queuekit_broker.namespace, **settings}
        adapter = CeleryAdapter(Settings(backend="celery", broker_url=url, **given))
        made.append(adapter)
        return adapter

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def adapter(new_adapter: Callable[..., CeleryAdapter], queuekit_rabbitmq: RabbitServer) -> CeleryAdapter:
    return new_adapter(queuekit_rabbitmq.url)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RabbitServer]:
    """A node that a test may stop."""
    with a_rabbitmq(tmp_path / "rabbitmq") as server:
        yield server


def messages(url: str, name: str) -> list[Any]:
    with Connection(url) as connection:
        channel = connection.channel()
        found = []
        while (message := channel.basic_get(name)) is not None:
            found.append(message)
        return found


# ---- publishing ----------------------------------------------------------------------------------------------------


def test_a_publication_is_a_persistent_celery_message(
    adapter: CeleryAdapter, queuekit_rabbitmq: RabbitServer, queuekit_broker: plugin.Broker
) -> None:
    adapter.publish([FIRST, Publication(MESSAGE, 2, 2, "e")])
    first, second = messages(queuekit_rabbitmq.url, f"queuekit.{queuekit_broker.namespace}.q:9")
    assert json.loads(first.body)[:2] == [[1, "ü"], {"k": [2]}]
    assert (first.properties["delivery_mode"], first.content_type) == (2, "application/json")
    assert first.headers[HEADER] == dict(FIRST.header())
    assert (first.headers["task"], second.headers["id"]) == ("mod.task", "j-2")


def test_each_level_has_a_queue_whose_depth_can_be_told(adapter: CeleryAdapter) -> None:
    for priority, times in ((0, 1), (4, 2), (9, 3)):
        message = Message("j", "t", [], {}, "levels", "celery", priority=priority)
        adapter.publish([Publication(message, number, number, "e") for number in range(times)])
    assert [adapter.depth(f"celery:levels:{level}") for level in (0, 3, 6, 9)] == [1, 2, 0, 3]
    assert adapter.depth("celery:nobody-has-declared-it:0") == 0


def test_many_at_a_time_are_all_there_when_it_returns(
    new_adapter: Callable[..., CeleryAdapter], queuekit_rabbitmq: RabbitServer
) -> None:
    adapter = new_adapter(queuekit_rabbitmq.url, enqueue_timeout=60)
    message = Message("j", "t", [], {}, "many", "celery")
    adapter.publish([Publication(message, number, number, "e") for number in range(1, 1201)])
    assert adapter.depth(message.route) == 1200


def test_a_queue_that_somebody_deleted_is_declared_again(
    adapter: CeleryAdapter, queuekit_rabbitmq: RabbitServer, queuekit_broker: plugin.Broker
) -> None:
    """The broker gives the message back, by the very connection that had declared the queue."""
    adapter.publish([FIRST])
    with Connection(queuekit_rabbitmq.url) as connection:
        connection.channel().queue_delete(f"queuekit.{queuekit_broker.namespace}.q:9")
    adapter.publish([FIRST])
    assert adapter.depth(MESSAGE.route) == 1


def test_what_the_broker_refuses_is_not_published(adapter: CeleryAdapter, queuekit_broker: plugin.Broker) -> None:
    full = Queue(
        f"queuekit.{queuekit_broker.namespace}.full",
        queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
    )
    sent = (full, "[]", {"content_type": "application/json", "content_encoding": "utf-8"})
    adapter.broker._use(lambda link: link.send([sent], time.monotonic() + 5))
    with pytest.raises(BrokerAway, match="refused"):
        adapter.broker._use(lambda link: link.send([sent, sent], time.monotonic() + 5))


def test_a_queue_of_another_kind_is_said(adapter: CeleryAdapter, new_adapter: Any) -> None:
    adapter.publish([FIRST])
    other = new_adapter(adapter.settings.broker_url, amqp_queues="quorum")
    with pytest.raises(BrokerAway, match="x-queue-type"):
        other.publish([FIRST])


def test_messages_and_queues_outlive_the_broker(own: RabbitServer, new_adapter: Callable[..., CeleryAdapter]) -> None:
    adapter = new_adapter(own.url)
    adapter.publish([FIRST])
    own.stop()
    with pytest.raises(BrokerAway) as caught:
        adapter.publish([FIRST])
    assert "guest:guest" not in str(caught.value)
    own.start()
    assert adapter.depth(MESSAGE.route) == 1
    adapter.publish([FIRST])
    assert adapter.depth(MESSAGE.route) == 2
    own.restart()  # the connection is idle meanwhile
    adapter.publish([FIRST])
    assert adapter.depth(MESSAGE.route) == 3


def test_a_broker_that_falls_silent_does_not_keep_anybody(
    own: RabbitServer, new_adapter: Callable[..., CeleryAdapter]
) -> None:
    adapter = new_adapter(own.url, enqueue_timeout=1)
    adapter.publish([FIRST])
    own.freeze()
    try:
        for _ in range(2):  # by a connection that is open, and by a new one
            before = time.monotonic()
            with pytest.raises(BrokerAway):
                adapter.publish([FIRST])
            assert time.monotonic() - before < 1.5
    finally:
        own.thaw()
    adapter.publish([FIRST])


# ---- a worker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def new_bench(queuekit_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., WorkerBench]]:
    from contextlib import ExitStack

    (target,) = find_targets(("celery-prefork-rabbitmq",))
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> WorkerBench:
            given = {"lease": 20.0, **settings}  # nothing here is about a lease that runs out
            bench = WorkerBench(target, tmp_path, broker_url=url, store_url=queuekit_server.url, **given)
            stack.callback(bench.close)
            stack.enter_context(bench.in_use())
            return bench

        yield make


def test_a_worker_on_quorum_queues(new_bench: Callable[..., WorkerBench], queuekit_rabbitmq: RabbitServer) -> None:
    bench = new_bench(queuekit_rabbitmq.url, amqp_queues="quorum")
    bench.start_worker()
    jobs = [tasks.add.options(priority=level).enqueue(level) for level in (0, 3, 6, 9)]
    retried = tasks.follow.enqueue(["timeout", "killed"])
    assert [job.result(timeout=30) for job in jobs] == [1, 4, 7, 10]
    assert retried.result(timeout=40) == "attempt 3"
    name = f"queuekit.{bench.settings['namespace']}.default"
    with Connection(queuekit_rabbitmq.url) as connection, pytest.raises(PreconditionFailed, match="quorum"):
        Queue(name)(connection.channel()).queue_declare()


def test_of_what_waits_for_a_slot_the_highest_level_goes_first(
    new_bench: Callable[..., WorkerBench], queuekit_rabbitmq: RabbitServer
) -> None:
    bench = new_bench(queuekit_rabbitmq.url, concurrency=1)
    bench.start_worker()
    busy = tasks.sleep.enqueue(1.5)
    bench.started(busy)
    low = [tasks.add.enqueue(number) for number in range(3)]
    high = tasks.add.options(priority=9).enqueue(9)
    ended = [bench.ended(job).finished_at for job in [high, *low]]
    assert ended == sorted(ended)


def test_what_waits_behind_a_long_job_goes_to_a_worker_that_is_free(
    new_bench: Callable[..., WorkerBench], queuekit_rabbitmq: RabbitServer
) -> None:
    bench = new_bench(queuekit_rabbitmq.url, concurrency=1)
    bench.start_worker()
    long = tasks.sleep_async.enqueue(60)
    bench.started(long)
    waiting = [tasks.add.enqueue(number) for number in range(4)]  # the one worker there is takes the first of them
    free = bench.start_worker(ready=False)
    assert [bench.ended(job).status for job in waiting] == ["succeeded"] * 4
    assert long.status() == "running"
    # The busy one takes messages again when it is free.
    free.kill_all()
    long.cancel()
    assert tasks.add.enqueue(7).result(timeout=30) == 8


def test_a_job_that_runs_for_longer_than_rabbitmq_waits_for_an_acknowledgement(
    new_bench: Callable[..., WorkerBench], tmp_path: Path
) -> None:
    """consumer_timeout, 30 minutes by default: it closes the channel of a delivery that is not acknowledged."""
    with a_rabbitmq(tmp_path / "rabbitmq", consumer_timeout=4000) as server:
        # How often it looks: once a minute by default.
        server.control("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
        with Connection(server.url) as connection:
            channel = connection.channel()
            queue = Queue("late")(channel)
            queue.declare()
            connection.Producer(channel).publish("x", exchange="", routing_key="late")
            late = connection.Consumer(queue, channel=channel, callbacks=[lambda *_: None])
            with late, pytest.raises(PreconditionFailed, match="timed out"):
                for _ in range(15):
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=2)

        bench = new_bench(server.url, concurrency=1)
        worker = bench.start_worker()
        said = len(worker.said())
        long = tasks.sleep.enqueue(10)
        bench.started(long)
        behind = tasks.add.enqueue(1)
        assert long.result(timeout=30) == "slept"
        assert behind.result(timeout=30) == 2
        assert [one.outcome for one in long.info().attempts] == ["succeeded"], worker.said(said)
        assert "timed out" not in worker.said(said)


# ---- what nobody of ours has sent ----------------------------------------------------------------------------------

BODY_SIZE = (5).to_bytes(8, "big")
BAD_PROPERTIES = {
    "text that is no UTF-8": b"\x80\x00" + b"\x02\xff\xfe",
    "a header of a kind that there is not": b"\x20\x00" + (4).to_bytes(4, "big") + b"\x01a?\x00",
    "a moment of no calendar": b"\x20\x00" + (11).to_bytes(4, "big") + b"\x01aT" + b"\xff" * 8,
    "cut short": b"\x20\x00" + (200).to_bytes(4, "big") + b"\x01a",
    "too deep": b"\x20\x00" + (30_000 * 7).to_bytes(4, "big") + (b"\x01aF" + (0xFFFFFF).to_bytes(4, "big")) * 30_000,
}


@pytest.mark.parametrize("properties", BAD_PROPERTIES.values(), ids=BAD_PROPERTIES)
def test_properties_that_cannot_be_read_are_those_of_a_message_without_any(properties: bytes) -> None:
    """py-amqp raises for them, which would break the connection at each delivery of the message."""
    frame = (2, 1, b"\x00\x3c\x00\x00" + BODY_SIZE + properties)
    with pytest.raises(Exception):  # noqa: B017, PT011  # that is what it is about
        AmqpContent().inbound_header(frame[2])
    seen: list[Any] = []
    connection = SimpleNamespace(on_inbound_frame=seen.append)
    read_any_properties(connection)
    for other in ((1, 1, b"x"), (2, 1, b"\x00\x3c\x00\x00" + BODY_SIZE + b"\x00\x00"), frame):
        connection.on_inbound_frame(other)
    assert seen[:2] == [(1, 1, b"x"), (2, 1, b"\x00\x3c\x00\x00" + BODY_SIZE + b"\x00\x00")]
    read = AmqpContent()
    read.inbound_header(seen[2][2])
    assert (read.body_size, read.properties) == (5, {"content_type": "properties that cannot be read"})
