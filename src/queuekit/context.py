"""current_job(): what a running task may know of its own job."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from queuekit.errors import JobCancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

__all__ = ["JobContext", "current_job"]


def _nobody() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class JobContext:
    """The job that is running here. Outside of a worker every field is empty and nothing has an effect, so that a task
    may be called as a plain function.

    Attributes:
        id: the job's id, "" outside of a job.
        attempt: from 1; 0 outside of a job.
        task: the task's name.
        deadline: when the hard `timeout` ends the attempt, None where there is no limit.
    """

    id: str = ""
    attempt: int = 0
    task: str = ""
    deadline: datetime | None = None
    _cancel_reason: Callable[[], str | None] = field(default=_nobody, repr=False, compare=False)

    def raise_if_cancelled(self) -> None:
        """For long synchronous code that nothing can interrupt: raises JobCancelled once a cancel was asked for."""
        reason = self._cancel_reason()
        if reason is not None:
            raise JobCancelled(f"job {self.id} was cancelled: {reason}" if reason else f"job {self.id} was cancelled")


_NONE = JobContext()
running: ContextVar[JobContext] = ContextVar("queuekit_job", default=_NONE)  # set by execution


def current_job() -> JobContext:
    """The job that is running in this context, or one without an id."""
    return running.get()
