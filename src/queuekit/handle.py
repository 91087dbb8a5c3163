"""Job: a handle to one job, from any process that reaches the store."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from queuekit.errors import JobCancelled, JobFailed, JobNotFound, JobNotReady
from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from queuekit.app import App
    from queuekit.job import JobInfo, Record
    from queuekit.task import Task

__all__ = ["Job"]

R = TypeVar("R")
T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.2  # seconds between two looks at the store


class Job(Generic[R]):
    """One request to run a task.

    Attributes:
        id: the job's id; all that is needed to find it again: Job.fetch(id), or task.job(id).
        created: False where an existing job was found under the id.
    """

    __slots__ = ("_app", "_task", "created", "id")

    def __init__(self, id: str, *, app: App, task: Task[..., R, Any] | None = None, created: bool = True) -> None:
        self.id = id
        self.created = created
        self._app = app
        self._task = task

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id and other._app is self._app

    def __hash__(self) -> int:
        return hash(self.id)

    @staticmethod
    def fetch(id: str) -> Job[Any]:
        """The job of that id. Raises JobNotFound where the store has no record of it."""
        from queuekit.app import current_app
        from queuekit.task import find_task

        app = current_app()
        job: Job[Any] = Job(id, app=app)
        job._task = find_task(job.info().task)
        return job

    @staticmethod
    async def afetch(id: str) -> Job[Any]:
        return await _in_thread(Job.fetch, id)

    # ---- asking -----------------------------------------------------------------------------------------------------

    def _record(self) -> Record:
        record = self._app.store.get(self.id)
        if record is None:
            raise JobNotFound(f"no job {self.id!r} in namespace {self._app.settings.namespace!r}")
        return record

    def status(self) -> JobStatus:
        """Where the job stands. Raises JobNotFound for an unknown id."""
        status = self._app.store.status(self.id)
        if status is None:
            raise JobNotFound(f"no job {self.id!r} in namespace {self._app.settings.namespace!r}")
        return status

    def info(self) -> JobInfo:
        """The record: status, times and every attempt. Raises JobNotFound."""
        return self._record().info()

    def result(self, *, timeout: float | timedelta | None = None) -> R:
        """The result, typed as the task declares it; waits `timeout` seconds for it (None: for ever, 0: not at all).

        Raises:
            JobNotReady: not within the timeout.
            JobFailed: the job failed; it carries the record.
            JobCancelled: it was cancelled, or expired before it started.
            JobNotFound: an unknown id, or the result has expired.
        """
        until = _until(timeout)
        wait = _FIRST_WAIT
        while (status := self.status()) not in _ENDED:
            if self._app.run_next():
                continue
            left = until - time.monotonic()
            if left <= 0:
                raise JobNotReady(f"job {self.id} is {status}")
            time.sleep(min(wait, left))
            wait = min(wait * 1.5, _LONGEST_WAIT)
        return self._ended()

    def _ended(self) -> R:
        record = self._record()
        if record.status is JobStatus.cancelled:
            raise JobCancelled(f"job {self.id}: {record.reason}" if record.reason else f"job {self.id} was cancelled")
        if record.status is JobStatus.failed:
            raise self._failure(record)
        message = json.loads(record.message)
        if not message["keep_result"]:
            return cast("R", None)
        text = self._app.store.result(self.id)
        if text is None:
            raise JobNotFound(
                f"job {self.id} has succeeded, and its result has expired: it was kept for {record.result_ttl:g} s"
            )
        if self._task is None:
            return cast("R", json.loads(text))
        return cast("R", self._task.codec(self._app.settings.payload_limit).decode_result(text))

    def _failure(self, record: Record) -> JobFailed:
        from queuekit.retry import Category

        info = record.info()
        last = info.attempts[-1] if info.attempts else None
        said = (
            f" ({last.error_message})"
            if last and last.error_message and last.error_message not in record.reason
            else ""
        )
        return JobFailed(
            f"job {self.id} ({info.task}) failed in attempt {last.number if last else 0}: {record.reason}{said}",
            info=info,
            category=(last.category if last else None) or Category.unknown,
            error_type=(last.error_type if last else None) or "",
            error_message=(last.error_message if last else None) or "",
        )

    def cancel(self, reason: str = "") -> bool:
        """Ask that the job end. True where it was not over: one that had not started never starts; a running one is
        told. Raises JobNotFound."""
        answer = self._app.store.cancel(self.id, reason)
        if answer == "missing":
            raise JobNotFound(f"no job {self.id!r} in namespace {self._app.settings.namespace!r}")
        return answer != "ended"

    # ---- the same, without blocking the loop ------------------------------------------------------------------------

    async def astatus(self) -> JobStatus:
        return await _in_thread(self.status)

    async def ainfo(self) -> JobInfo:
        return await _in_thread(self.info)

    async def aresult(self, *, timeout: float | timedelta | None = None) -> R:
        """result(), waiting in the loop: no thread is held meanwhile."""
        import asyncio

        until = _until(timeout)
        wait = _FIRST_WAIT
        while (status := await _in_thread(self.status)) not in _ENDED:
            if await _in_thread(self._app.run_next):
                continue
            left = until - time.monotonic()
            if left <= 0:
                raise JobNotReady(f"job {self.id} is {status}")
            await asyncio.sleep(min(wait, left))
            wait = min(wait * 1.5, _LONGEST_WAIT)
        return await _in_thread(self._ended)

    async def acancel(self, reason: str = "") -> bool:
        return await _in_thread(self.cancel, reason)


_ENDED = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled})


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    import asyncio  # half of what importing this would take: only for those who use it

    return await asyncio.to_thread(call, *args)


def _until(timeout: float | timedelta | None) -> float:
    if timeout is None:
        return math.inf
    return time.monotonic() + (timeout if isinstance(timeout, (int, float)) else timeout.total_seconds())
