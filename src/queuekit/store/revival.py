"""Bring a job back by hand: the same job, on any backend, with the arguments that it had or with others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queuekit.errors import QueuekitError
from queuekit.job import JobStatus
from queuekit.message import SIGNATURE, InvalidMessage, Message, moved

if TYPE_CHECKING:
    from queuekit.job import Record
    from queuekit.signing import Signer
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
    signer: Signer | None,
    *,
    backend: str | None = None,
    arguments: tuple[list[Any], dict[str, Any]] | None = None,
    handed_over: bool = False,
    anew: bool = False,
) -> Revived:
    """Queue a failed or cancelled job again. Its attempts are numbered on, and its retries are counted anew.

    Args:
        signer: that of the settings. What it takes it signs anew, with the first key.
        backend: the engine that is to run it; None: the one that it was recorded for.
        arguments: what it is to be called with from now on, as JSON values; None: what it was called with.
        handed_over: the stewards of that backend publish it, at their next tick. Otherwise the caller does, and they
            do where it fails to.

        anew: it does not go on from the steps that it has finished. It never does with other arguments.

    Raises:
        QueuekitError: the job has not ended, or has succeeded; another one holds its key; its arguments cannot be
            replaced; or its signature is of none of the keys, or would have to be made anew and there is no key.
    """
    text = record.message if backend is None else moved(record.message, backend)
    if arguments is not None:
        text = with_arguments(text, *arguments)
    text = _signed(record, text, signer)
    message = Message.to_publish(text)
    anew = anew or arguments is not None
    taken = store.revive(record.id, message=text, route=message.route, handed_over=handed_over, anew=anew)
    if taken is None:
        now = store.get(record.id) or record
        status, other = now.status, None if record.key is None else store.holder(record.key)
        if now.waits and status in {JobStatus.failed, JobStatus.cancelled}:
            raise QueuekitError(f"job {record.id} cannot go on: {_why(now)}")
        if record.key is not None and other not in {None, record.id} and status in {"failed", "cancelled"}:
            key = record.key.partition(" ")[2]
            raise QueuekitError(
                f"job {record.id} is not revived: its key {key!r} is held by job {other}, until that ends"
            )
        raise QueuekitError(f"job {record.id} is {status}: only a job that failed or was cancelled can be revived")
    return Revived(message, taken)


def _why(record: Record) -> str:
    if record.undoes:
        return "it would undo what has not been stopped"
    first = next((id for id in record.waits if id != "^"), None)
    more = f" and {len(record.waits) - 1} more" if len(record.waits) > 1 else ""
    if first is None:
        return "its workflow was never started"
    return f"it waits for job {first}{more}. Once these are retried, it goes on after them"


def _signed(record: Record, text: str, signer: Signer | None) -> str:
    if signer is None:
        if text != record.message and SIGNATURE in json.loads(record.message):
            raise QueuekitError(
                f"job {record.id} is signed, and cannot be changed without the key: set signing_key as for the workers"
            )
        return text
    try:
        signer.check(record.message)
    except InvalidMessage as error:
        raise QueuekitError(
            f"job {record.id} is not revived: {error}. If it is of a key that was taken out, add that to signing_key "
            "for this once; if it is from before there was a key, set unsigned='accept' for this once"
        ) from None
    data = json.loads(text)
    if data.pop(SIGNATURE, None) is not None:
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return signer.sign(text)


def with_arguments(text: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """The sealed message with other arguments. Raises QueuekitError where they are encoded by a codec."""
    if Message.open(text).payload is not None:
        raise QueuekitError("its arguments are encoded by a payload codec, so that they cannot be replaced by hand")
    data = {**json.loads(text), "args": args, "kwargs": kwargs}
    data.pop(SIGNATURE, None)
    data.pop("inputs", None)
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
