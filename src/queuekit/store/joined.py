"""What joins jobs, in this process's memory: the second writing of `redis/lua/_flows.lua`. All that an end means for
others is done at once here, however much it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from queuekit.job import TERMINAL, JobStatus
from queuekit.store.flows import FORMING, FlowJob, FlowState, Followed, Input, Kin, Left, NewFlow, Started
from queuekit.store.views import task_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from queuekit.store import Taken
    from queuekit.store.memory import _Job

__all__ = ["Joined", "Ties"]


@dataclass
class Ties:
    """Of one job."""

    parent: str = ""
    root: str = ""
    flow: str = ""
    after: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    waits: set[str] = field(default_factory=set)
    needs: int = 0
    kept: int = 0
    stays: int | None = None
    rule: str = ""
    undoes: str = ""
    stopped: str = ""
    at: int | None = None
    delay: int = 0
    proof: str = ""


@dataclass
class _Flow:
    root: str
    parent: str
    open: int
    undo: tuple[str, ...]
    until: int | None
    bad: int = 0
    early: int = 0  # compensations that somebody has cancelled before
    undoing: bool = False
    started: str | None = None


class Joined:
    """A part of MemoryStore."""

    if TYPE_CHECKING:
        _lock: threading.RLock
        _jobs: dict[str, _Job]
        _recorded: set[str]
        _retention: int
        _dead_ttl: int
        _epoch: str

        @property
        def _now(self) -> int: ...

        _find: Callable[[str], _Job | None]
        _send: Callable[[_Job], None]
        _park: Callable[[_Job, int, JobStatus], None]
        _off_route: Callable[[_Job], None]
        _taken: Callable[[_Job], Taken]
        _terminal: Callable[[str, JobStatus, str], None]

    def __init__(self) -> None:
        self._flows: dict[str, _Flow] = {}
        self._members: dict[str, list[str]] = {}
        self._todo: deque[tuple[Any, ...]] = deque()
        self._busy = False
        self._untold: list[str] = []  # cancelled by the end or the cancel of others
        self._from: str | None = None
        self._rang: list[tuple[str, Taken]] = []

    # ---- errands ----------------------------------------------------------------------------------------------------

    def _run_errands(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo:
                errand, *about = self._todo.popleft()
                errand(*about)
        finally:
            self._busy = False

    def _followed(self, id: str, status: JobStatus, reason: str) -> bool | Followed:
        """End the job, and give what its end has queued on its own backend."""
        self._from, self._rang = id, []
        self._terminal(id, status, reason)
        rang, self._from, self._rang = self._rang, None, []
        return Followed(tuple(rang)) if rang else True

    def _let_go(self, id: str, job: _Job) -> None:
        if job.status is not JobStatus.waiting:
            return
        now = self._now
        at = max(job.ties.at or 0, now + job.ties.delay)
        if at > now:
            self._park(job, at, JobStatus.scheduled)
            return
        job.ready = now
        self._send(job)
        mine = self._from is not None and self._jobs[self._from].route.split(":")[0] == job.route.split(":")[0]
        job.outbox = now + (1000 if mine else 0)
        if mine:
            self._rang.append((job.route, self._taken(job)))

    def _need_not_wait(self, id: str, of: str) -> None:
        job = self._find(id)
        if job is not None and of in job.ties.waits:
            job.ties.waits.remove(of)
            if not job.ties.waits:
                self._let_go(id, job)

    @staticmethod
    def _spoilt(job: _Job) -> bool:
        return job.status in {JobStatus.failed, JobStatus.cancelled} and job.ties.rule != "skip"

    def _stop(self, id: str, by: str) -> None:
        job = self._find(id)
        if job is None or job.status is not JobStatus.waiting:
            return
        cause = self._jobs[by].ties.stopped or by
        job.ties.stopped = cause
        failed = cause in self._jobs and self._jobs[cause].status is JobStatus.failed
        why = f"stopped: job {cause} {'has failed' if failed else 'was cancelled'}"
        self._terminal(id, JobStatus.cancelled, why)
        self._untold.append(id)

    def _tell_ended(self, id: str) -> None:
        job = self._find(id)
        if job is None or job.status not in TERMINAL:
            return
        for other in job.ties.next:
            if self._spoilt(job):
                self._stop(other, id)
            else:
                self._need_not_wait(other, id)

    def _unneed(self, id: str) -> None:
        job = self._jobs[id]
        keep = self._retention
        if job.status is JobStatus.succeeded:
            keep = 0
        elif job.status is JobStatus.failed or job.ties.stopped:
            keep = self._dead_ttl
        for other in job.ties.uses:
            used = self._find(other)
            if used is None:
                continue
            ties = used.ties
            ties.kept = max(ties.kept, keep)
            ties.needs -= 1
            if ties.needs <= 0 and ties.stays is not None:
                used.gone_at = self._now + max(ties.stays, ties.kept)
                used.result_gone_at = self._now + max(used.result_ttl, ties.kept)

    def _need(self, id: str) -> None:
        for other in self._jobs[id].ties.uses:
            used = self._find(other)
            if used is not None:
                used.ties.needs += 1
                used.gone_at = used.result_gone_at = None

    def _cancel_one(self, id: str, reason: str) -> str:
        job = self._find(id)
        if job is None:
            return "missing"
        if job.status in TERMINAL:
            return "ended"
        if job.status is JobStatus.running:
            job.cancel = reason if job.cancel is None else job.cancel
            if id in self._members:
                self._todo.append((self._cancel_owned, id, reason))
            return "requested"
        self._terminal(id, JobStatus.cancelled, reason)
        return "cancelled"

    def _cancel_owned(self, owner: str, reason: str) -> None:
        for id in self._members.get(owner, ()):
            if id.startswith("~"):
                self._todo.append((self._cancel_owned, id, reason))
            elif (job := self._find(id)) is None or job.ties.undoes:
                continue
            elif self._cancel_one(id, reason) == "cancelled":
                self._untold.append(id)

    def _start(self, flow: str) -> None:
        for id in self._members["~" + flow]:
            self._need_not_wait(id, "^")

    def _verdict(self, flow: str) -> None:
        of = self._flows[flow]
        for id in of.undo:
            job = self._find(id)
            if job is None:
                continue
            done = self._find(job.ties.undoes)
            if of.bad > 0 and done is not None and done.status is JobStatus.succeeded:
                self._need_not_wait(id, "!")
            elif job.status is JobStatus.waiting:
                why = "there is nothing to undo" if of.bad > 0 else "not needed: nothing has failed"
                self._terminal(id, JobStatus.cancelled, why)

    def _forget(self, flow: str) -> None:
        for id in self._members.pop("~" + flow, ()):
            del self._jobs[id]
        del self._flows[flow]

    def _revived(self, id: str, job: _Job) -> None:
        """It is queued, or waits again. `job.status` was changed already."""
        ties = job.ties
        flow = self._flows.get(ties.flow)
        if flow is not None:
            flow.open += 1
            if ties.rule != "skip" and not ties.undoes:
                flow.bad -= 1
        ties.stopped, ties.stays = "", None
        if ties.uses:
            self._todo.append((self._need, id))
        if ties.next and not (flow is not None and flow.undoing):
            self._todo.append((self._back, id))
        self._run_errands()

    def _back(self, id: str) -> None:
        for other in self._jobs[id].ties.next:
            job = self._find(other)
            if job is None or job.status is not JobStatus.cancelled or not job.ties.stopped:
                continue
            by = sorted(one for one in job.ties.waits if one in self._jobs and self._spoilt(self._jobs[one]))
            if by:
                job.ties.stopped = by[0]
                continue
            job.status, job.state, job.reason = JobStatus.waiting, "", ""
            job.finished = job.cancel = job.expires = job.gone_at = None
            self._revived(other, job)

    def _joined_end(self, id: str, job: _Job, stays: int) -> None:
        ties = job.ties
        if ties.needs > 0 or ties.kept > 0:
            ties.stays = stays
            job.gone_at = None if ties.needs > 0 else self._now + max(stays, ties.kept)
        if ties.next:
            self._todo.append((self._tell_ended, id))
        if ties.uses:
            self._todo.append((self._unneed, id))
        if id in self._members and job.status is JobStatus.cancelled:
            self._todo.append((self._cancel_owned, id, job.reason))
        flow = self._flows.get(ties.flow)
        if flow is not None and ties.undoes and not flow.undoing:
            flow.early += 1
        elif flow is not None:
            if not ties.undoes and self._spoilt(job):
                flow.bad += 1
            flow.open -= 1
            if flow.open == 0 and flow.undo and not flow.undoing:
                flow.undoing, flow.open = True, len(flow.undo) - flow.early
                self._todo.append((self._verdict, ties.flow))
        self._run_errands()

    def _adopt(self, parent: str, id: str) -> str:
        self._members.setdefault(parent, []).append(id)
        return self._jobs[parent].ties.root or parent

    def _not_its_parent(self, parent: tuple[str, str] | None) -> bool:
        if parent is None:
            return False
        job = self._find(parent[0])
        return job is None or job.status is not JobStatus.running or job.fence != parent[1]

    # ---- operations -------------------------------------------------------------------------------------------------

    def create_flow(self, flow: NewFlow, jobs: Sequence[FlowJob]) -> list[str] | None:
        from queuekit.store.memory import _Job

        with self._lock:
            if self._not_its_parent(flow.parent):
                return None
            now, known = self._now, self._flows.get(flow.id)
            if known is not None and known.started is not None:
                return []
            if known is None:
                parent = flow.parent[0] if flow.parent else ""
                root = self._adopt(parent, "~" + flow.id) if parent else flow.id
                known = self._flows[flow.id] = _Flow(root, parent, flow.jobs, flow.undo, None)
                self._members["~" + flow.id] = []
            known.until = now + FORMING
            clash = []
            for one in jobs:
                new, old = one.new, self._find(one.new.id)
                if old is not None:
                    if (old.digest, old.ties.flow) != (new.digest, flow.id):
                        clash.append(new.id)
                    continue
                expires = None if new.expires is None else _ms(new.expires)
                if expires is None and new.expires_in is not None:
                    expires = now + _ms(new.expires_in)
                job = _Job(new.message, new.digest, new.route, "", _ms(new.result_ttl), now, expires)
                job.status = JobStatus.waiting
                job.ties = Ties(
                    parent=known.parent,
                    root=known.root,
                    flow=flow.id,
                    after=one.after,
                    next=one.next,
                    uses=one.uses,
                    waits={*one.after, "!" if one.undoes else "^"},
                    needs=one.needs,
                    rule=one.rule,
                    undoes=one.undoes,
                    at=None if new.at is None else _ms(new.at),
                    delay=_ms(new.delay or 0),
                )
                self._jobs[new.id] = job
                self._recorded.add(new.route)
                self._members["~" + flow.id].append(new.id)
            return clash

    def start_flow(self, flow: NewFlow) -> Started:
        with self._lock:
            if self._not_its_parent(flow.parent):
                return Started("stale", self._epoch)
            known = self._flows.get(flow.id)
            if known is None:
                return Started("missing", self._epoch)
            if known.started is not None:
                return Started("started" if known.started == flow.token else "was", self._epoch)
            known.started, known.until = flow.token, None
            self._from, self._rang = flow.near, []
            self._todo.append((self._start, flow.id))
            self._run_errands()
            rang, self._from, self._rang = self._rang, None, []
            return Started("started", self._epoch, tuple(rang))

    def follow(self, n: int) -> Left:  # all of it is done already
        with self._lock:
            for id in [id for id, one in self._flows.items() if one.until is not None and one.until <= self._now]:
                self._forget(id)
            told, self._untold = self._untold[:n], self._untold[n:]
            return Left(bool(self._untold), tuple(told))

    def cancel_flow(self, id: str, reason: str) -> str:
        with self._lock:
            flow = self._flows.get(id)
            if flow is None:
                return "missing"
            if flow.open <= 0:
                return "ended"
            self._todo.append((self._cancel_owned, "~" + id, reason))
            self._run_errands()
            return "cancelled"

    def inputs(self, ids: Sequence[str]) -> list[Input]:
        with self._lock:
            found = [self._find(id) for id in ids]
            return [Input(None) if job is None else Input(job.status, job.result, job.ties.proof) for job in found]

    def members(self, owner: str) -> list[str]:
        with self._lock:
            return list(self._members.get(owner, ()))

    def kin(self, ids: Sequence[str]) -> list[Kin | None]:
        with self._lock:
            return [self._kin(id) for id in ids]

    def _kin(self, id: str) -> Kin | None:
        job = self._find(id)
        if job is None:
            return None
        return Kin(
            id=id,
            task=task_of(job.message),
            status=job.status,
            attempt=job.attempt,
            route=job.route,
            parent=job.ties.parent,
            root=job.ties.root,
            flow=job.ties.flow,
            after=job.ties.after,
            rule=job.ties.rule,
            undoes=job.ties.undoes,
            reason=job.reason,
            children=id in self._members,
        )

    def flow(self, id: str) -> FlowState | None:
        with self._lock:
            one = self._flows.get(id)
            if one is None:
                return None
            return FlowState(
                id=id,
                root=one.root,
                parent=one.parent,
                open=one.open,
                bad=one.bad,
                undo=one.undo,
                undoing=one.undoing,
                started=one.started is not None,
            )


def _ms(seconds: float) -> int:
    from queuekit.store.memory import _ms as ms

    return ms(seconds)
