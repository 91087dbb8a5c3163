"""Job: a handle to one job, from any process that reaches the store."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from typing_extensions import TypeVar

from queuekit.errors import JobCancelled, JobFailed, JobNotFound, JobNotReady, QueuekitError
from queuekit.job import JobStatus
from queuekit.message import Message
from queuekit.store.following import EVERY, Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from datetime import timedelta

    from queuekit.app import App
    from queuekit.job import JobInfo, Record
    from queuekit.task import Task

__all__ = ["Job"]

R = TypeVar("R")
T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.2  # seconds between two looks at the store
_READS = 5000  # statuses that one who waits for many reads in a second at most


class Job(Generic[R]):
    """One request to run a task.

    Attributes:
        id: the job's id; all that is needed to find it again: Job.fetch(id), or task.job(id).
        created: False where an existing job was found under the id, or with the key.
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
            PayloadError: the result does not fit its declared type any more, or is encoded by a codec that is not set
                here or has another key.
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

    def follow(self) -> Iterator[JobInfo]:
        """The record, as it is now and each time that its status, its attempts or its progress have changed, until the
        job has ended. Looks twice a second. Raises JobNotFound."""
        changes = Changes(self._app.store, self.id, self.info)
        while True:
            if (info := changes.look()) is not None:
                yield info
            if changes.over:
                return
            if not self._app.run_next():
                time.sleep(EVERY)

    def _ended(self) -> R:
        record = self._record()
        if record.status is JobStatus.cancelled:
            raise JobCancelled(f"job {self.id}: {record.reason}" if record.reason else f"job {self.id} was cancelled")
        if record.status is JobStatus.failed:
            raise self._failure(record)
        message = Message.to_publish(record.message)
        if not message.keep_result:
            return cast("R", None)
        text = self._app.store.result(self.id)
        if text is None:
            raise JobNotFound(
                f"job {self.id} has succeeded, and its result has expired: it was kept for {record.result_ttl:g} s"
            )
        text = message.decode_result(self._app.settings.payload_codec, text)
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

    def cancel(self, reason: str = "", *, whole: bool = False) -> bool:
        """Ask that the job end. True where it was not over: one that had not started never starts; a running one is
        told; so are the jobs that it has started.

        Args:
            whole: the workflow that it is a step of, in all.

        Raises:
            JobNotFound: an unknown id.
        """
        flow = self._record().flow if whole else ""
        answer = self._app.cancel_workflow(flow, reason) if flow else self._app.cancel(self.id, reason)
        if answer == "missing":
            raise JobNotFound(f"no job {self.id!r} in namespace {self._app.settings.namespace!r}")
        return answer != "ended"

    # ---- waiting for many -------------------------------------------------------------------------------------------

    @overload
    @staticmethod
    def wait_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: Literal[False] = False
    ) -> list[T]: ...
    @overload
    @staticmethod
    def wait_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: bool
    ) -> list[T | QueuekitError]: ...
    @staticmethod
    def wait_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: bool = False
    ) -> list[T] | list[T | QueuekitError]:
        """The results of all, in the order of the jobs; waits `timeout` seconds in all (None: for ever).

        The first job that has failed is raised at once; the others run on. With `return_exceptions` nothing about a
        single job is raised: in its place stands what result() would have raised, JobNotReady after the timeout.
        Looks at all jobs in one conversation with the store.

        Raises:
            JobNotReady: not all have ended within the timeout; the text says how many, and which is the first.
            JobFailed, JobCancelled, JobNotFound: as result().
        """
        many = _Many(jobs, return_exceptions=return_exceptions)
        until = _until(timeout)
        while not many.look():
            if many.run_next():
                continue
            left = until - time.monotonic()
            if left <= 0:
                many.give_up()
                break
            time.sleep(min(many.pause(), left))
        return cast("list[T]", many.outcomes)

    @overload
    @staticmethod
    async def await_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: Literal[False] = False
    ) -> list[T]: ...
    @overload
    @staticmethod
    async def await_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: bool
    ) -> list[T | QueuekitError]: ...
    @staticmethod
    async def await_all(
        jobs: Iterable[Job[T]], *, timeout: float | timedelta | None = None, return_exceptions: bool = False
    ) -> list[T] | list[T | QueuekitError]:
        """wait_all(), waiting in the loop: no thread is held meanwhile."""
        import asyncio

        many = _Many(jobs, return_exceptions=return_exceptions)
        until = _until(timeout)
        while not await _in_thread(many.look):
            if await _in_thread(many.run_next):
                continue
            left = until - time.monotonic()
            if left <= 0:
                many.give_up()
                break
            await asyncio.sleep(min(many.pause(), left))
        return cast("list[T]", many.outcomes)

    # ---- the same, without blocking the loop ------------------------------------------------------------------------

    async def astatus(self) -> JobStatus:
        return await _in_thread(self.status)

    async def ainfo(self) -> JobInfo:
        return await _in_thread(self.info)

    async def afollow(self) -> AsyncIterator[JobInfo]:
        """follow(), for web handlers: no thread is held while nothing happens."""
        import asyncio

        changes = Changes(self._app.store, self.id, self.info)
        while True:
            if (info := await _in_thread(changes.look)) is not None:
                yield info
            if changes.over:
                return
            if not await _in_thread(self._app.run_next):
                await asyncio.sleep(EVERY)

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

    async def acancel(self, reason: str = "", *, whole: bool = False) -> bool:
        return await _in_thread(lambda: self.cancel(reason, whole=whole))


class _Many:
    """What wait_all() and await_all() share: all but the waiting itself."""

    def __init__(self, jobs: Iterable[Job[Any]], *, return_exceptions: bool) -> None:
        self._jobs = list(jobs)
        self._return_exceptions = return_exceptions
        self._waiting = list(range(len(self._jobs)))
        self._homes = [job._app for job in self._jobs]  # noqa: SLF001  # of the same module
        self._apps = list(dict.fromkeys(self._homes))
        self._wait = _FIRST_WAIT
        self.outcomes: list[Any] = [None] * len(self._jobs)

    def look(self) -> bool:
        """Whether all have ended. Raises what one of them ended with, unless that is to be returned."""
        for app in self._apps:
            here = [place for place in self._waiting if self._homes[place] is app]
            statuses = app.store.statuses([self._jobs[place].id for place in here]) if here else []
            over = {place for place, status in zip(here, statuses, strict=True) if status is None or status in _ENDED}
            for place in sorted(over):
                self.outcomes[place] = self._outcome(self._jobs[place])
            self._waiting = [place for place in self._waiting if place not in over]
        return not self._waiting

    def _outcome(self, job: Job[Any]) -> Any:
        try:
            return job._ended()  # noqa: SLF001
        except QueuekitError as error:
            if not self._return_exceptions or isinstance(error, ConnectionError):  # the store is away
                raise
            return error

    def run_next(self) -> bool:
        return any(app.run_next() for app in self._apps)

    def pause(self) -> float:
        """Seconds until the next look: longer with each, and with the number of jobs."""
        now = self._wait
        self._wait = min(now * 1.5, max(_LONGEST_WAIT, len(self._waiting) / _READS))
        return now

    def give_up(self) -> None:
        """The time is over. Raises JobNotReady, unless that is to be returned."""
        first = self._jobs[self._waiting[0]]
        if not self._return_exceptions:
            raise JobNotReady(f"{len(self._waiting)} of {len(self._jobs)} jobs have not ended; the first is {first.id}")
        for place in self._waiting:
            self.outcomes[place] = JobNotReady(f"job {self._jobs[place].id} has not ended")


_ENDED = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled})


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    import asyncio  # half of what importing this would take: only for those who use it

    return await asyncio.to_thread(call, *args)


def _until(timeout: float | timedelta | None) -> float:
    if timeout is None:
        return math.inf
    return time.monotonic() + (timeout if isinstance(timeout, (int, float)) else timeout.total_seconds())
