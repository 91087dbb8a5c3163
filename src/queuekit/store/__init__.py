"""The store: the record of jobs, and the operations on it.

Each operation is one atomic step on the store's clock. It returns a value and never raises for a state of a job; it
raises StoreAway (a ConnectionError) when the store cannot be reached. A call that is repeated with the same token
gives the same answer, so that a lost reply can be asked for again. Every method may be called from any thread.

Sizes of time are seconds (float); moments are seconds since the epoch on the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from queuekit.errors import QueuekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.job import JobStatus, Record

__all__ = [
    "Beat",
    "Busy",
    "Cancelled",
    "Claim",
    "Claimed",
    "Created",
    "Done",
    "Early",
    "IfEnded",
    "Missing",
    "NewJob",
    "NoLease",
    "Quarantined",
    "Store",
    "StoreAway",
    "StoreLost",
    "Taken",
    "Unseen",
]


class StoreAway(QueuekitError, ConnectionError):
    """The store did not answer. `sent`: whether the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class NewJob:
    """What create() gets. `at` and `expires` are moments, `delay` seconds from the store's now; `digest` tells equal
    requests under one id. A job that has not started by `expires` never does."""

    id: str
    message: str
    digest: str
    route: str
    token: str
    result_ttl: float
    at: float | None = None
    delay: float | None = None
    expires: float | None = None
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The answer of create(). `created` is False where the id was there; `same` says whether it asked for the same.
    `pseq` is None where nothing is to be published now."""

    created: bool
    same: bool
    epoch: str
    pseq: int | None
    number: int = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """A sealed message that was taken to be published, with its numbers."""

    message: str
    pseq: int
    number: int
    epoch: str


@dataclass(frozen=True, slots=True)
class IfEnded:
    """What the policy has decided beforehand for an attempt that somebody else ends: its worker died (lost), or it ran
    over its deadline (time_limit). `delay` None: the job fails. `end` is the attempt's end as JSON text."""

    delay: float | None
    state: str
    end: str
    reason: str


# ---- the answers of claim() ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempt is ours: run it. `number` counts from 1; `deadline` is a moment or None."""

    message: str
    number: int
    started: float
    created: float
    state: str
    result_ttl: float


@dataclass(frozen=True, slots=True)
class Unseen:
    """The job has a retry state that the caller's plans were not made for: make them again and claim again."""

    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Busy:
    """An attempt is running: drop the message."""


@dataclass(frozen=True, slots=True)
class Early:
    """The job's time has not come: drop the message, it will be published when due."""

    at: float


@dataclass(frozen=True, slots=True)
class Done:
    """The job has ended: drop the message."""

    status: JobStatus


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled or has expired: drop the message."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """This very store knew the job and has let it go: drop the message."""


@dataclass(frozen=True, slots=True)
class StoreLost:
    """The message comes from another epoch of the store, which lost its records: adopt it or put it in quarantine."""

    epoch: str


@dataclass(frozen=True, slots=True)
class NoLease:
    """The worker has no living lease: beat first, then claim again."""


Claim = Claimed | Unseen | Busy | Early | Done | Cancelled | Missing | StoreLost | NoLease


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer of beat(). `alive` False: the worker was reaped, and must stop or start anew. `processes` are those
    that run its attempts ("pid:start time"); `cancels` the jobs of it that somebody wants cancelled."""

    alive: bool
    processes: tuple[str, ...] = ()
    cancels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that nobody may run, with the reason."""

    raw: str
    reason: str
    at: float


class Store(Protocol):
    """See the module's docstring for what holds for all."""

    def create(self, job: NewJob) -> Created:
        """Record a job: from here on it is accepted. With a moment in the future it is scheduled, else queued, with a
        publication number and an outbox entry."""
        ...

    def take_due(self, route: str, n: int) -> list[Taken]:
        """Take up to n jobs of the route whose time has come: they are queued, with a new pseq, and to be published."""
        ...

    def take_lost(self, route: str, n: int) -> list[Taken]:
        """Take up to n queued jobs that were lost on the way: passed by the route's mark of one lease ago, or in the
        outbox for too long. They get a new pseq, and are to be published again."""
        ...

    def published(self, route: str, publications: Sequence[tuple[str, int]]) -> None:
        """The broker has these (id, pseq): clear the outbox."""
        ...

    def claim(
        self,
        *,
        id: str,
        epoch: str,
        pseq: int,
        route: str,
        worker: str,
        process: str,
        token: str,
        timeout: float | None,
        seen: str,
        on_lost: IfEnded,
        on_limit: IfEnded,
    ) -> Claim:
        """Ask for the attempt. `token` is its fence: new for each attempt, kept where the same claim is asked again (an
        attempt that has ended is not opened a second time by its token: Busy). `timeout` sets the deadline at which
        reap() ends it; `seen` is the retry state that the two plans were made for. Never takes over a running
        attempt."""
        ...

    def finish(self, id: str, token: str, end: str, result: str | None) -> bool:
        """Record success. False: the fence is not ours any more (also for the four below)."""
        ...

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool:
        """Park the job for `delay` seconds."""
        ...

    def fail(self, id: str, token: str, end: str, reason: str) -> bool:
        """Record failure: the job becomes a dead letter."""
        ...

    def release(self, id: str, token: str, end: str, delay: float) -> bool:
        """Hand the job back: the attempt does not count, and the job is published again in `delay` seconds."""
        ...

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool:
        """Record that the running attempt ended by a cancel."""
        ...

    def beat(self, worker: str, *, start: bool = False, dead: Sequence[str] = ()) -> Beat:
        """Renew the worker's lease (`start`: open it), and end as lost the attempts of its dead processes."""
        ...

    def leave(self, worker: str) -> int:
        """The worker is gone: end its lease, and its attempts as lost. How many there were."""
        ...

    def reap(self, n: int) -> list[tuple[str, str]]:
        """End up to n attempts whose worker's lease or whose deadline has passed: (id, "lost" or "time_limit")."""
        ...

    def cancel(self, id: str, reason: str) -> str:
        """ "cancelled" (it had not started), "requested" (it runs), "ended" (too late) or "missing"."""
        ...

    def cancel_requested(self, ids: Sequence[str]) -> dict[str, str]:
        """Those of the ids that run and are to be cancelled, with the reason."""
        ...

    def revive(self, id: str, *, message: str | None = None, route: str | None = None) -> Taken | None:
        """Queue a failed or cancelled job again, with an empty retry state; its attempts are numbered on. None: there
        is no such ended job."""
        ...

    def mark(self, route: str, depth: int | None) -> None:
        """Note how far the route's consumers are; depth is the number of messages in the broker, None if unknown."""
        ...

    def quarantine(self, raw: str, reason: str) -> None:
        """Keep a message that nobody may run."""
        ...

    def quarantined(self, n: int) -> list[Quarantined]:
        """The newest n of the quarantine."""
        ...

    def get(self, id: str) -> Record | None: ...

    def status(self, id: str) -> JobStatus | None:
        """The least that can be asked: for those who wait."""
        ...

    def result(self, id: str) -> str | None:
        """The result's JSON text; None where it has none, or it has expired."""
        ...

    def routes(self, backend: str) -> list[str]:
        """The routes of the backend that jobs were ever recorded for."""
        ...

    def dead(self, n: int) -> list[str]:
        """The ids of the newest n failed jobs."""
        ...

    def now(self) -> float: ...

    def epoch(self) -> str:
        """A name that this store made up when it was empty: another one means that its records are lost."""
        ...

    def close(self) -> None: ...
