"""kombu's Redis transport for a worker: what it cannot read is handed on and not lost, and what it cannot acknowledge
it says. A worker's broker URL names it by the alias `queuekit`.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.transport import redis
from redis import RedisError

from queuekit.adapters.celery.gate import RAW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
__all__ = ["Channel", "Message", "Transport"]


class Message(redis.Channel.Message):  # type: ignore[misc]  # kombu has no types
    """One whose acknowledgement tells of its failure. kombu only logs it: the message then holds its place among the
    prefetched ones for good, and a worker that may have one waits for ever on a broker that has long come back."""

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        with _reconnecting():
            self.ack(multiple=multiple)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        with _reconnecting():
            self.reject(requeue=requeue)


@contextmanager
def _reconnecting() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConnectionResetError(f"a message could not be acknowledged: {error}") from error


class Channel(redis.Channel):  # type: ignore[misc]
    Message = Message

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
            self.connection.put_aside(raw, f"what the broker delivered cannot be read as JSON: {error}")
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel
    aside: Callable[[str, str], object]  # (text, why): set by a worker, since kombu makes transports by their class
    has_read = False

    def put_aside(self, raw: Any, why: str) -> None:
        type(self).aside((raw if isinstance(raw, str) else json.dumps(raw, default=repr))[:RAW], why)

    def _deliver(self, message: Any, queue: str) -> None:
        self.has_read = True
        channel: Any = next(iter(self.channels or ()), None)
        if channel is None:  # the worker stops, and has closed it: no fault of the message. The record rings again
            return
        try:
            found = channel.Message(message, channel=channel)
            _ = found.delivery_info["exchange"], found.delivery_info["routing_key"], found.headers.items()
        except Exception as error:  # whatever kombu stumbles over in an envelope that it did not write
            self.put_aside(message, f"its envelope cannot be read: {type(error).__name__}: {error}")
        else:
            super()._deliver(message, queue)
