"""The results of other jobs, put where a job's arguments have a place for them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queuekit.errors import PayloadError
from queuekit.job import JobStatus
from queuekit.message import InvalidMessage

if TYPE_CHECKING:
    from queuekit.message import Message
    from queuekit.settings import Settings
    from queuekit.store import Input, Store

__all__ = ["InputError", "fill"]


class InputError(PayloadError):
    """What a step before this one has handed on is not there, or does not fit: another worker could do no better."""


def fill(message: Message, args: list[Any], kwargs: dict[str, Any], store: Store, settings: Settings) -> None:
    """Put the results in, each read once, however often it is used.

    Raises:
        InputError: one has expired, or was not kept.
        PayloadError: one is signed or encoded by a key that this worker does not have.
        StoreAway: nothing was put in.
    """
    inputs = message.inputs or []
    tasks = {id: task for _, id, task in inputs}
    found = dict(zip(tasks, store.inputs(list(tasks)), strict=True))
    values = {id: _value(message, id, task, found[id], settings) for id, task in tasks.items()}
    for path, id, _ in inputs:
        place: Any = args if isinstance(path[0], int) else kwargs
        for part in path[:-1]:
            place = place[part]
        # Two places of one result get one each: the task may change what it is given.
        text = values[id]
        place[path[-1]] = None if text is None else json.loads(text)


def _value(message: Message, id: str, task: str, found: Input, settings: Settings) -> str | None:
    """Its JSON text; None for a step without which this one goes on."""
    if found.status is None or (found.status is JobStatus.succeeded and found.text is None):
        raise InputError(f"the result of job {id}, which is to be handed on, has expired or was not kept")
    if found.status is not JobStatus.succeeded or found.text is None:
        return None
    try:
        if settings.signer is not None:
            settings.signer.check_result(id, found.text, found.proof)
    except InvalidMessage as error:
        raise PayloadError(f"the result of job {id}, which is to be handed on: {error}") from None
    return replace(message, id=id, task=task).decode_result(settings.payload_codec, found.text)
