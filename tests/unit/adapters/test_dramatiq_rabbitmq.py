"""The Dramatiq adapter on RabbitMQ: its queues, its confirmed publishes, and what it does while the broker is away.

The clauses of the contract are in the conformance suite (--queuekit-backend dramatiq-rabbitmq).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import secrets
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")
pika = pytest.importorskip("pika", reason="pika is not installed")

from queuekit import ConfigError  # noqa: E402  # after the checks
from queuekit.adapters import BrokerAway  # noqa: E402
from queuekit.adapters.dramatiq import DramatiqAdapter  # noqa: E402
from queuekit.message import Message, Publication  # noqa: E402
from queuekit.settings import Settings  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import WorkerBench  # noqa: E402
from queuekit.testing.plugin import require  # noqa: E402
from queuekit.testing.rabbit import RabbitServer, find_rabbitmq  # noqa: E402
from queuekit.testing.target import find_targets  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.servers import RedisServer

STORE = "redis://127.0.0.1:1/0"


def settings(**others: Any) -> Settings:
    return Settings(**{"backend": "dramatiq", "broker_url": "amqp://127.0.0.1:1//", "store_url": STORE, **others})


def publication(n: int = 1, **others: Any) -> Publication:
    fields = {"id": f"j{n}", "task": "m.t", "args": [n], "kwargs": {}, "queue": "q", "backend": "dramatiq", **others}
    return Publication(Message(**fields), pseq=n, number=1, epoch="e")  # type: ignore[arg-type]


# ---- without a server ----------------------------------------------------------------------------------------------


def test_without_pika_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "queuekit.adapters.dramatiq.rabbitmq", raising=False)
    monkeypatch.setitem(sys.modules, "pika", None)
    for name in [name for name in sys.modules if name.startswith(("pika.", "dramatiq.brokers.rabbitmq"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"queuekit\[dramatiq,rabbitmq\]"):
        DramatiqAdapter(settings())


def test_nothing_is_connected_before_something_is_sent() -> None:
    adapter = DramatiqAdapter(settings(broker_url="amqp://name.invalid//"))
    assert adapter.broker.declare_queue("q") is None
    adapter.close()
    adapter.close()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("amqp://h", "/"),
        ("amqp://h/", "/"),
        ("amqp://h//", "/"),
        ("amqp://h/%2F", "/"),
        ("amqp://h/v", "v"),
        ("amqp://h/a%2Fb", "a/b"),
    ],
)
def test_the_virtual_host_as_kombu_and_rabbitmq_write_it(url: str, host: str) -> None:
    assert DramatiqAdapter(settings(broker_url=url)).broker.parameters.virtual_host == host


def test_tls_is_verified() -> None:
    parameters = DramatiqAdapter(settings(broker_url="amqps://h/v")).broker.parameters
    assert parameters.ssl_options.context.verify_mode.name == "CERT_REQUIRED"
    assert parameters.ssl_options.context.check_hostname


def test_a_url_that_cannot_be_read_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError, match="broker_url") as caught:
        _ = DramatiqAdapter(settings(broker_url="amqp://u:secret@h:5672/v?heartbeat=often")).broker
    assert "secret" not in str(caught.value)


def test_a_refused_connection_is_said() -> None:
    adapter = DramatiqAdapter(settings(enqueue_timeout=2))
    with pytest.raises(BrokerAway):
        adapter.publish([publication()])
    with pytest.raises(BrokerAway):
        adapter.depth("dramatiq:q:0")


def test_a_silent_broker_is_said_and_no_socket_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = threading.Event()

        def listen() -> None:
            with server.accept()[0] as conversation:
                while conversation.recv(65536):
                    pass
            closed.set()

        threading.Thread(target=listen, daemon=True).start()
        adapter = DramatiqAdapter(
            settings(broker_url=f"amqp://127.0.0.1:{server.getsockname()[1]}//", enqueue_timeout=0.5)
        )
        with pytest.raises(BrokerAway, match="in time"):
            adapter.publish([publication()])
        assert closed.wait(10)
        adapter.close()
        gc.collect()  # a socket that nobody closed warns


# ---- on a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter_on(queuekit_rabbitmq: RabbitServer) -> Iterator[Callable[..., DramatiqAdapter]]:
    made: list[DramatiqAdapter] = []
    namespace = f"test_{secrets.token_hex(4)}"

    def make(**others: Any) -> DramatiqAdapter:
        adapter = DramatiqAdapter(
            settings(**{"broker_url": queuekit_rabbitmq.url, "namespace": namespace, "enqueue_timeout": 10, **others})
        )
        made.append(adapter)
        return adapter

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def adapter(adapter_on: Callable[..., DramatiqAdapter]) -> DramatiqAdapter:
    return adapter_on()


@pytest.fixture
def channel(queuekit_rabbitmq: RabbitServer) -> Iterator[Any]:
    """As any other client of the broker."""
    with pika.BlockingConnection(
        pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{queuekit_rabbitmq.port}/%2F")
    ) as connection:
        yield connection.channel()


def queue(adapter: DramatiqAdapter, level: int = 0) -> str:
    return f"queuekit.{adapter.settings.namespace}.q.p{level}"


def ids(channel: Any, queue: str) -> list[str]:
    found = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(json.loads(got[2])["message_id"])
    return found


def test_publish_keeps_the_order_of_each_level(adapter: DramatiqAdapter, channel: Any) -> None:
    adapter.publish([publication(n, priority=n % 2 * 9) for n in range(10)])
    assert [adapter.depth(f"dramatiq:q:{level}") for level in (0, 3, 6, 9)] == [5, 0, 0, 5]
    assert ids(channel, queue(adapter)) == ["j0", "j2", "j4", "j6", "j8"]
    assert ids(channel, queue(adapter, 9)) == ["j1", "j3", "j5", "j7", "j9"]


def test_messages_are_persistent_and_queues_durable(adapter: DramatiqAdapter, channel: Any) -> None:
    adapter.publish([publication()])
    method, properties, _ = channel.basic_get(queue(adapter), auto_ack=True)
    assert method.routing_key == queue(adapter)
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    channel.queue_declare(queue(adapter), passive=True, durable=True)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("quorum", {"x-queue-type": "quorum"}),
        ("classic", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "{}.XQ"}),
    ],
)
def test_the_kind_of_queue(
    adapter_on: Callable[..., DramatiqAdapter], channel: Any, kind: str, arguments: dict[str, str]
) -> None:
    adapter = adapter_on(amqp_queues=kind)
    adapter.publish([publication()])
    name = queue(adapter)
    # Raises where it has others.
    same = {key: value.format(name) for key, value in arguments.items()}
    channel.queue_declare(name, durable=True, arguments=same)


def test_a_queue_that_is_of_another_kind_is_used_as_it_is(
    adapter_on: Callable[..., DramatiqAdapter], caplog: pytest.LogCaptureFixture
) -> None:
    adapter_on().publish([publication(1)])
    quorum = adapter_on(amqp_queues="quorum")
    with caplog.at_level(logging.WARNING, logger="queuekit"):
        quorum.publish([publication(2)])
    assert quorum.depth("dramatiq:q:0") == 2
    assert "used as it is" in caplog.text


def test_a_queue_that_nobody_made_is_empty(adapter: DramatiqAdapter) -> None:
    assert adapter.depth("dramatiq:never:3") == 0
    adapter.publish([publication()])
    assert adapter.depth("dramatiq:q:0") == 1


def test_queues_that_are_deleted_are_made_again_and_nothing_is_lost(adapter: DramatiqAdapter, channel: Any) -> None:
    adapter.publish([publication(1), publication(2, priority=9)])
    channel.queue_delete(queue(adapter))
    adapter.publish([publication(3), publication(4, priority=9)])
    assert ids(channel, queue(adapter)) == ["j3"]
    assert ids(channel, queue(adapter, 9)) == ["j2", "j4"]


def test_threads_share_the_adapter(adapter: DramatiqAdapter) -> None:
    threads = [threading.Thread(target=adapter.publish, args=([publication(n)],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert adapter.depth("dramatiq:q:0") == 20


def test_a_forked_child_publishes_on_a_connection_of_its_own(adapter: DramatiqAdapter) -> None:
    adapter.publish([publication(0)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for n in range(10):
                adapter.publish([publication(n)])
            adapter.close()
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    for n in range(10):
        adapter.publish([publication(n)])
    assert os.waitpid(child, 0)[1] == 0
    adapter.publish([publication(1)])  # the child's end did not close it
    assert adapter.depth("dramatiq:q:0") == 22


def test_a_child_forked_while_another_thread_publishes(adapter: DramatiqAdapter) -> None:
    with adapter.broker._lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                adapter.publish([publication()])
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert adapter.depth("dramatiq:q:0") == 1


def test_the_actor_of_a_task_sends_what_a_native_producer_would(
    adapter_on: Callable[..., DramatiqAdapter], channel: Any
) -> None:
    adapter = adapter_on(adopt=True)
    sent = adapter.native(tasks.add).send(1, b=2)
    _, _, body = channel.basic_get(f"queuekit.{adapter.settings.namespace}.default.p0", auto_ack=True)
    assert json.loads(body)["message_id"] == sent.message_id
    with pytest.raises(ConfigError, match="delay"):
        adapter.native(tasks.add).send_with_options(args=(1,), delay=1000)


# ---- taking --------------------------------------------------------------------------------------------------------


@pytest.fixture
def consumer(adapter: DramatiqAdapter) -> Iterator[Any]:
    broker = adapter.make_broker(timeout=10.0, threads=2)
    made = broker.consume(f"queuekit.{adapter.settings.namespace}.q", timeout=10)
    yield made
    made.close()
    broker.close()


def held(consumer: Any) -> Any:
    for _ in range(50):
        message = next(consumer)
        if message is not None:
            return message
    raise AssertionError("nothing came")


def test_no_more_is_taken_than_threads_are_free(adapter: DramatiqAdapter, consumer: Any) -> None:
    adapter.publish([publication(n, priority=n * 3) for n in range(4)])
    first, second = held(consumer), held(consumer)
    assert [first.bell.id, second.bell.id] == ["j3", "j2"]  # the highest level first
    assert next(consumer) is None
    assert adapter.depth("dramatiq:q:3") == 1
    consumer.ack(first)
    assert held(consumer).bell.id == "j1"


def test_a_claimed_message_is_acknowledged_while_its_thread_is_taken(adapter: DramatiqAdapter, consumer: Any) -> None:
    adapter.publish([publication(n) for n in range(3)])
    running = [held(consumer), held(consumer)]
    for message in running:
        message.claimed()
    assert next(consumer) is None  # back-pressure is by threads
    consumer.close()  # whatever was not acknowledged comes again
    assert adapter.depth("dramatiq:q:0") == 1
    for message in running:
        consumer.ack(message)  # on a connection that is gone: nothing is left to say


def test_what_was_not_claimed_comes_again(adapter: DramatiqAdapter, consumer: Any) -> None:
    adapter.publish([publication(n) for n in range(2)])
    first, _second = held(consumer), held(consumer)
    consumer.requeue([first])
    consumer.close()
    assert adapter.depth("dramatiq:q:0") == 2


def test_a_queue_that_is_deleted_under_a_consumer_is_made_again(
    adapter: DramatiqAdapter, consumer: Any, channel: Any
) -> None:
    assert next(consumer) is None
    for level in (0, 3, 6, 9):
        channel.queue_delete(queue(adapter, level))
    assert next(consumer) is None
    adapter.publish([publication()])
    assert held(consumer).bell.id == "j1"


def test_a_worker_that_stops_takes_nothing(adapter: DramatiqAdapter, consumer: Any) -> None:
    adapter.publish([publication()])
    consumer.carrier.stopping.set()
    assert [next(consumer) for _ in range(3)] == [None, None, None]
    assert adapter.depth("dramatiq:q:0") == 1


# ---- a server of the test's own ------------------------------------------------------------------------------------


class Impatient(RabbitServer):
    """Cuts a channel whose delivery stays unacknowledged for three seconds, for which it looks twice a second."""

    def prepare(self) -> Any:
        command, environ = super().prepare()
        name = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
        return command, {**environ, name: f"{environ[name]} -rabbit channel_tick_interval 500"}  # type: ignore[index]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    try:
        binary = find_rabbitmq()
    except LookupError as error:
        require(str(error))
    with Impatient(binary, tmp_path_factory.mktemp("rabbitmq"), options={"consumer_timeout": 3000}) as server:
        yield server


def test_the_server_does_cut_a_delivery_that_is_not_acknowledged(server: RabbitServer) -> None:
    """Or the next test would show nothing."""
    adapter = DramatiqAdapter(settings(broker_url=server.url, enqueue_timeout=10))
    adapter.publish([publication()])
    consumer = adapter.make_broker(timeout=10.0, threads=1).consume("queuekit.default.q", timeout=10)
    held(consumer)
    with pytest.raises(dramatiq.ConnectionClosed, match="timed out"):
        for _ in range(3000):
            next(consumer)
    consumer.close()
    adapter.close()


def test_a_frozen_broker_is_said_and_one_that_restarts_is_found_again(server: RabbitServer) -> None:
    adapter = DramatiqAdapter(settings(broker_url=server.url, enqueue_timeout=2))
    adapter.publish([publication(1)])
    server.freeze()
    with pytest.raises(BrokerAway):
        adapter.publish([publication(2)])
    with pytest.raises(BrokerAway):
        adapter.publish([publication(3, args=["x" * 20_000_000])])  # more than the sockets between hold
    server.thaw()
    server.stop()
    with pytest.raises(BrokerAway):
        adapter.publish([publication(4)])
    server.start()
    patient = DramatiqAdapter(settings(broker_url=server.url, enqueue_timeout=20))
    patient.publish([publication(5)])
    server.stop()
    server.start()
    patient.publish([publication(6)])  # on a connection that is gone without a word to us
    assert (patient.depth("dramatiq:q:0") or 0) >= 3
    adapter.close()
    patient.close()
    gc.collect()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_jobs_that_run_past_the_consumer_timeout(
    server: RabbitServer, queuekit_server: RedisServer, tmp_path: Path, kind: str
) -> None:
    """What waits does so in the broker, and what runs is acknowledged: nothing is cut, nothing comes twice."""
    (target,) = find_targets(("dramatiq-rabbitmq",))
    bench = WorkerBench(
        target, tmp_path / "bench", broker_url=server.url, store_url=queuekit_server.url, amqp_queues=kind, lease=30.0
    )
    try:
        with bench.in_use():
            worker = bench.start_worker()
            jobs = [tasks.sleep.enqueue(6.0) for _ in range(4)]  # on two threads
            assert [job.result(timeout=60) for job in jobs] == ["slept"] * 4
            assert [len(job.info().attempts) for job in jobs] == [1] * 4
            assert [len(bench.journal.entries(job.id, "start")) for job in jobs] == [1] * 4
            assert "connection error" not in worker.said()
            assert "pika" not in worker.said()  # each step of each connection, otherwise
    finally:
        bench.close()


# ---- what nobody of ours has sent ----------------------------------------------------------------------------------

BAD_PROPERTIES = {
    "a number that is none": b"\x20\x00" + (11).to_bytes(4, "big") + b"\x01ad" + b"\x7f\xf8" + bytes(6),
    "a header of a kind that there is not": b"\x20\x00" + (4).to_bytes(4, "big") + b"\x01a?\x00",
    "a moment of no calendar": b"\x20\x00" + (11).to_bytes(4, "big") + b"\x01aT" + b"\xff" * 8,
    "cut short": b"\x20\x00" + (200).to_bytes(4, "big") + b"\x01a",
}


@pytest.mark.parametrize("properties", BAD_PROPERTIES.values(), ids=BAD_PROPERTIES)
def test_properties_that_cannot_be_read_are_those_of_a_message_without_any(properties: bytes) -> None:
    """pika raises for them, which would break the connection at each delivery of the message."""
    from pika.frame import decode_frame

    from queuekit.adapters.dramatiq.link import _Connection

    payload = b"\x00\x3c\x00\x00" + (5).to_bytes(8, "big") + properties
    data = b"\x02\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"
    with pytest.raises(Exception):  # noqa: B017, PT011  # that is what it is about
        decode_frame(data)
    connection = object.__new__(_Connection)
    connection._frame_buffer = data + b"more"
    consumed, header = connection._read_frame()
    assert (consumed, header.channel_number, header.body_size) == (len(data), 1, 5)
    assert header.properties.headers is None
    connection._frame_buffer = b"\x01" + data[1:]
    with pytest.raises(Exception):  # noqa: B017, PT011  # of a method there is nothing to make up
        connection._read_frame()
