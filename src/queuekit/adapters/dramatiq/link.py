"""A connection to RabbitMQ on which nothing waits without an end."""

from __future__ import annotations

import logging
import os
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import pika
import pika.channel
import pika.connection
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from pika.spec import Basic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Away", "Link", "describe"]

log = logging.getLogger("queuekit.dramatiq")

CLOSING: Final = 0.5  # seconds that the broker has to say goodbye


class Away(Exception):
    """The connection or the channel is not usable any more."""


_SelectConnection: Any = pika.SelectConnection  # pika has no types
_PikaChannel: Any = pika.channel.Channel


class _Channel(_PikaChannel):  # type: ignore[misc]
    """Gives back a message that comes for a consumer which is gone. pika's own forgets it, and it stays unacknowledged
    for as long as there is the channel."""

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        tag = method_frame.method.consumer_tag
        if tag in self._consumers or tag in self._cancelled or not self.is_open:
            super()._on_deliver(method_frame, header_frame, body)
        else:
            self.basic_reject(method_frame.method.delivery_tag)


class _Connection(_SelectConnection):  # type: ignore[misc]
    """Delivers a message whose properties cannot be read as one that has none, and nobody looks at them. pika's own
    breaks at it, and finds the message again at the head of the queue: for ever."""

    def _read_frame(self) -> Any:
        try:
            return super()._read_frame()
        except Exception:  # text of nobody's alphabet, moments of no calendar, a float that is no number
            buffer = self._frame_buffer
            kind, channel, size = struct.unpack_from(">BHL", buffer)
            if kind != spec.FRAME_HEADER:
                raise
            _class, _weight, body_size = struct.unpack_from(">HHQ", buffer, spec.FRAME_HEADER_SIZE)
            header = frame.Header(channel, body_size, pika.BasicProperties())
            return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, header

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> Any:
        return _Channel(self, channel_number, on_open_callback)


class Link:
    """A connection with a channel, for one thread at a time.

    pika's own blocking connection waits for a confirmation for as long as it takes. Here its loop runs only while an
    answer is waited for, and each wait has an end: Away is raised then, and the link is of no further use.
    """

    def __init__(self, parameters: pika.connection.Parameters, *, confirm: bool, until: float) -> None:
        self.loop = IOLoop()
        self.pid = os.getpid()
        self.declared: set[str] = set()
        self.error: object = None  # why the connection is closed
        self.why: object = None  # why the channel is closed
        self.connection: Any = None
        self.channel: Any = None
        self._opened = self._gone = False
        self._confirm = confirm
        self._published = 0
        self._open_tags: set[int] = set()
        self._returned: list[str] = []
        self._refused = False
        self._answer: list[Any] = []
        self._lost: set[str] = set()  # tags of consumers that the broker has cancelled
        try:
            self.connection = _Connection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_gone,
                on_close_callback=self._on_gone,
                custom_ioloop=self.loop,
            )
            self._wait(lambda: self._opened, until)
            self.open_channel(until)
        except BaseException:
            self.abandon()
            raise

    def _on_open(self, _connection: object) -> None:
        self._opened = True
        self.loop.stop()

    def _on_gone(self, _connection: object, error: object) -> None:
        self._gone = True
        self.error = error or "closed"
        self.loop.stop()

    def _wait(self, ready: Callable[[], Any], until: float) -> None:
        while not ready():
            self._check()
            left = until - time.monotonic()
            if left <= 0:
                raise Away("no answer in time")
            self.run(left)

    def _check(self) -> None:
        if self.error is not None:
            raise Away(describe(self.error))
        if self.channel is not None and self.channel.is_closed:
            raise Away(describe(self.why))

    def run(self, seconds: float) -> None:
        """Read and write what there is, for so long at most."""
        timer = self.loop.call_later(seconds, self.loop.stop)
        try:
            self.loop.start()
        finally:
            self.loop.remove_timeout(timer)

    def _ask(self, send: Callable[[Callable[..., None]], object], until: float) -> Any:
        """The frame that answers."""
        answer: list[Any] = []

        def take(*frames: Any) -> None:
            answer.append(frames[-1])
            self.loop.stop()

        send(take)
        self._wait(lambda: answer, until)
        return answer[0]

    def open_channel(self, until: float) -> None:
        self.channel = None
        self.channel = self._ask(lambda take: self.connection.channel(on_open_callback=take), until)
        self.channel.add_on_return_callback(self._on_return)
        self.channel.add_on_close_callback(self._on_channel_gone)
        self.channel.add_on_cancel_callback(self._on_consumer_gone)
        self.channel.add_callback(self._on_empty, [Basic.GetEmpty], one_shot=False)
        self._published, self._open_tags = 0, set()
        if self._confirm:
            self._ask(lambda take: self.channel.confirm_delivery(self._on_confirm, callback=take), until)

    def _on_channel_gone(self, _channel: object, why: object) -> None:
        self.why = why
        self.loop.stop()

    @property
    def usable(self) -> bool:
        return self.error is None and self.pid == os.getpid() and self.channel is not None and self.channel.is_open

    def flush(self) -> None:
        """Without waiting: do what was asked for by later(), and send what it has written."""
        self.run(0)
        self.run(0)

    def later(self, call: Callable[[], object]) -> None:
        """From any thread: in the thread that runs the link, when it does."""
        self.loop.add_callback_threadsafe(cast("Callable[[], None]", call))

    # ---- queues -----------------------------------------------------------------------------------------------------

    def declare(self, queue: str, arguments: dict[str, Any], until: float) -> None:
        if queue in self.declared:
            return
        try:
            self._ask(
                lambda take: self.channel.queue_declare(queue, durable=True, arguments=arguments, callback=take), until
            )
        except Away:
            if self.error is not None or not self.channel.is_closed:
                raise
            # 406: it is there, and of another kind, as where the setting amqp_queues was changed. It stays what it is.
            self.open_channel(until)
            if self.count(queue, until) is None:
                raise
            log.warning("the queue %s is there with other arguments than amqp_queues asks for: used as it is", queue)
        self.declared.add(queue)

    def count(self, queue: str, until: float) -> int | None:
        """How many messages wait in it; None where there is no such queue."""
        try:
            frame = self._ask(lambda take: self.channel.queue_declare(queue, passive=True, callback=take), until)
        except Away:
            if self.error is not None or not self.channel.is_closed:
                raise
            self.open_channel(until)  # 404 closes it
            return None
        return cast("int", frame.method.message_count)

    # ---- publishing -------------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[tuple[str, bytes]], until: float) -> list[str]:
        """Send all, and wait until the broker has them: the queues that were not there, whose messages came back."""
        self._returned, self._refused = [], False
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        for queue, body in messages:
            self._published += 1
            self._open_tags.add(self._published)
            self.channel.basic_publish("", queue, body, properties, mandatory=True)
        self._wait(lambda: not self._open_tags, until)
        if self._refused:
            raise Away("the broker refused a message")
        return self._returned

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = (
            {tag for tag in self._open_tags if tag <= method.delivery_tag} if method.multiple else {method.delivery_tag}
        )
        self._open_tags -= tags
        self._refused |= isinstance(method, Basic.Nack)
        if not self._open_tags:
            self.loop.stop()

    def _on_return(self, _channel: object, method: Any, _properties: object, _body: bytes) -> None:
        self._returned.append(method.routing_key)

    # ---- taking -----------------------------------------------------------------------------------------------------

    def get(self, queue: str, until: float) -> tuple[int, bytes] | None:
        """One message, unacknowledged: its delivery tag and its body."""
        self._answer = []
        self.channel.basic_get(queue, self._on_message)
        self._wait(lambda: self._answer, until)
        found: tuple[int, bytes] | None = self._answer[0]
        return found

    def _on_message(self, _channel: object, method: Any, _properties: object, body: bytes) -> None:
        self._answer.append((method.delivery_tag, body))
        self.loop.stop()

    def _on_empty(self, _frame: object) -> None:
        self._answer.append(None)
        self.loop.stop()

    def take(
        self, queues: Sequence[str], each: int, going: Callable[[int], float], patience: float
    ) -> list[tuple[str, int, bytes]]:
        """Up to so many of each queue, unacknowledged: the queue, the delivery tag and the body. By consumers that are
        there for this call alone: while `going` says of the number that has come how many seconds to wait for more.
        `patience`: seconds for each of the broker's answers."""
        found: list[tuple[str, int, bytes]] = []

        def take(queue: str, _channel: object, method: Any, _properties: object, body: bytes) -> None:
            found.append((queue, method.delivery_tag, body))
            self.loop.stop()

        self._lost.clear()
        if queues:
            self._ask(lambda done: self.channel.basic_qos(0, each, callback=done), time.monotonic() + patience)
        tags = [self.channel.basic_consume(queue, partial(take, queue)) for queue in queues]
        while not self._lost and (seconds := going(len(found))) > 0:
            self.run(seconds)
            self._check()
        for tag in tags:
            if tag not in self._lost:
                self._ask(partial(self.channel.basic_cancel, tag), time.monotonic() + patience)
        return found

    def _on_consumer_gone(self, frame: Any) -> None:
        self._lost.add(frame.method.consumer_tag)  # somebody has deleted its queue
        self.loop.stop()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """What is asked for by later() is still done. Never raises."""
        try:
            self.run(0)
            if self.connection.is_open:
                self.connection.close()
                self._until_gone(CLOSING)
        except Exception:
            log.debug("a connection to RabbitMQ was not closed in good order", exc_info=True)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the socket, whatever the broker does. Never raises."""
        if self.pid != os.getpid():
            return  # the parent's: it is still in use there
        try:
            if not self._gone and self.connection is not None:
                self.connection._terminate_stream(Away("given up"))
                self._until_gone(CLOSING)
            self.loop.close()
        except Exception:
            log.debug("a connection to RabbitMQ could not be given up", exc_info=True)

    def _until_gone(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._gone and (left := until - time.monotonic()) > 0:
            self.run(left)


def describe(error: object) -> str:
    """pika's errors often have no text, or hold others in their arguments."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else repr(error)
