"""kombu's Redis transport for a worker: what it cannot read is handed on and not lost, and what it cannot acknowledge
it says. A worker's broker URL names it by the alias `queuekit`.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any

from amqp.basic_message import Message as AmqpContent
from kombu import message as base
from kombu.transport import pyamqp, redis
from redis import RedisError

from queuekit.adapters.celery.gate import COMPRESSION
from queuekit.message import InvalidMessage, as_text, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
__all__ = ["AmqpMessage", "Channel", "Message", "Transport", "read_any_properties", "read_envelope"]

CONTENT_HEADER = 2  # the kind of frame
LONGEST = 500  # characters of a name in an envelope
UNREADABLE = "properties that cannot be read"  # in place of the content type


class Message(redis.Channel.Message):  # type: ignore[misc]  # kombu has no types
    """One that kombu does not decompress, however large it becomes: the gate does. And whose acknowledgement tells of
    its failure. kombu only logs it: the message then holds its place among the prefetched ones for good, and a worker
    that may have one waits for ever on a broker that has long come back."""

    def __init__(self, payload: Any, channel: Any = None, **more: Any) -> None:
        headers, self.compression = _without_compression(payload.get("headers"))
        super().__init__({**payload, "headers": headers}, channel=channel, **more)
        self._raw = payload

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        with _reconnecting():
            self.ack(multiple=multiple)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        with _reconnecting():
            self.reject(requeue=requeue)


class AmqpMessage(pyamqp.Message):  # type: ignore[misc]
    """On RabbitMQ, likewise."""

    def __init__(self, msg: Any, channel: Any = None, **more: Any) -> None:
        headers, self.compression = _without_compression(msg.properties.get("application_headers"))
        msg.properties["application_headers"] = headers
        super().__init__(msg, channel=channel, **more)


def _without_compression(headers: Any) -> tuple[Any, Any]:
    if not isinstance(headers, dict) or not headers.get(COMPRESSION):
        return headers, None
    return {name: value for name, value in headers.items() if name != COMPRESSION}, headers[COMPRESSION]


def read_any_properties(connection: Any) -> None:
    """Have py-amqp deliver a message whose properties it cannot read as one that has none. It would break the
    connection, and find the message again at the head of the queue: for ever."""
    read = connection.on_inbound_frame

    def on_frame(frame: Any) -> Any:
        kind, channel, buffer = frame
        if kind == CONTENT_HEADER:
            try:
                AmqpContent().inbound_header(buffer)
            except Exception:  # text that is no UTF-8, moments of no calendar, types of nobody
                said = UNREADABLE.encode()
                # Class and size of the body; the flag of the content type alone; and that.
                frame = kind, channel, bytes(buffer[:12]) + b"\x80\x00" + bytes([len(said)]) + said
        return read(frame)

    connection.on_inbound_frame = on_frame


def read_envelope(raw: bytes) -> Any:
    """The message in what lies in a list of kombu's, which is as if it had come by the transport. Raises
    InvalidMessage."""
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"what the broker delivered cannot be read as JSON: {error}") from None
    try:
        properties, body = payload["properties"], payload.get("body")
        headers, compression = _without_compression(payload.get("headers"))
        if body and properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        found: Any = AnyMessage(
            body=body,
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=headers,
            properties=properties,
            delivery_info=properties.get("delivery_info"),
            accept={"application/json"},
        )
    except Exception as error:  # whatever is not where it should be
        raise InvalidMessage(f"its envelope cannot be read: {type(error).__name__}: {error}") from None
    found.compression = compression
    return found


class AnyMessage(base.Message):  # type: ignore[misc]
    """One that no channel has brought."""


@contextmanager
def _reconnecting() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConnectionResetError(f"a message could not be acknowledged: {error}") from error


class Channel(redis.Channel):  # type: ignore[misc]
    Message = Message
    _made: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One for as long as there is the pool: kombu makes one for each message that it takes, and for each that it
        acknowledges, which is a fifth of what it does with them."""
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._made is None or self._made.connection_pool is not self.pool:
            self._made = super()._create_client()
        return self._made

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """As it came: without its books, kombu would put together again what it has read of it."""
        if self.ack_emulation:
            super()._restore(message, leftmost)
            return
        info = message.delivery_info
        with self.conn_or_acquire() as client:
            self._do_restore_message(message._raw, info["exchange"], info["routing_key"], client, leftmost)

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.has_read = False
        try:
            return super()._brpop_read(**options)
        except (Empty, RedisError, OSError):
            raise
        except Exception as error:  # whatever JSON, and kombu's reading of it, can raise
            if self.connection.has_read:
                raise
            raw = getattr(error, "doc", "(its text is lost)")
            self.connection.put_aside(raw, f"what the broker delivered cannot be read as JSON: {error}", "")
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel
    # (text, why, queue): set by a worker, since kombu makes transports by their class.
    aside: Callable[[str, str, str], object]
    has_read = False

    def put_aside(self, raw: Any, why: str, queue: str) -> None:
        type(self).aside(shortened(raw) if isinstance(raw, (str, bytes)) else as_text(raw), why, queue)

    def _deliver(self, message: Any, queue: str) -> None:
        self.has_read = True
        channel: Any = next(iter(self.channels or ()), None)
        if channel is None:  # the worker stops, and has closed it: no fault of the message. The record rings again
            return
        try:
            found = channel.Message(message, channel=channel)
            _ = found.headers.items()
            info = found.delivery_info
            for word in found.delivery_tag, info["exchange"], info["routing_key"]:  # kombu keeps its books by them
                if not isinstance(word, str) or len(word) > LONGEST:
                    raise TypeError("its delivery tag, exchange or routing key is none")
        except Exception as error:  # whatever kombu stumbles over in an envelope that it did not write
            self.put_aside(message, f"its envelope cannot be read: {type(error).__name__}: {error}", queue)
        else:
            super()._deliver(message, queue)
