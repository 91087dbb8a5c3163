"""The store in this process's memory, for the memory backend and for tests. The same operations, one lock, a clock
that is handed in.

It is the second writing of the same state machine: tests run one sequence of operations against both and compare.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from queuekit.job import JOINED_VERSION, RECORD_VERSION, TERMINAL, JobStatus, Record
from queuekit.store import (
    MOST_SAID,
    Beat,
    Busy,
    Cancelled,
    Claim,
    Claimed,
    Created,
    Creating,
    Done,
    DueSchedule,
    Early,
    Followed,
    IdTaken,
    IfEnded,
    Kept,
    Missing,
    NewJob,
    NoLease,
    Quarantined,
    ScheduleRow,
    StepsFull,
    StoreAway,
    StoreLost,
    Suspect,
    Taken,
    Unseen,
    Wire,
)
from queuekit.store.ends import parse_end, spared
from queuekit.store.joined import Joined, Ties
from queuekit.store.views import LOOK, WAITING, Consumer, Listed, Page, RouteCount, read_cursor, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.store.views import Query

__all__ = ["MemoryStore"]

T = TypeVar("T")

OUTBOX = 5_000
DAY = 86_400_000


@dataclass
class _Job:
    message: str
    digest: str
    route: str
    token: str
    result_ttl: int
    created: int
    expires: int | None
    status: JobStatus = JobStatus.scheduled
    attempt: int = 0
    publications: int = 0
    pseq: int = 0
    state: str = ""
    fence: str | None = None
    ended: str = ""
    worker: str = ""
    process: str = ""
    claim: int = 0  # counts the claims
    started: int = 0
    due: int | None = None
    outbox: int | None = None
    on_the_way: bool = False  # a doorbell is out
    limit_at: int | None = None  # the end of its hard limit
    ready: int | None = None  # from when it may run; None: since it was created
    plans: dict[str, IfEnded] = field(default_factory=dict)
    runs: list[tuple[dict[str, Any], dict[str, Any] | None]] = field(default_factory=list)
    cancel: str | None = None
    suspect: int = 0
    finished: int | None = None
    reason: str = ""
    gone_at: int | None = None
    result: str | None = None
    result_gone_at: int | None = 0  # None: while another job is to take it
    progress: str = ""
    steps: dict[str, Kept] = field(default_factory=dict)
    step_bytes: int = 0
    ties: Ties = field(default_factory=Ties)
    key: str | None = None
    key_until: int | None = None
    replaced: str | None = None
    put_off: str | None = None  # the token of the last request that put it off


@dataclass
class _Schedule:
    text: str
    when: str
    due: int | None
    declared: bool
    paused: bool = False
    fired: int | None = None
    job: str = ""


@dataclass
class _Route:
    pseq: int = 0
    mark: int = 0
    marks: list[tuple[int, int]] = field(default_factory=list)  # (since, mark), oldest first


class MemoryStore(Joined):
    """See queuekit.store.Store. `clock` gives milliseconds since the epoch."""

    def __init__(
        self,
        *,
        lease: float = 30.0,
        retention: float = 7 * 86400.0,
        dead_ttl: float = 30 * 86400.0,
        quarantine_limit: int = 10_000,
        quarantine_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self._lease, self._retention, self._dead_ttl = _ms(lease), _ms(retention), _ms(dead_ttl)
        self._clock = clock or (lambda: time.time() * 1000)
        self._lock = threading.RLock()
        self._epoch = secrets.token_hex(8)
        self._jobs: dict[str, _Job] = {}
        self._keys: dict[str, str] = {}
        self._schedules: dict[str, _Schedule] = {}
        self._routes: defaultdict[str, _Route] = defaultdict(_Route)
        self._recorded: set[str] = set()  # the routes that a job was recorded for
        self._workers: dict[str, int] = {}
        self._consumers: dict[str, tuple[int, str]] = {}  # since when, and what it says of itself
        self._quarantine: list[tuple[int, Quarantined]] = []  # with the bytes that it takes in Redis
        self._quarantine_limit, self._quarantine_bytes = quarantine_limit, quarantine_bytes
        self._claims = 0
        self._tick: int | None = None
        self._suspended = 0

    # ---- the clock and what time does by itself ---------------------------------------------------------------------

    @property
    def _now(self) -> int:
        return int(self._clock())

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T | StoreAway]:
        return [call() for call in calls]

    def now(self) -> float:
        return self._clock() / 1000

    def epoch(self) -> str:
        return self._epoch

    def close(self) -> None:
        pass

    def _find(self, id: str) -> _Job | None:
        job = self._jobs.get(id)
        if job is not None and job.gone_at is not None and job.gone_at <= self._now:
            del self._jobs[id]
            return None
        if job is not None and job.result_gone_at is not None and job.result_gone_at <= self._now:
            job.result = None
        return job

    def _on(self, route: str) -> list[tuple[str, _Job]]:
        return [(id, job) for id, job in self._jobs.items() if job.route == route]

    # ---- steps that operations share --------------------------------------------------------------------------------

    def _send(self, job: _Job) -> None:
        route = self._routes[job.route]
        route.pseq += 1
        job.publications += 1
        job.pseq = route.pseq
        job.status = JobStatus.queued
        job.due = None
        job.on_the_way = True
        job.outbox = self._now + OUTBOX

    def _park(self, job: _Job, at: int, status: JobStatus) -> None:
        job.status, job.due, job.ready = status, at, at

    @staticmethod
    def _off_route(job: _Job) -> None:
        job.due = job.outbox = None
        job.on_the_way = False

    def _taken(self, job: _Job) -> Taken:
        return Taken(job.message, job.pseq, job.publications, self._epoch)

    def _end_or_cancel(self, id: str, job: _Job, token: str, op: str, text: str) -> bool | Cancelled:
        """True: the attempt is ended, and the job goes on."""
        if job.cancel is None:
            self._end_attempt(job, token, op, text)
            return True
        self._end_attempt(job, token, f"{op}-cancelled", text)
        self._terminal(id, JobStatus.cancelled, job.cancel)
        return Cancelled(job.cancel)

    def _end_attempt(self, job: _Job, token: str, op: str, text: str) -> None:
        self._end_run(job, token, op, parse_end(text))

    def _end_run(self, job: _Job, token: str, op: str, end: dict[str, Any]) -> None:
        job.runs[-1] = (job.runs[-1][0], {"at": self._now / 1000, **end})
        job.ended = f"{token}:{op}"
        job.fence = None
        job.limit_at = None

    def _terminal(self, id: str, status: JobStatus, reason: str) -> None:
        job = self._jobs[id]
        self._off_route(job)
        job.status, job.reason, job.finished, job.suspect = status, reason, self._now, 0
        keep = self._retention
        if status is JobStatus.failed or job.ties.stopped:  # as long as what has stopped it can be brought back
            keep = self._dead_ttl
        elif status is JobStatus.succeeded:
            keep = max(keep, job.result_ttl + DAY)
            job.steps = {}
        if job.key is not None and self._jobs.get(self._keys.get(job.key, "")) is job:
            left = 0 if status is JobStatus.cancelled or job.key_until is None else job.key_until - self._now
            if left > 0:
                keep = max(keep, left)
            else:
                del self._keys[job.key]
        job.gone_at = self._now + keep
        self._joined_end(id, job, keep)

    def _settle(self, id: str, job: _Job, company: int | None, at: int) -> str:
        """`company`: how many other attempts died with it. `at`: when its process was last known to live. "lost", or
        "time_limit" where it was over its limit then."""
        plan = "lost"
        if job.limit_at is not None and job.limit_at <= at:
            plan, company = "limit", None
        then, end, level = job.plans[plan], parse_end(job.plans[plan].end), job.suspect
        spare = bool(company) and level < 2 and job.cancel is None and then.delay is None and then.spare
        if company:
            end = spared(company) if spare else {**end, "company": company}
        self._end_run(job, job.fence or "", plan, end)
        if company is not None:
            job.suspect = min(level + 1, 2) if company else max(level, 1)
        if job.cancel is not None:
            self._terminal(id, JobStatus.cancelled, job.cancel)
        elif spare:
            job.attempt -= 1
            self._park(job, self._now, JobStatus.queued)
        elif then.delay is None:
            self._terminal(id, JobStatus.failed, then.reason)
        else:
            job.state = then.state
            self._park(job, self._now + _ms(then.delay), JobStatus.retrying)
        return "time_limit" if plan == "limit" else "lost"

    def _running_on(self, worker: str) -> list[tuple[str, _Job]]:
        """In the order in which it has claimed them."""
        found = [
            (id, job) for id, job in self._jobs.items() if job.status is JobStatus.running and job.worker == worker
        ]
        return sorted(found, key=lambda pair: pair[1].claim)

    # ---- enqueue and publish ----------------------------------------------------------------------------------------

    def create(self, job: NewJob) -> Created:
        with self._lock:
            if self._not_its_parent(job.parent):
                return Created(False, True, self._epoch, None, at=self._now / 1000, stale=True)
            old = self._find(job.id)
            if old is not None:
                return self._create_again(job, old)
            made = self._make(job)
            if made.created and job.parent is not None:
                ties = self._jobs[job.id].ties
                ties.parent, ties.root = job.parent[0], self._adopt(job.parent[0], job.id)
            return made

    def _make(self, job: NewJob, *, parked: bool = False) -> Created:
        now, other = self._now, None if job.key is None else self.holder(job.key)
        if other is not None:
            waits = not self._jobs[other].runs and self._jobs[other].finished is None
            if not waits or job.if_held != "replace":
                again = waits and job.if_held == "debounce"
                return Created(False, True, self._epoch, None, at=now / 1000, other=other, again=again)
            self._terminal(other, JobStatus.cancelled, f"replaced by job {job.id}")
        new = _Job(job.message, job.digest, job.route, job.token, 0, now, None)
        self._jobs[job.id] = new
        if job.key is not None:
            new.key, new.replaced = job.key, other
            self._keys[job.key] = job.id
        pseq = self._ask(new, job, parked=parked)
        return Created(True, True, self._epoch, pseq, new.publications or 1, now / 1000, other)

    def create_many(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> list[Created] | IdTaken:
        assert not any(wires), "no broker is in this process's memory"
        asked: dict[str, str] = {}
        with self._lock:
            for job in jobs:
                known = self._jobs.get(job.id)
                digest = asked.setdefault(job.id, job.digest if known is None else known.digest)
                if digest != job.digest and job.key is None:
                    return IdTaken(job.id)
            return [self.create(job) for job in jobs]

    def creating(self, jobs: Sequence[NewJob], wires: Sequence[Wire | None] = ()) -> Creating:
        return Creating(lambda: self.create_many(jobs, wires))

    def _create_again(self, job: NewJob, old: _Job) -> Created:
        mine, pseq = old.token == job.token, old.pseq if old.status is JobStatus.queued else None
        answer = Created(mine, True, self._epoch, None, old.publications or 1, self._now / 1000)
        if old.put_off == job.token:
            return replace(answer, pseq=pseq, number=old.publications if pseq is not None else 1, other=job.id)
        held = not mine and job.key is not None and self.holder(job.key) == job.id
        if held and job.if_held == "debounce" and not old.runs and old.finished is None:
            self._off_route(old)
            old.put_off, old.key_until, old.ready = job.token, None, self._now
            old.message, old.digest, old.route = job.message, job.digest, job.route
            pseq = self._ask(old, job)
            number = old.publications if pseq is not None else 1
            return replace(answer, pseq=pseq, number=number, other=job.id)
        same = held or old.digest == job.digest
        return replace(answer, same=same, pseq=pseq if mine else None, other=old.replaced if mine else None)

    def _ask(self, made: _Job, job: NewJob, *, parked: bool = False) -> int | None:
        now = self._now
        made.result_ttl = _ms(job.result_ttl)
        made.expires = _ms(job.expires) if job.expires is not None else None
        if made.expires is None and job.expires_in is not None:
            made.expires = now + _ms(job.expires_in)
        if job.key is not None and job.key_ttl is not None:
            made.key_until = now + _ms(job.key_ttl)
        self._recorded.add(job.route)
        at = _ms(job.at) if job.at is not None else now + _ms(job.delay or 0)
        if parked or at > now:
            self._park(made, at, JobStatus.scheduled)
            return None
        self._send(made)
        if job.elsewhere:
            made.outbox = now
            return None
        return made.pseq

    def holder(self, key: str) -> str | None:
        with self._lock:
            id = self._keys.get(key)
            job = None if id is None else self._find(id)
            if job is None or job.key != key:
                return None
            over = job.finished is not None and (job.status is JobStatus.cancelled or (job.key_until or 0) <= self._now)
            return None if over else id

    def take_due(self, route: str, n: int) -> list[Taken]:
        with self._lock:
            now = self._now
            due = sorted((job.due, id) for id, job in self._on(route) if job.due is not None and job.due <= now)
            out = []
            for _, id in due[:n]:
                self._send(self._jobs[id])
                out.append(self._taken(self._jobs[id]))
            return out

    def take_lost(self, route: str, n: int) -> list[Taken]:
        with self._lock:
            now = self._now
            jobs = self._on(route)
            late = sorted((job.outbox, id) for id, job in jobs if job.outbox is not None and job.outbox <= now)
            ahead = sorted((job.outbox, id) for id, job in jobs if job.outbox is not None and job.outbox > now + OUTBOX)
            mark = max((m for since, m in self._routes[route].marks if since <= now - self._lease), default=0)
            passed = sorted((job.pseq, id) for id, job in jobs if job.on_the_way and job.pseq <= mark)
            ids = list(dict.fromkeys(id for _, id in [*late, *ahead, *passed]))[:n]
            for id in ids:
                self._send(self._jobs[id])
            return [self._taken(self._jobs[id]) for id in ids]

    def published(self, route: str, publications: Sequence[tuple[str, int]]) -> None:
        with self._lock:
            for id, pseq in publications:
                job = self._find(id)
                if job is not None and job.pseq == pseq and job.route == route:  # pseq counts for each route
                    job.outbox = None

    def mark(self, route: str, depth: int | None) -> None:
        with self._lock:
            now, at = self._now, self._routes[route]
            if depth == 0:
                at.mark = max(at.mark, at.pseq)
            at.marks = [(since, m) for since, m in at.marks if since < now]
            if all(m != at.mark for _, m in at.marks):
                at.marks.append((now, at.mark))
            old = [since for since, _ in at.marks if since <= now - self._lease]
            if old:
                at.marks = [(since, m) for since, m in at.marks if since >= max(old)]

    # ---- attempts ---------------------------------------------------------------------------------------------------

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
        unknown_grace: float = 3600.0,  # no other version ever wrote into this process's memory
        alone: bool = True,
    ) -> Claim:
        with self._lock:
            now, job = self._now, self._find(id)
            if job is None:
                return Missing() if epoch == self._epoch else StoreLost(self._epoch)
            if route == job.route:
                at = self._routes[route]
                at.mark = max(at.mark, min(pseq, at.pseq))
            if job.status is JobStatus.running:
                return self._claimed(job) if job.fence == token else Busy()
            if job.status is JobStatus.cancelled:
                return Cancelled(job.reason)
            if job.status in TERMINAL:
                return Done(job.status)
            if job.status is JobStatus.waiting:
                return Early(now / 1000)
            if job.ended.startswith(f"{token}:"):
                return Busy()
            if job.due is not None and job.due > now:
                return Early(job.due / 1000)
            if job.expires is not None and job.expires <= now and job.attempt == 0:
                self._terminal(id, JobStatus.cancelled, "expired before it started")
                return Cancelled("expired before it started", now=True)
            if self._workers.get(worker, 0) <= now:
                return NoLease()
            if job.suspect >= 2 and any(other.suspect >= 2 for _, other in self._running_on(worker)):
                self._off_route(job)
                self._park(job, now + 1000, JobStatus.queued)
                return Suspect(job.message, waits=True)
            if job.suspect and not alone:
                return Suspect(job.message, waits=False)
            if job.state != seen:
                return Unseen(job.state, job.message)
            self._off_route(job)
            self._claims += 1
            job.claim = self._claims
            job.status, job.fence, job.worker, job.process, job.started = (
                JobStatus.running, token, worker, process, now
            )  # fmt: skip
            job.attempt += 1
            job.runs.append(({"at": now / 1000, "number": job.attempt, "worker": worker}, None))
            job.plans = {"lost": on_lost, "limit": on_limit}
            job.limit_at = now + _ms(timeout) if timeout is not None else None
            return self._claimed(job)

    @staticmethod
    def _claimed(job: _Job) -> Claimed:
        ready = job.created if job.ready is None else job.ready
        return Claimed(
            job.message,
            job.attempt,
            job.started / 1000,
            job.created / 1000,
            job.state,
            job.result_ttl / 1000,
            ready / 1000,
        )

    def _held(self, id: str, token: str, op: str) -> tuple[_Job | None, bool | Cancelled]:
        """The job if the fence is ours; else the answer that this very step got when it was done before, or False."""
        job = self._find(id)
        if job is None:
            return None, False
        if job.ended == f"{token}:{op}":
            return None, True
        if job.ended == f"{token}:{op}-cancelled":
            return None, Cancelled(job.reason)
        return (job, False) if job.status is JobStatus.running and job.fence == token else (None, False)

    def finish(self, id: str, token: str, end: str, result: str | None, proof: str = "") -> bool | Followed:
        with self._lock:
            job, done = self._held(id, token, "finish")
            if job is None:
                return bool(done)
            self._end_attempt(job, token, "finish", end)
            ties, ttl = job.ties, max(job.result_ttl, job.ties.kept)
            if result is not None and (ttl > 0 or ties.needs > 0):
                job.result, job.result_gone_at = result, None if ties.needs > 0 else self._now + ttl
            ties.proof = proof if ties.flow else ""
            return self._followed(id, JobStatus.succeeded, "")

    def retry(self, id: str, token: str, end: str, delay: float, state: str) -> bool | Cancelled:
        with self._lock:
            job, done = self._held(id, token, "retry")
            if job is None:
                return done
            ended = self._end_or_cancel(id, job, token, "retry", end)
            if ended is True:
                job.state, job.suspect = state, 0
                self._park(job, self._now + _ms(delay), JobStatus.retrying)
            return ended

    def fail(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        with self._lock:
            job, done = self._held(id, token, "fail")
            if job is None:
                return bool(done)
            self._end_attempt(job, token, "fail", end)
            return self._followed(id, JobStatus.failed, reason)

    def release(self, id: str, token: str, end: str, delay: float) -> bool | Cancelled:
        with self._lock:
            job, done = self._held(id, token, "release")
            if job is None:
                return done
            ended = self._end_or_cancel(id, job, token, "release", end)
            job.attempt -= 1
            if ended is True:
                self._park(job, self._now + _ms(delay), JobStatus.queued)
            return ended

    def cancelled(self, id: str, token: str, end: str, reason: str) -> bool | Followed:
        with self._lock:
            job, done = self._held(id, token, "cancelled")
            if job is None:
                return bool(done)
            self._end_attempt(job, token, "cancelled", end)
            return self._followed(id, JobStatus.cancelled, reason)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def steps(self, id: str, token: str | None = None) -> dict[str, Kept] | None:
        with self._lock:
            job = self._find(id) if token is None else self._running(id, token)
            if job is None:
                return {} if token is None else None
            return dict(job.steps)

    def _running(self, id: str, token: str) -> _Job | None:
        job = self._find(id)
        return job if job is not None and job.status is JobStatus.running and job.fence == token else None

    def begin_step(self, id: str, token: str, step: str, number: int | None) -> bool:
        with self._lock:
            job = self._running(id, token)
            if job is not None and not _has_result(job, step):
                job.steps[step] = Kept(number, job.attempt, self._now / 1000, None)
            return job is not None

    def keep_step(
        self, id: str, token: str, step: str, number: int | None, text: str, limit: int
    ) -> Kept | StepsFull | None:
        with self._lock:
            job = self._running(id, token)
            if job is None or _has_result(job, step):
                return None if job is None else job.steps[step]
            size = job.step_bytes + len(text.encode("utf-8", "surrogatepass"))
            if size > limit:
                return StepsFull(size)
            job.steps[step] = kept = Kept(number, job.attempt, self._now / 1000, text)
            job.step_bytes = size
            return kept

    def forget_step(self, id: str, token: str, step: str) -> bool:
        with self._lock:
            job = self._running(id, token)
            if job is not None and not _has_result(job, step):
                job.steps.pop(step, None)
            return job is not None

    def progress(self, id: str, token: str, said: str) -> bool:
        with self._lock:
            job = self._running(id, token)
            if job is not None:
                job.progress = f"{self._now}|{job.attempt}|{said}"
            return job is not None

    # ---- workers ----------------------------------------------------------------------------------------------------

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
        with self._lock:
            if not start and worker not in self._workers:
                return Beat(alive=False)
            self._workers[worker] = self._now + self._lease
            if start:
                self._workers[worker] = self._now + max(self._lease, _ms(first))
                self._consumers.setdefault(worker, (self._now, about))
            processes, cancels, lost, cancelled, over = [], [], [], [], []
            running = self._running_on(worker)
            held = Counter(job.process for _, job in running)
            for id, job in running:
                if job.process in dead or job.process in found:
                    self._settle(id, job, held[job.process] - 1, self._now if job.process in dead else 0)
                    lost.append(id)
                else:
                    processes.append(job.process)
                    if job.cancel is not None:
                        cancels.append(id)
                        cancelled.append(job.process)
                    if job.limit_at is not None and job.limit_at <= self._now:
                        over.append((id, job.process))
            return Beat(
                True, tuple(dict.fromkeys(processes)), tuple(cancels), tuple(lost), tuple(cancelled), tuple(over)
            )

    def leave(self, worker: str, *, seen: bool = True) -> list[str]:
        with self._lock:
            return [id for id, _ in self._settle_all(worker, self._now if seen else 0)]

    def _settle_all(self, worker: str, at: int) -> list[tuple[str, str]]:
        running = self._running_on(worker)
        ended = [(id, self._settle(id, job, len(running) - 1, at)) for id, job in running]
        self._workers.pop(worker, None)
        self._consumers.pop(worker, None)
        return ended

    def reap(self, n: int) -> list[tuple[str, str]]:
        with self._lock:
            now = self._now
            for id in list(self._jobs):
                self._find(id)  # lets go of what has expired
            self._keys = {key: id for key, id in self._keys.items() if id in self._jobs}
            if self._tick is not None and (now < self._tick or (now - self._tick) > self._lease / 3):
                self._suspended = now + self._lease
                self._workers = {worker: min(end, now + self._lease) for worker, end in self._workers.items()}
            self._tick = now
            if now < self._suspended:
                return []
            out = []
            gone = sorted((end, worker) for worker, end in self._workers.items() if end <= now)
            for end, worker in gone[:n]:
                out += self._settle_all(worker, end - self._lease)
            return out

    # ---- by hand ----------------------------------------------------------------------------------------------------

    def cancel(self, id: str, reason: str) -> str:
        with self._lock:
            said = self._cancel_one(id, reason)
            self._run_errands()
            return said

    def cancel_requested(self, ids: Sequence[str], worker: str = "") -> dict[str, str]:
        with self._lock:
            found = ((id, self._find(id)) for id in ids)
            return {
                id: job.cancel
                for id, job in found
                if job is not None and job.status is JobStatus.running and job.cancel is not None
            }

    def revive(
        self,
        id: str,
        *,
        message: str | None = None,
        route: str | None = None,
        handed_over: bool = False,
        anew: bool = False,
    ) -> Taken | None:
        with self._lock:
            job = self._find(id)
            if job is None or job.status not in {JobStatus.failed, JobStatus.cancelled} or job.ties.waits:
                return None
            if job.key is not None:
                if self.holder(job.key) not in {None, id}:
                    return None
                self._keys[job.key] = id
            job.message = message or job.message
            job.route = route or job.route
            self._recorded.add(job.route)
            job.state, job.reason, job.ready = "", "", self._now
            job.finished = job.cancel = job.expires = job.gone_at = None
            if anew:
                job.steps, job.step_bytes = {}, 0
            self._send(job)
            self._revived(id, job)
            if handed_over:
                job.outbox = self._now
            return self._taken(job)

    def purge(self, route: str, n: int, reason: str) -> list[str]:
        with self._lock:
            queued = sorted((job.pseq, id) for id, job in self._on(route) if job.on_the_way)
            parked = sorted((job.due, id) for id, job in self._on(route) if job.due is not None)
            ids = [id for _, id in [*queued, *parked]][:n]
            for id in ids:
                self._terminal(id, JobStatus.cancelled, reason)
            return ids

    def quarantine(self, raw: str, reason: str, *, source: str = "") -> None:
        with self._lock:
            now, reason, source = self._now, reason[:MOST_SAID], source[:MOST_SAID]
            entry = f"{now}|{len(reason)},{len(source)}|{reason}{source}{raw}".encode("utf-8", "surrogatepass")
            kept = self._quarantine
            kept.insert(0, (len(entry), Quarantined(raw, reason, now / 1000, source)))
            taken = sum(size for size, _ in kept)
            while len(kept) > 1 and (
                len(kept) > self._quarantine_limit
                or taken > self._quarantine_bytes
                or kept[-1][1].at * 1000 <= now - self._dead_ttl
            ):
                taken -= kept.pop()[0]

    def quarantined(self, n: int, skip: int = 0) -> list[Quarantined]:
        with self._lock:
            gone = (self._now - self._dead_ttl) / 1000
            return [one for _, one in self._quarantine[skip : skip + n] if one.at > gone]

    # ---- schedules --------------------------------------------------------------------------------------------------

    def put_schedule(self, name: str, text: str, when: str, due: int | None, *, declared: bool) -> str:
        with self._lock:
            old = self._schedules.get(name)
            if old is None:
                self._schedules[name] = _Schedule(text, when, due, declared)
                return "added"
            if old.declared is not declared:
                return "taken"
            if old.text == text:
                return "same"
            if old.when != when and not old.paused:
                old.due = due
            old.text, old.when = text, when
            return "changed"

    def remove_schedule(self, name: str) -> bool:
        with self._lock:
            return self._schedules.pop(name, None) is not None

    def pause_schedule(self, name: str, paused: bool, due: int | None = None) -> bool:
        with self._lock:
            one = self._schedules.get(name)
            if one is not None and (paused or one.paused):
                one.paused, one.due = paused, None if paused else due
            return one is not None

    def due_schedules(self, n: int) -> list[DueSchedule]:
        with self._lock:
            now = self._now
            due = sorted((one.due, name) for name, one in self._schedules.items() if one.due is not None)
            return [DueSchedule(name, self._schedules[name].text, at, now) for at, name in due if at <= now][:n]

    def fire(
        self, name: str, text: str, due: int, following: int | None, jobs: Sequence[NewJob], *, once: bool
    ) -> list[str] | None:
        with self._lock:
            one = self._schedules.get(name)
            if one is None or one.due != due or one.text != text:
                return None
            made = []
            for job in jobs:
                if self._find(job.id) is None:
                    token = f"schedule {name}"
                    if self._make(replace(job, token=token), parked=True).created:
                        made.append(job.id)
                one.fired, one.job = _ms(job.at or 0), job.id
            one.due = following
            if following is None and once:
                del self._schedules[name]
            return made

    def schedules(self, name: str | None = None) -> list[ScheduleRow]:
        with self._lock:
            found = sorted(
                self._schedules.items(), key=lambda item: (math.inf if item[1].due is None else item[1].due, item[0])
            )
            return [
                ScheduleRow(its_name, one.text, one.due, one.paused, one.fired, one.job)
                for its_name, one in found
                if name in {None, its_name}
            ]

    # ---- reads ------------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Record | None:
        with self._lock:
            job = self._find(id)
            if job is None:
                return None
            return Record(
                id=id,
                status=job.status,
                message=job.message,
                route=job.route,
                created=job.created / 1000,
                attempt=job.attempt,
                state=job.state,
                pseq=job.pseq,
                worker=job.worker,
                due=None if job.due is None else job.due / 1000,
                finished=None if job.finished is None else job.finished / 1000,
                reason=job.reason,
                result_ttl=job.result_ttl / 1000,
                cancel_requested=job.cancel,
                suspect=job.suspect,
                progress=job.progress,
                version=JOINED_VERSION if job.ties.flow or id in self._members else RECORD_VERSION,
                parent=job.ties.parent,
                root=job.ties.root,
                flow=job.ties.flow,
                after=job.ties.after,
                waits=tuple(sorted(job.ties.waits)),
                children=tuple(self._members.get(id, ())),
                rule=job.ties.rule,
                undoes=job.ties.undoes,
                stopped=job.ties.stopped,
                needs=job.ties.needs,
                key=job.key,
                runs=tuple(job.runs),
            )

    def status(self, id: str) -> JobStatus | None:
        with self._lock:
            job = self._find(id)
            return None if job is None else job.status

    def statuses(self, ids: Sequence[str]) -> list[JobStatus | None]:
        return [self.status(id) for id in ids]

    def glimpse(self, id: str) -> tuple[str, ...] | None:
        with self._lock:
            job = self._find(id)
            if job is None:
                return None
            return (str(job.status), str(len(job.runs)), job.progress, str(job.pseq), job.cancel or "")

    def result(self, id: str) -> str | None:
        with self._lock:
            job = self._find(id)
            return None if job is None else job.result

    def routes(self, backend: str) -> list[str]:
        with self._lock:
            return sorted(route for route in self._recorded if route.startswith(f"{backend}:"))

    def dead(self, n: int) -> list[str]:
        with self._lock:
            found = [(job.finished, id) for id in list(self._jobs) if (job := self._find(id)) is not None]
            failed = [(at, id) for at, id in found if at is not None and self._jobs[id].status is JobStatus.failed]
            return [id for _, id in itertools.islice(sorted(failed, reverse=True), n)]

    def dead_count(self) -> int:
        with self._lock:
            found = [self._find(id) for id in list(self._jobs)]
            return sum(job is not None and job.status is JobStatus.failed for job in found)

    # ---- lists and counts -------------------------------------------------------------------------------------------

    def jobs(self, query: Query, n: int, cursor: str | None = None) -> Page:
        with self._lock:
            now, after = self._now, read_cursor(cursor)
            line = []
            for id in list(self._jobs):
                job = self._find(id)
                if job is None or (query.statuses and not query.statuses & _at_home_with(job.status)):
                    continue
                keep = self._dead_ttl if job.status is JobStatus.failed else self._retention
                if job.finished is not None and job.finished <= now - keep:
                    continue
                line.append((job.created if job.finished is None else job.finished, id))
            line.sort(reverse=query.newest_first)
            if after is not None:
                line = [place for place in line if (place < after if query.newest_first else place > after)]
            rows: list[Listed] = []
            for looked, (moment, id) in enumerate(line, 1):
                row = _listed(id, self._jobs[id], moment)
                if _fits(row, query):
                    rows.append(row)
                if len(rows) == n or looked == LOOK:
                    return Page(tuple(rows), f"{moment}-{id}")
            return Page(tuple(rows), None)

    def counts(self) -> list[RouteCount]:
        with self._lock:
            return [self._count(route) for route in sorted(self._recorded)]

    def _count(self, route: str) -> RouteCount:
        now, jobs = self._now, [job for _, job in self._on(route)]
        first = min((job for job in jobs if job.on_the_way), key=lambda job: job.pseq, default=None)
        due = [job.due for job in jobs if job.due is not None]
        past = [moment for moment in due if moment <= now]
        moments = past if first is None else [*past, first.created if first.ready is None else first.ready]
        return RouteCount(
            route,
            waiting=sum(job.on_the_way for job in jobs) + len(past),
            parked=len(due) - len(past),
            running=sum(job.status is JobStatus.running for job in jobs),
            oldest=min(moments) / 1000 if moments else None,
        )

    def consumers(self) -> list[Consumer]:
        with self._lock:
            out = []
            for name, until in sorted(self._workers.items()):
                since, about = self._consumers.get(name, (None, ""))
                out.append(
                    Consumer(
                        name=name,
                        since=None if since is None else since / 1000,
                        until=until / 1000,
                        about=json.loads(about) if about else {},
                        jobs=tuple(sorted(id for id, _ in self._running_on(name))),
                    )
                )
            return out

    # ---- for the memory backend -------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """The moment at which the next parked job may run."""
        with self._lock:
            due = [job.due for job in self._jobs.values() if job.due is not None]
            return min(due) / 1000 if due else None


def _has_result(job: _Job, step: str) -> bool:
    return step in job.steps and job.steps[step].text is not None


def _at_home_with(status: JobStatus) -> frozenset[JobStatus]:
    """The statuses that Redis keeps in one index, and that a call therefore looks at together."""
    return WAITING if status in WAITING else frozenset({status})


def _fits(row: Listed, query: Query) -> bool:
    backend, queue, _ = row.route.split(":")
    return (
        (not query.statuses or row.status in query.statuses)
        and (not query.task or query.task == row.task)
        and (not query.queue or query.queue == queue)
        and (not query.backend or query.backend == backend)
    )


def _listed(id: str, job: _Job, moment: int) -> Listed:
    return Listed(
        id=id,
        task=task_of(job.message),
        moment=moment / 1000,
        status=job.status,
        route=job.route,
        attempt=job.attempt,
        created=job.created / 1000,
        started=job.started / 1000 if job.runs else None,
        finished=None if job.finished is None else job.finished / 1000,
        reason=job.reason,
        worker=job.worker,
        ready=None if job.ready is None else job.ready / 1000,
    )


def _ms(seconds: float) -> int:
    return math.ceil(round(seconds * 1000, 6))
