"""What people ask a store for: lists of jobs, counts by route, workers. Values only.

Moments are seconds since the epoch on the store's clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WAITING", "Consumer", "Listed", "Page", "Query", "RouteCount", "read_cursor", "task_of"]

WAITING: Final = frozenset({JobStatus.waiting, JobStatus.scheduled, JobStatus.queued, JobStatus.retrying})
LOOK: Final = 200  # jobs that one call looks at, at most

_TASK = re.compile(r'\{"id":"[^"]*","task":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Query:
    """Which jobs, and in which order. What is empty or None is not asked about.

    A job stands where it was enqueued, and from its end on where it ended: `newest_first` is by that moment.
    """

    statuses: frozenset[JobStatus] = frozenset()
    task: str | None = None
    queue: str | None = None
    backend: str | None = None
    newest_first: bool = True


@dataclass(frozen=True, slots=True)
class Listed:
    """One job of a list: its record without message and attempts.

    Attributes:
        moment: where it stands in the list: when it was enqueued, or when it ended.
        attempt: how many were started.
        started: when its last attempt was.
        ready: from when it can run, where that is not since it was enqueued: scheduled, retried, revived.
        worker: that runs it, or ran it last.
    """

    id: str
    task: str
    moment: float
    status: JobStatus
    route: str
    attempt: int
    created: float
    started: float | None = None
    finished: float | None = None
    reason: str = ""
    worker: str = ""
    ready: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. It may hold fewer jobs than were asked for, or none, and yet not be the last: one call looks at
    a bounded number of them. `cursor` goes into the next call; None: there are no more."""

    jobs: tuple[Listed, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class RouteCount:
    """How many jobs there are on a route.

    Attributes:
        waiting: could run now: their doorbell is out, or is to be published.
        parked: have a time that has not come: scheduled, waiting for a retry, handed back.
        oldest: since when the first in line could run; None where none waits.
    """

    route: str
    waiting: int = 0
    parked: int = 0
    running: int = 0
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A worker that holds a lease.

    Attributes:
        since: when it opened the lease.
        until: the end of its lease; one that is past belongs to a worker that is gone, and is about to be reaped.
        about: what it said of itself: "backend", "queues", "concurrency", "pool", the versions "queuekit" and "python",
            "tasks" (a fingerprint of the code of each), and its "clock" at `since`. Empty where it said nothing.
        jobs: the ids that it runs.
    """

    name: str
    since: float | None
    until: float
    about: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()


def task_of(message: str) -> str:
    """The task's name in a sealed message, which begins with the id and the task. Empty where it cannot be read."""
    found = _TASK.match(message)
    return found[1] if found else ""


def read_cursor(cursor: str | None) -> tuple[int, str] | None:
    """The moment in milliseconds and the id of the last job that was looked at. Raises ValueError."""
    if cursor is None:
        return None
    moment, _, id = cursor.partition("-")
    return int(moment), id
