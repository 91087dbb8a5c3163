"""The store: the record of jobs, and the operations on it.

Each operation is one atomic step on the store's clock. It returns a value and never raises for a state of a job; it
raises StoreAway (a ConnectionError) when the store cannot be reached. A call that is repeated with the same token
gives the same answer, so that a lost reply can be asked for again. Every method may be called from any thread.

Sizes of time are seconds (float); moments are seconds since the epoch on the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from queuekit.errors import QueuekitError
from queuekit.store.flows import FlowJob, FlowState, Followed, Input, Kin, Left, NewFlow, Started
from queuekit.store.schedules import DueSchedule, ScheduleRow
from queuekit.store.views import Consumer, Listed, Page, Query, RouteCount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.job import JobStatus, Record

__all__ = [
    "MOST_SAID",
    "Beat",
    "Busy",
    "Cancelled",
    "Claim",
    "Claimed",
    "Consumer",
    "Created",
    "Done",
    "DueSchedule",
    "Early",
    "FlowJob",
    "FlowState",
    "Followed",
    "IdTaken",
    "IfEnded",
    "Input",
    "Kept",
    "Kin",
    "Left",
    "Listed",
    "Missing",
    "NewFlow",
    "NewJob",
    "NoLease",
    "Page",
    "Quarantined",
    "Query",
    "RouteCount",
    "ScheduleRow",
    "Started",
    "StepsFull",
    "Store",
    "StoreAway",
    "StoreLost",
    "Suspect",
    "Taken",
    "Unreadable",
    "Unseen",
    "Wire",
    "WireForm",
]


T = TypeVar("T")

MOST_SAID: Final = 500  # characters of a reason why a message is in quarantine


class StoreAway(QueuekitError, ConnectionError):
    """The store did not answer. `sent`: whether the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(slots=True)  # one is made for each job: see Arguments
class NewJob:
    """What create() gets. `at` and `expires` are moments, `delay` seconds from the store's now; `digest` tells equal
    requests under one id. A job that has not started by `expires` never does. `parent`: the job in whose name it is
    started, and the fence of the attempt that does. `elsewhere`: the caller does not publish it, since it is for
    another backend: that one's stewards do, at their next tick.

    While a job with the same `key` holds it, no other is made: until it has ended, and for `key_ttl` seconds from now
    at least, unless it is cancelled. `if_held`: one that has not started is cancelled for this one ("replace"), or is
    put off and asked for what this one asks ("debounce": ask with the message for its id).
    """

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
    parent: tuple[str, str] | None = None
    elsewhere: bool = False
    key: str | None = None
    if_held: Literal["existing", "replace", "debounce"] = "existing"
    key_ttl: float | None = None


class WireForm:
    """The commands that publish first doorbells on the Redis that the store is on, for create_many().

    Args:
        commands: with OWN for what each job has of its own, and DOORBELL in one place, where its pseq and the epoch
            stand in the middle of a text.
    """

    __slots__ = ("commands", "laid_out")

    OWN: Final = "\0"
    DOORBELL: Final = "\1"

    def __init__(self, *commands: tuple[str, ...]) -> None:
        self.commands = commands
        parts = [part for command in commands for part in (str(len(command)), *command)]
        self.laid_out = (str(len(commands)), *parts)


@dataclass(slots=True)  # one is made for each job: see Arguments
class Wire:
    """What publishes a job's first doorbell. `values`: for the places of its form, in order; for DOORBELL three: what
    stands before the pseq, between that and the epoch, and behind it."""

    form: WireForm
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Created:
    """The answer of create(). `created` is False where the id was there; `same` says whether it asked for the same.
    `pseq` is None where nothing is to be published now. `at` is the moment of the answer. `other`: the job that holds
    the key, and is the answer; or, where this one was created, that was cancelled for it. `again`: that job can be put
    off, by a request with its id. `stale`: nothing was recorded, since the parent's attempt has ended."""

    created: bool
    same: bool
    epoch: str
    pseq: int | None
    number: int = 1
    at: float = field(default=0.0, compare=False)
    other: str | None = None
    again: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class IdTaken:
    """The id stands for another request already: none of the jobs was recorded."""

    id: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A sealed message that was taken to be published, with its numbers."""

    message: str
    pseq: int
    number: int
    epoch: str


@dataclass(frozen=True, slots=True)
class IfEnded:
    """What the policy has decided beforehand for an attempt that somebody else ends: its worker died (lost), or it
    was over its hard limit then (time_limit). `delay` None: the job fails. `end` is the attempt's end as JSON text.
    `spare`: it would fail for having been tried so often, and does not yet where others died with it, any of which may
    be to blame.
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
    """This very store has no record of the job: it has let it go, or somebody has made the message up."""


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
    attempts this beat has ended; `cancelled` the processes that run the `cancels`, in their order; `over` the jobs that
    run over their hard limit, each with its process."""

    alive: bool
    processes: tuple[str, ...] = ()
    cancels: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    over: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """What the record has of a step. `number`: of the call in its attempt, None for a step that is found by its key.
    `text`: the result; None where it was begun, and nobody has said how it ended."""

    number: int | None
    attempt: int
    at: float
    text: str | None


@dataclass(frozen=True, slots=True)
class StepsFull:
    """The results of the job's steps would take so many bytes: nothing was kept."""

    size: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that nobody may run, with the reason. `source`: the queue it came from, in the engine's words; empty
    where nobody knows."""

    raw: str
    reason: str
    at: float
    source: str = ""


class Creating:
    """create_many() in steps. It is called as often as there is no answer; what it takes to ask is made once.

    Args:
        ask: create_many() as a whole.
    """

    def __init__(self, ask: Callable[[], list[Created] | IdTaken]) -> None:
        self._ask = ask

    def start(self) -> None:
        """Ask now, so that the next call has but to wait for the answer. Raises nothing: the call does."""

    def drop(self) -> None:
        """Nobody is going to call it."""

    def __call__(self) -> list[Created] | IdTaken:
        return self._ask()


class Store(Protocol):
    """See the module's docstring for what holds for all."""

    def create(self, job: NewJob) -> Created:
        """Record a job: from here on it is accepted. With a moment in the future it is scheduled, else queued, with a
        publication number and an outbox entry."""
        ...

    def create_many(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> list[Created] | IdTaken:
        """create() of each, in order, all in one step: all of them or none. IdTaken where the answer to one without a
        key would not be the `same`. `wires`: of each job, or of none. What has one is published by the same step, where
        it is to be published now, and its answer has no pseq then; what could not be published so has one, as ever."""
        ...

    def creating(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> Creating:
        """create_many() in steps."""
        ...

    def holder(self, key: str) -> str | None:
        """The id of the job that holds the unique key."""
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
        attempt that has ended is not opened a second time by its token: Busy). `timeout` is its hard limit: where its
        process dies later than that it has ended by `on_limit`, and was not lost. `seen` is the retry state that the
        two plans were made for. Never takes over a running attempt. A record of a version that is not read here is
        handed back, for `unknown_grace` seconds in all. `alone`: the process runs nothing else, and may thus run a
        suspect."""
        ...

    def finish(self, id: str, token: str, end: str, result: str | None, proof: str = "") -> bool | Followed:
        """Record success. False: the fence is not ours any more (also for the four below). Followed: jobs that have
        waited for this one are queued by the same step, and the caller is to publish them; their stewards do where it
        does not. `proof`: a signature of the result, kept where another job is to take that."""
        ...

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool | Cancelled:
        """Park the job for `delay` seconds. Cancelled where somebody has asked for that meanwhile."""
        ...

    def fail(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        """Record failure: the job becomes a dead letter."""
        ...

    def release(self, id: str, token: str, end: str, delay: float) -> bool | Cancelled:
        """Hand the job back: the attempt does not count, and the job is published again in `delay` seconds. Cancelled
        where somebody has asked for that meanwhile."""
        ...

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        """Record that the running attempt ended by a cancel."""
        ...

    def steps(self, id: str, token: str | None = None) -> dict[str, Kept] | None:
        """The steps that the job has kept, by name. None: the fence is not ours any more, where one is given."""
        ...

    def begin_step(self, id: str, token: str, step: str, number: int | None) -> bool:
        """Note that the step begins, in place of an earlier such note. False: the fence is not ours any more."""
        ...

    def keep_step(
        self, id: str, token: str, step: str, number: int | None, text: str, limit: int
    ) -> Kept | StepsFull | None:
        """Keep the step's result, and give what is kept: an earlier result stays. None: the fence is not ours any
        more. `limit`: bytes of all of the job's results. They stay until the job has succeeded, or its record goes; a
        revival finds them."""
        ...

    def forget_step(self, id: str, token: str, step: str) -> bool:
        """Take back the note that the step began; a result stays. False: the fence is not ours any more."""
        ...

    def progress(self, id: str, token: str, said: str) -> bool:
        """Note how far the attempt says that it is, as JSON text: [done, total, message]. False: the fence is not ours
        any more."""
        ...

    def beat(
        self,
        worker: str,
        *,
        start: bool = False,
        dead: Sequence[str] = (),
        found: Sequence[str] = (),
        about: str = "",
        first: float = 0.0,
    ) -> Beat:
        """Renew the worker's lease (`start`: open it), and end the attempts of its dead processes: as lost, or as
        time_limit where they are over their hard limit (so do the two below). Of those that were `found` dead nobody
        knows since when: they were lost. `about` is
        what the worker says of itself where it opens the lease: a JSON object, for consumers(). `first`: seconds that
        a lease which is opened lasts at least; the next beat makes it a usual one."""
        ...

    def leave(self, worker: str, *, seen: bool = True) -> list[str]:
        """The worker is gone: end its lease, and its attempts, as lost, or as time_limit where they are over their hard
        limit. Where its death was not `seen`, and who found it dead cannot know since when, as lost. The jobs that
        these were of.

        What is lost here, by a beat or by reap(), makes its job a suspect until an attempt of it ends by itself. Where
        more than one attempt died with the process, or with the worker, a plan that ends the job (and may `spare` it)
        is put off: the attempt is recorded as released, and does not count."""
        ...

    def reap(self, n: int) -> list[tuple[str, str]]:
        """End the attempts of up to n workers whose lease has passed: (id, "lost", or "time_limit" where it was over
        its limit at the last beat). Of a worker that beats none is ended here, however long it takes: what is over its
        limit ends with its process. Lets go of a part of what has expired, too."""
        ...

    def create_flow(self, flow: NewFlow, jobs: Sequence[FlowJob]) -> list[str] | None:
        """Record a part of a workflow: every job waits for its start. Those that wait for others come in an earlier
        part than these, or before them. The ids under which there are other jobs already; None: the attempt in whose
        name this is done has ended, or it took longer than a minute and what was recorded is let go."""
        ...

    def start_flow(self, flow: NewFlow) -> Started:
        """All of it is recorded: those that wait for nobody are queued, or scheduled."""
        ...

    def follow(self, n: int) -> Left:
        """Do what the end, the cancel or the start of jobs means for others, where it was too much for one step: for up
        to n of them. Gives up to n jobs that were cancelled so, each once. Lets go of workflows that nobody has
        recorded whole within a minute."""
        ...

    def cancel_flow(self, id: str, reason: str) -> str:
        """Cancel all jobs of a workflow that have not ended, and what these have started, but not its compensations:
        "cancelled" (now, or by the stewards at their next tick), "ended" or "missing"."""
        ...

    def inputs(self, ids: Sequence[str]) -> list[Input]:
        """What each of these jobs hands on to the one that waits for it, in one conversation."""
        ...

    def members(self, owner: str) -> list[str]:
        """What a job has started, in that order, or with "~" before it the jobs of a workflow. A workflow among them
        has a "~" before its id."""
        ...

    def kin(self, ids: Sequence[str]) -> list[Kin | None]:
        """Each job as a node of its tree, in a few conversations. None: there is no such job."""
        ...

    def flow(self, id: str) -> FlowState | None: ...

    def cancel(self, id: str, reason: str) -> str:
        """ "cancelled" (it had not started), "requested" (it runs), "ended" (too late) or "missing". Reaches what
        the job has started."""
        ...

    def cancel_requested(self, ids: Sequence[str], worker: str = "") -> dict[str, str]:
        """Those of the ids that run and are to be cancelled, with the reason. `worker`: all of them are attempts of
        this one, which makes it one question for however many."""
        ...

    def revive(
        self,
        id: str,
        *,
        message: str | None = None,
        route: str | None = None,
        handed_over: bool = False,
        anew: bool = False,
    ) -> Taken | None:
        """Queue a failed or cancelled job again, with an empty retry state; its attempts are numbered on. None: there
        is no such ended job, or it waits for others (bring those back: that brings back what their end has stopped), or
        another one holds its key. `handed_over`: the caller does not publish it, the route's stewards do at their next
        tick. `anew`: the results of its steps are let go."""
        ...

    def purge(self, route: str, n: int, reason: str) -> list[str]:
        """Cancel up to n jobs of the route that have not started, or wait for a retry: those first in line, then those
        that are parked. Their ids; fewer than n: there were no more."""
        ...

    def mark(self, route: str, depth: int | None) -> None:
        """Note how far the route's consumers are; depth is the number of messages in the broker, None if unknown."""
        ...

    def quarantine(self, raw: str, reason: str, *, source: str = "") -> None:
        """Keep a message that nobody may run, for as long as a dead letter. Where there are too many, or they take too
        many bytes, the oldest go. Of the reason and the source, which may quote the message, MOST_SAID characters are
        kept."""
        ...

    def quarantined(self, n: int, skip: int = 0) -> list[Quarantined]:
        """The newest n of the quarantine, after the newest `skip`."""
        ...

    def put_schedule(self, name: str, text: str, when: str, due: int | None, *, declared: bool) -> str:
        """Record a schedule: "added", "changed", "same", or "taken" where there is one of the name that was declared
        and this one is not, or the other way round. `due`: its next tick, in milliseconds; one that is there keeps
        its own while `when` stays, and stands still while it is paused."""
        ...

    def remove_schedule(self, name: str) -> bool:
        """Let it go. False: there is none."""
        ...

    def pause_schedule(self, name: str, paused: bool, due: int | None = None) -> bool:
        """Let it stand still, or go on with the tick `due`, in milliseconds; one that does not stand still goes on as
        it was. False: there is none."""
        ...

    def due_schedules(self, n: int) -> list[DueSchedule]:
        """Up to n schedules whose tick has come."""
        ...

    def fire(
        self, name: str, text: str, due: int, following: int | None, jobs: Sequence[NewJob], *, once: bool
    ) -> list[str] | None:
        """Make the jobs of a schedule's ticks, and go on to the tick `following`, in one step. They are scheduled for
        the moments of their ticks, which have come: take_due gives them. The ids of those that were made: not one
        whose id is there, nor one whose key is held. None: `due` is not its tick (any more), or `text` not its record;
        somebody else has fired it. `once`: without a following tick it is let go."""
        ...

    def schedules(self, name: str | None = None) -> list[ScheduleRow]:
        """All of them, by their next tick, or the one of that name."""
        ...

    def get(self, id: str) -> Record | None: ...

    def status(self, id: str) -> JobStatus | None:
        """The least that can be asked: for those who wait."""
        ...

    def statuses(self, ids: Sequence[str]) -> list[JobStatus | None]:
        """status() of each, in the order of the ids, in one conversation: for those who wait for many."""
        ...

    def glimpse(self, id: str) -> tuple[str, ...] | None:
        """What is another one whenever the job's status, attempts or progress are: for those who follow it."""
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

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T | StoreAway]:
        """Make several operations in one conversation: their answers, in order. Each is an atomic step by itself, and
        one that fails does not touch the others. Each of `calls` makes one operation of this store, does nothing else,
        and may be called twice."""
        ...

    def now(self) -> float: ...

    def epoch(self) -> str:
        """A name that this store made up when it was empty: another one means that its records are lost."""
        ...

    def close(self) -> None: ...
