"""Bring a job back by hand: the same job, on any backend, with the arguments that it had or with others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queuekit.errors import QueuekitError
from queuekit.message import Message, moved

if TYPE_CHECKING:
    from queuekit.job import Record
    from queuekit.store import Store, Taken

__all__ = ["Revived", "revive", "with_arguments"]


@dataclass(frozen=True, slots=True)
class Revived:
    """The message that is to be published, and its numbers."""

    message: Message
    taken: Taken


def revive(
    store: Store,
    record: Record,
    *,
    backend: str | None = None,
    arguments: tuple[list[Any], dict[str, Any]] | None = None,
    handed_over: bool = False,
) -> Revived:
    """Queue a failed or cancelled job again. Its attempts are numbered on, and its retries are counted anew.

    Args:
        backend: the engine that is to run it; None: the one that it was recorded for.
        arguments: what it is to be called with from now on, as JSON values; None: what it was called with.
        handed_over: the stewards of that backend publish it, at their next tick. Otherwise the caller does, and they
            do where it fails to.

    Raises:
        QueuekitError: the job has not ended, or has succeeded; or its arguments cannot be replaced.
    """
    text = record.message if backend is None else moved(record.message, backend)
    if arguments is not None:
        text = with_arguments(text, *arguments)
    message = Message.to_publish(text)
    taken = store.revive(record.id, message=text, route=message.route, handed_over=handed_over)
    if taken is None:
        status = store.status(record.id) or record.status
        raise QueuekitError(f"job {record.id} is {status}: only a job that failed or was cancelled can be revived")
    return Revived(message, taken)


def with_arguments(text: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """The sealed message with other arguments. Raises QueuekitError where they are encoded by a codec."""
    if Message.open(text).payload is not None:
        raise QueuekitError("its arguments are encoded by a payload codec, so that they cannot be replaced by hand")
    data = {**json.loads(text), "args": args, "kwargs": kwargs}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
