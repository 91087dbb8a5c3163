"""The store: the record of jobs, and the operations on it.

Each operation is one atomic step on the store's clock. It returns a value and never raises for a state of a job; it
raises StoreAway (a ConnectionError) when the store cannot be reached. A call that is repeated with the same token
gives the same answer, so that a lost reply can be asked for again. Every method may be called from any thread.

Sizes of time are seconds (float); moments are seconds since the epoch on the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from queuekit.errors import QueuekitError
from queuekit.store.views import Consumer, Listed, Page, Query, RouteCount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.job import JobStatus, Record

__all__ = [
    "Beat",
    "Busy",
    "Cancelled",
    "Claim",
    "Claimed",
    "Consumer",
    "Created",
    "Done",
    "Early",
    "IfEnded",
    "Listed",
    "Missing",
    "NewJob",
    "NoLease",
    "Page",
    "Quarantined",
    "Query",
    "RouteCount",
    "Store",
    "StoreAway",
    "StoreLost",
    "Suspect",
    "Taken",
    "Unreadable",
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
    `pseq` is None where nothing is to be published now. `at` is the moment of the answer."""

    created: bool
    same: bool
    epoch: str
    pseq: int | None
    number: int = 1
    at: float = field(default=0.0, compare=False)


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
    over its deadline (time_limit). `delay` None: the job fails. `end` is the attempt's end as JSON text. `spare`: it
    would fail for having been tried so often, and does not yet where others died with it, any of which may be to blame.
    """

    delay: float | None
    state: str
    end: str
    reason: str
    spare: bool = False


# ---- the answers of claim() ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempt is ours: run it. `number` counts from 1; `ready` is the moment from which it could have started."""

    message: str
    number: int
    started: float
    created: float
    state: str
    result_ttl: float
    ready: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Unseen:
    """The job has a retry state that the caller's plans were not made for: make them again and claim again."""

    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """Its last attempt was lost, and it is to be claimed by a process that runs nothing else. `waits`: another one runs
    on this worker, whose loss would be blamed on both; the job was parked for a second."""

    message: str
    waits: bool


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The record is of a version that this store does not read. It was handed back as it is, or is a dead letter now
    (`ended`), since nobody read it for unknown_grace."""

    version: int
    ended: bool


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
    """The job was cancelled or has expired: drop the message. As the answer of retry() and release(): it was to be
    cancelled, and has ended so. `now`: it has ended by this very call."""

    reason: str
    now: bool = field(default=False, compare=False)


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


Claim = Claimed | Unseen | Suspect | Unreadable | Busy | Early | Done | Cancelled | Missing | StoreLost | NoLease


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer of beat(). `alive` False: the worker was reaped, and must stop or start anew. `processes` are those
    that run its attempts ("pid:start time"); `cancels` the jobs of it that somebody wants cancelled; `lost` those whose
    attempts this beat has ended."""

    alive: bool
    processes: tuple[str, ...] = ()
    cancels: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


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
        unknown_grace: float = 3600.0,
        alone: bool = True,
    ) -> Claim:
        """Ask for the attempt. `token` is its fence: new for each attempt, kept where the same claim is asked again (an
        attempt that has ended is not opened a second time by its token: Busy). `timeout` sets the deadline at which
        reap() ends it; `seen` is the retry state that the two plans were made for. Never takes over a running
        attempt. A record of a version that is not read here is handed back, for `unknown_grace` seconds in all.
        `alone`: the process runs nothing else, and may thus run a suspect."""
        ...

    def finish(self, id: str, token: str, end: str, result: str | None) -> bool:
        """Record success. False: the fence is not ours any more (also for the four below)."""
        ...

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool | Cancelled:
        """Park the job for `delay` seconds. Cancelled where somebody has asked for that meanwhile."""
        ...

    def fail(self, id: str, token: str, end: str, reason: str) -> bool:
        """Record failure: the job becomes a dead letter."""
        ...

    def release(self, id: str, token: str, end: str, delay: float) -> bool | Cancelled:
        """Hand the job back: the attempt does not count, and the job is published again in `delay` seconds. Cancelled
        where somebody has asked for that meanwhile."""
        ...

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool:
        """Record that the running attempt ended by a cancel."""
        ...

    def beat(
        self, worker: str, *, start: bool = False, dead: Sequence[str] = (), about: str = "", first: float = 0.0
    ) -> Beat:
        """Renew the worker's lease (`start`: open it), and end as lost the attempts of its dead processes. `about` is
        what the worker says of itself where it opens the lease: a JSON object, for consumers(). `first`: seconds that
        a lease which is opened lasts at least; the next beat makes it a usual one."""
        ...

    def leave(self, worker: str) -> list[str]:
        """The worker is gone: end its lease, and its attempts as lost. The jobs that these were of.

        What is lost here, by a beat or by reap(), makes its job a suspect until an attempt of it ends by itself. Where
        more than one attempt died with the process, or with the worker, a plan that ends the job (and may `spare` it)
        is put off: the attempt is recorded as released, and does not count."""
        ...

    def reap(self, n: int) -> list[tuple[str, str]]:
        """End up to n attempts whose worker's lease or whose deadline has passed: (id, "lost" or "time_limit").
        Lets go of a part of what has expired, too."""
        ...

    def cancel(self, id: str, reason: str) -> str:
        """ "cancelled" (it had not started), "requested" (it runs), "ended" (too late) or "missing"."""
        ...

    def cancel_requested(self, ids: Sequence[str]) -> dict[str, str]:
        """Those of the ids that run and are to be cancelled, with the reason."""
        ...

    def revive(
        self, id: str, *, message: str | None = None, route: str | None = None, handed_over: bool = False
    ) -> Taken | None:
        """Queue a failed or cancelled job again, with an empty retry state; its attempts are numbered on. None: there
        is no such ended job. `handed_over`: the caller does not publish it, the route's stewards do at their next
        tick."""
        ...

    def purge(self, route: str, n: int, reason: str) -> list[str]:
        """Cancel up to n jobs of the route that have not started, or wait for a retry: those first in line, then those
        that are parked. Their ids; fewer than n: there were no more."""
        ...

    def mark(self, route: str, depth: int | None) -> None:
        """Note how far the route's consumers are; depth is the number of messages in the broker, None if unknown."""
        ...

    def quarantine(self, raw: str, reason: str) -> None:
        """Keep a message that nobody may run, for as long as a dead letter. Where there are too many, or they take too
        many bytes, the oldest go."""
        ...

    def quarantined(self, n: int, skip: int = 0) -> list[Quarantined]:
        """The newest n of the quarantine, after the newest `skip`."""
        ...

    def get(self, id: str) -> Record | None: ...

    def status(self, id: str) -> JobStatus | None:
        """The least that can be asked: for those who wait."""
        ...

    def statuses(self, ids: Sequence[str]) -> list[JobStatus | None]:
        """status() of each, in the order of the ids, in one conversation: for those who wait for many."""
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

    def dead_count(self) -> int:
        """How many dead letters there are."""
        ...

    def jobs(self, query: Query, n: int, cursor: str | None = None) -> Page:
        """Up to n jobs of a list, from its start or after a cursor. Looks at 200 jobs and 4 MiB at most, however many
        there are. Ended jobs are listed for the retention, also where a record is kept longer for its result."""
        ...

    def counts(self) -> list[RouteCount]:
        """How many jobs there are on each route that was ever recorded for, by the route's name."""
        ...

    def consumers(self) -> list[Consumer]:
        """The workers that hold a lease, by name."""
        ...

    def now(self) -> float: ...

    def epoch(self) -> str:
        """A name that this store made up when it was empty: another one means that its records are lost."""
        ...

    def close(self) -> None: ...
