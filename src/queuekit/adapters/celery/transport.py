"""kombu's Redis transport for a worker: what it cannot read is handed on and not lost, and what it cannot acknowledge
it says. A worker's broker URL names it by the alias `queuekit`.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Final

from kombu.transport import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.worker import Worker

__all__ = ["RAW", "Channel", "Message", "Transport"]

RAW: Final = 100_000  # characters of a message that are kept in the quarantine


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
        try:
            return super()._brpop_read(**options)
        except UnicodeDecodeError as error:
            raw: Any = error.object
        except JSONDecodeError as error:
            raw = error.doc
        self.connection.put_aside(raw, "what the broker delivered is not JSON")
        return True


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel
    worker: Worker  # set by run(): kombu makes transports by their class

    def put_aside(self, raw: Any, why: str) -> None:
        if isinstance(raw, bytes):
            raw = raw.decode("utf-8", "backslashreplace")
        self.worker.quarantine((raw if isinstance(raw, str) else json.dumps(raw, default=repr))[:RAW], why)

    def _deliver(self, message: Any, queue: str) -> None:
        why = _unreadable(message)
        if why:
            self.put_aside(message, why)
        else:
            super()._deliver(message, queue)


def _unreadable(message: Any) -> str:
    """What kombu's envelope lacks: it would raise an error for it, and the worker reconnect."""
    if not isinstance(message, dict):
        return f"an envelope is a JSON object, not {type(message).__name__}"
    properties = message.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "its envelope has no delivery tag"
    if not isinstance(properties.get("delivery_info"), dict):
        return "its envelope has no delivery_info"
    if not isinstance(message.get("body", ""), str) or not isinstance(message.get("headers", {}), dict):
        return "its envelope has no body or no headers"
    return ""
