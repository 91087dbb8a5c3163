"""What the Dramatiq adapter leans on in pika, in Dramatiq's RabbitMQ broker, and in RabbitMQ itself."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")
pika = pytest.importorskip("pika", reason="pika is not installed")

from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: E402  # after the checks
from pika.adapters.select_connection import IOLoop  # noqa: E402
from pika.spec import Basic  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing.rabbit import RabbitServer

SOON = 20.0  # seconds


@pytest.fixture
def url(queuekit_rabbitmq: RabbitServer) -> str:
    return f"amqp://guest:guest@127.0.0.1:{queuekit_rabbitmq.port}/%2F"


@pytest.fixture
def channel(url: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


@pytest.fixture
def name() -> str:
    return f"contract-{secrets.token_hex(4)}"


def turn(loop: IOLoop, true: Any) -> None:
    """Run the loop until it is so, as a link does."""
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until
        timer = loop.call_later(0.2, loop.stop)
        loop.start()
        loop.remove_timeout(timer)


# ---- pika's loop: it runs when we want it to, and for as long -------------------------------------------------------


def test_the_loop_can_be_run_again_and_a_stop_before_it_is_one_empty_turn() -> None:
    loop, seen = IOLoop(), []
    loop.stop()
    loop.start()
    for n in range(3):
        loop.call_later(0, lambda n=n: (seen.append(n), loop.stop()))
        loop.start()
    assert seen == [0, 1, 2]
    loop.close()


def test_another_thread_can_hand_it_a_call_also_after_its_end() -> None:
    loop, seen = IOLoop(), []
    loop.add_callback_threadsafe(lambda: seen.append("before it ran"))
    thread = threading.Thread(target=lambda: loop.add_callback_threadsafe(lambda: (seen.append("now"), loop.stop())))
    thread.start()
    turn(loop, lambda: len(seen) == 2)
    thread.join()
    loop.close()
    loop.add_callback_threadsafe(lambda: seen.append("never"))
    assert seen == ["before it ran", "now"]


@pytest.mark.parametrize("greets", [True, False], ids=["open", "opening"])
def test_a_connection_can_be_given_up_without_a_word_from_the_broker(url: str, greets: bool) -> None:
    """_terminate_stream() closes the socket and tells us, whatever state the connection is in."""
    loop, told, opened = IOLoop(), [], []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = url if greets else f"amqp://127.0.0.1:{silent.getsockname()[1]}/%2F"
        connection = pika.SelectConnection(
            pika.URLParameters(where),
            on_open_callback=opened.append,
            on_open_error_callback=lambda _connection, error: told.append(error),
            on_close_callback=lambda _connection, error: told.append(error),
            custom_ioloop=loop,
        )
        if greets:
            turn(loop, lambda: opened)
        else:
            silent.settimeout(SOON)
            loop.call_later(0.2, loop.stop)
            loop.start()  # it connects in the loop
            conversation, _ = silent.accept()
        connection._terminate_stream(RuntimeError("given up"))
        turn(loop, lambda: told)
        if not greets:
            with conversation:
                conversation.settimeout(SOON)
                while conversation.recv(1000):
                    pass  # until the end of it
    loop.close()


# ---- the channel ---------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(url: str) -> Iterator[tuple[IOLoop, Any]]:
    """A channel on a connection whose loop is ours."""
    loop, channels, gone = IOLoop(), [], []
    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=channels.append),
        on_close_callback=lambda *_: gone.append(1),
        custom_ioloop=loop,
    )
    turn(loop, lambda: channels)
    yield loop, channels[0]
    if not gone:
        connection.close()
        turn(loop, lambda: gone)
    loop.close()


def test_confirmations_come_as_acks_and_what_has_no_queue_comes_back_first(
    opened: tuple[IOLoop, Any], name: str
) -> None:
    loop, channel = opened
    events: list[Any] = []
    channel.add_on_return_callback(lambda _channel, method, _properties, _body: events.append(method.routing_key))
    channel.confirm_delivery(lambda frame: events.append(frame.method), callback=lambda _frame: None)
    channel.basic_publish("", name, b"lost", mandatory=True)
    turn(loop, lambda: len(events) == 2)
    assert events[0] == name
    assert isinstance(events[1], Basic.Ack)
    assert events[1].delivery_tag == 1  # counted from the channel's start


def test_a_get_from_an_empty_queue_is_a_callback_of_its_own(
    opened: tuple[IOLoop, Any], channel: Any, name: str
) -> None:
    channel.queue_declare(name, durable=True)
    loop, ours = opened
    events: list[Any] = []
    ours.add_callback(events.append, [Basic.GetEmpty], one_shot=False)
    for n in (1, 2):
        ours.basic_get(name, lambda *got: events.append(got))
        turn(loop, lambda n=n: len(events) == n)
    channel.basic_publish("", name, b"x")
    until = time.monotonic() + SOON
    while not isinstance(events[-1], tuple):
        assert time.monotonic() < until
        before = len(events)
        ours.basic_get(name, lambda *got: events.append(got))
        turn(loop, lambda before=before: len(events) > before)
    assert events[-1][3] == b"x"
    channel.queue_delete(name)


def test_a_queue_that_is_not_there_closes_the_channel_and_not_the_connection(
    opened: tuple[IOLoop, Any], name: str
) -> None:
    loop, channel = opened
    why: list[Any] = []
    channel.add_on_close_callback(lambda _channel, reason: why.append(reason))
    channel.queue_declare(name, passive=True, callback=lambda _frame: None)
    turn(loop, lambda: why)
    assert why[0].reply_code == 404
    assert channel.is_closed
    assert channel.connection.is_open


def test_a_queue_of_another_kind_is_refused_with_406(channel: Any, name: str) -> None:
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.queue_declare(name, durable=True)
    assert caught.value.reply_code == 406
    channel.connection.channel().queue_delete(name)


def test_a_passive_declare_counts_what_waits_and_not_what_is_unacknowledged(channel: Any, name: str) -> None:
    channel.queue_declare(name, durable=True)
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("", name, b"x", mandatory=True)
    channel.basic_get(name)
    assert channel.queue_declare(name, passive=True).method.message_count == 2
    channel.queue_delete(name)


# ---- Dramatiq's own broker: native producers -----------------------------------------------------------------------


def test_dramatiqs_arguments_for_a_queue(url: str) -> None:
    assert RabbitmqBroker(url=url)._build_queue_arguments("x.p0") == {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "x.p0.XQ",
    }


def test_a_native_producer_finds_a_queue_that_was_declared_with_them(url: str, channel: Any, name: str) -> None:
    native = RabbitmqBroker(url=url, middleware=[], confirm_delivery=True)
    channel.queue_declare(name, durable=True, arguments=native._build_queue_arguments(name))
    native.enqueue(dramatiq.Message(queue_name=name, actor_name="a", args=(), kwargs={}, options={}))
    assert channel.queue_declare(name, passive=True).method.message_count == 1
    native.close()
    for made in (name, f"{name}.DQ", f"{name}.XQ"):  # it makes those two as well
        channel.queue_delete(made)


def test_a_native_producer_does_not_find_a_quorum_queue(url: str, channel: Any, name: str) -> None:
    """Hence the subclass in the how-to."""
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    native = RabbitmqBroker(url=url, middleware=[], confirm_delivery=True)
    with pytest.raises(dramatiq.ConnectionClosed, match="x-"):
        native.enqueue(dramatiq.Message(queue_name=name, actor_name="a", args=(), kwargs={}, options={}))
    native.close()
    channel.queue_delete(name)
