"""The record of one job: its states, its attempts, and which state may follow which.

    waiting ─▶ scheduled, queued, cancelled          of a workflow: those that it waits for have ended

                 ┌────────────── cancel ───────────────┐
                 │                                     ▼
    scheduled ─▶ queued ─▶ running ─▶ succeeded     cancelled
                  ▲  ▲        │ ├───▶ failed            ▲
                  │  │        │ └───────────────────────┤
                  │  └─ released                        │
                  └─ retrying ◀┘ ────── cancel ─────────┘

    failed, cancelled ─▶ queued          revived by hand
    cancelled ─▶ waiting                 what has stopped it was revived
    queued ─▶ scheduled                  put off by another request with its key, before it has started

Every time in a record is the store's clock, in seconds since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from queuekit.retry import Category

__all__ = [
    "JOINED_VERSION",
    "RECORD_VERSION",
    "TERMINAL",
    "TRANSITIONS",
    "Attempt",
    "JobInfo",
    "JobStatus",
    "Progress",
    "Record",
]


class JobStatus(StrEnum):
    """Where a job stands. More may come: compare with what you know, and do not enumerate."""

    waiting = "waiting"
    scheduled = "scheduled"
    queued = "queued"
    running = "running"
    retrying = "retrying"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


RECORD_VERSION: Final = 1  # also in the prelude of the Lua scripts, which read the version before as well
JOINED_VERSION: Final = 2  # of jobs of a workflow, and of those that have started others: not for programs from before

TERMINAL: Final = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled})

TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.waiting: frozenset({JobStatus.scheduled, JobStatus.queued, JobStatus.cancelled}),
    JobStatus.scheduled: frozenset({JobStatus.queued, JobStatus.running, JobStatus.cancelled}),
    # scheduled: one with a key that is put off
    JobStatus.queued: frozenset({JobStatus.queued, JobStatus.scheduled, JobStatus.running, JobStatus.cancelled}),
    JobStatus.running: frozenset(
        {JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled, JobStatus.retrying, JobStatus.queued}
    ),
    # A due job may be claimed by a doorbell that is still on its way, before anybody published a new one.
    JobStatus.retrying: frozenset({JobStatus.queued, JobStatus.running, JobStatus.cancelled}),
    JobStatus.succeeded: frozenset(),
    JobStatus.failed: frozenset({JobStatus.queued}),
    JobStatus.cancelled: frozenset({JobStatus.queued, JobStatus.waiting}),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job.

    Attributes:
        number: from 1. A released attempt does not count: the next one carries its number again.
        worker: the worker incarnation that ran it.
        outcome: "running", "succeeded", "retried", "failed", "lost" (its worker died), "cancelled", or "released"
            (handed back by a worker that stopped, or that did not know the task; or lost as the last one, with others).
        error_type: the qualified name of the exception's class.
        delay: seconds until the next attempt could start, where there is one.
        company: how many other attempts were lost with it, in the same process or with the whole worker.
    """

    number: int
    started_at: datetime
    ended_at: datetime | None
    worker: str
    outcome: str
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    category: Category | None = None
    delay: float | None = None
    reason: str | None = None
    company: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task has said that it is. It stays when the attempt ends, until a later one says something.

    Attributes:
        done: of `total`, which is None where the task does not know it.
        at: when the store heard of it.
        attempt: which one said so.
    """

    done: float
    total: float | None
    message: str
    at: datetime
    attempt: int


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What the store knows of a job, without its arguments and its result.

    Attributes:
        parent: the job that has started it, or its workflow.
        root: the job, or the workflow, at the top of its tree; its own id where it has no parent and no workflow.
        children: the jobs and workflows that it has started, in that order.
        workflow: that it is a step of.
        after: the jobs of that workflow for whose ends it waits, or has waited.
    """

    id: str
    task: str
    queue: str
    status: JobStatus
    attempts: tuple[Attempt, ...]
    enqueued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    backend: str = ""
    priority: int = 0
    due_at: datetime | None = None
    reason: str | None = None
    progress: Progress | None = None
    parent: str | None = None
    root: str = ""
    children: tuple[str, ...] = ()
    workflow: str | None = None
    after: tuple[str, ...] = ()


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """A job as the store keeps it. `runs` holds a (start, end) pair of JSON-able mappings for each execution.

    Attributes:
        version: of the record's own fields; 0 for those that were made before they were numbered.
        suspect: its last attempt was lost, so that it runs alone next. 1: in a process of its own; 2: also as the only
            one of that kind on its worker, since it was lost with others again. 0: it is none.
        key: its unique key, behind the name of its task and a space.
        progress: when, in which attempt and what was said of it, as MILLISECONDS|ATTEMPT|JSON; "" for nothing.
        parent, root, flow: see JobInfo, where `flow` is the workflow.
        after: the jobs whose ends it waits for, as recorded; waits: those that have not come, and "^" for the start of
            its workflow or, of a compensation, "!" for the end of that.
        children: what it has started, in that order; a workflow has a "~" before its id.
        rule: what its failure means to those who wait for it: "stop", "skip", "" outside of a workflow.
        undoes: whose compensation it is.
        stopped: whose end has stopped it.
        needs: how many jobs that have not ended take its result.
    """

    id: str
    status: JobStatus
    message: str
    route: str
    created: float
    attempt: int = 0
    state: str = ""
    pseq: int = 0
    worker: str = ""
    due: float | None = None
    finished: float | None = None
    reason: str = ""
    result_ttl: float = 86400.0
    cancel_requested: str | None = None
    runs: tuple[tuple[Mapping[str, Any], Mapping[str, Any] | None], ...] = field(default=())
    version: int = RECORD_VERSION
    suspect: int = 0
    progress: str = ""
    parent: str = ""
    root: str = ""
    flow: str = ""
    after: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    rule: str = ""
    undoes: str = ""
    stopped: str = ""
    needs: int = 0
    key: str | None = None

    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(_attempt(start, end) for start, end in self.runs)

    def info(self) -> JobInfo:
        message = json.loads(self.message)
        attempts = self.attempts()
        return JobInfo(
            id=self.id,
            task=message["task"],
            queue=message["queue"],
            status=self.status,
            attempts=attempts,
            enqueued_at=moment(self.created),
            started_at=attempts[0].started_at if attempts else None,
            finished_at=moment(self.finished) if self.finished is not None else None,
            backend=message["backend"],
            priority=message["priority"],
            due_at=moment(self.due) if self.due is not None else None,
            reason=self.reason or None,
            progress=_progress(self.progress) if self.progress else None,
            parent=self.parent or None,
            root=self.root or self.id,
            children=tuple(one.removeprefix("~") for one in self.children),
            workflow=self.flow or None,
            after=self.after,
        )


def _progress(text: str) -> Progress:
    at, attempt, said = text.split("|", 2)
    done, total, message = json.loads(said)
    return Progress(done, total, message, moment(int(at) / 1000), int(attempt))


def _attempt(start: Mapping[str, Any], end: Mapping[str, Any] | None) -> Attempt:
    from queuekit.retry import Category

    said = end or {}
    category = said.get("category")
    return Attempt(
        number=start["number"],
        started_at=moment(start["at"]),
        ended_at=moment(said["at"]) if end is not None else None,
        worker=start["worker"],
        outcome=said.get("outcome", "running"),
        error_type=said.get("error_type"),
        error_message=said.get("error_message"),
        traceback=said.get("traceback"),
        category=Category(category) if category else None,
        delay=said.get("delay"),
        reason=said.get("reason"),
        company=said.get("company", 0),
    )
