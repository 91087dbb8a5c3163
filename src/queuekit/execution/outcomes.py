"""The values of one attempt: what an engine delivered, what was claimed, and what came of it."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuekit.message import Doorbell, Message
    from queuekit.retry import RetryState
    from queuekit.task import Task

__all__ = [
    "Delivery", "Dropped", "Ended", "Failed", "Held", "Outcome", "Released", "Retried", "Stale", "Succeeded",
    "Unrecorded",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an engine delivered: the doorbell, and the arguments as the broker carried them. `source`: the queue that it
    came from, in the engine's words."""

    bell: Doorbell
    args: list[Any]
    kwargs: dict[str, Any]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed attempt: nobody else runs this job now. `token` is its fence. `apart`: it is a suspect's, and is
    claimed by the process that run() starts for it."""

    task: Task[..., Any, Any] | None
    message: Message
    token: str
    number: int
    state: RetryState
    started: float
    created: float
    clock: float  # time.monotonic() at the claim
    ready: float = 0.0  # from when it could have started
    apart: Delivery | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context, compare=False, repr=False)


# ---- outcomes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing was run: the message is to be acknowledged and forgotten."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """The store stayed away until the worker had to stop: do not acknowledge, if the engine leaves a choice."""

    reason: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """`text`: the result as JSON, as far as the engine and its monitors may be shown it."""

    value: Any
    text: str | None


@dataclass(frozen=True, slots=True)
class Retried:
    """Parked: published again in `delay` seconds."""

    delay: float
    reason: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Failed:
    """A dead letter from here on."""

    reason: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Ended:
    """The job was cancelled while it ran."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """Handed back, the attempt not counted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stale:
    """Somebody else had ended the attempt: nothing of it was recorded."""


Outcome = Dropped | Unrecorded | Succeeded | Retried | Failed | Ended | Released | Stale
