"""current_job(): what a running task may know of its own job, and the steps that it is made of."""

from __future__ import annotations

import itertools
import json
import math
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from typing_extensions import ParamSpec, TypeVar

from queuekit.errors import ConfigError, JobCancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from datetime import datetime

__all__ = [
    "AsyncStep", "Enqueueable", "JobContext", "Start", "Step", "StepOptions", "StepRunner", "current_job", "starting",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")
J_co = TypeVar("J_co", covariant=True)


class StepRunner(Protocol):
    """Of the attempt that runs: see queuekit.execution.steps."""

    def place(self, name: str, key: str | int | None, on_unknown: str) -> Any: ...

    def run(self, place: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def arun(
        self, place: Any, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]: ...


@dataclass(frozen=True, slots=True)
class StepOptions:
    """See Step.options()."""

    key: str | int | None = None
    on_unknown: Literal["rerun", "fail"] = "rerun"


@dataclass(frozen=True, slots=True)
class Step:
    """`current_job().step`: call a function once for the job, whatever becomes of the attempt.

    `step("plan", make_plan, topic)` calls `make_plan(topic)` and keeps the result in the job's record before it gives
    it. In a later attempt (after a retry, a crash, a deploy) it gives what was kept, and calls nothing. What the
    function raises is not kept. A crash between its end and the keeping has it called again: hand
    `current_job().idempotency_key` on to whoever can tell two such calls.

    The result travels as JSON, by the function's return annotation. A step without a key is found by its name and by
    how many of that name were called before; all of them have to be called in the same order in each attempt.

    Outside of a worker it calls the function, and keeps nothing.

    Raises:
        StepChanged: an earlier attempt had another step in this place, or a result of another type.
        StepUnknown: with on_unknown="fail", it began in an earlier attempt, and nobody knows how that ended.
        StepError: a name or a key that cannot be; called within a step, or in async code.
        PayloadError: the result does not fit its annotation, or is over payload_limit or steps_limit.
        BlobAway: with the setting blobs: a large result could not be put there, or read from there.
        StaleAttempt: somebody else has ended this attempt: nothing of it counts any more.
    """

    _runner: StepRunner | None
    _options: StepOptions = StepOptions()

    def options(self, *, key: str | int | None = None, on_unknown: Literal["rerun", "fail"] = "rerun") -> Step:
        """The same with options.

        Args:
            key: the step is found by its name and this, wherever it is called: for loops over what may come in another
                order, or may change. Used once in an attempt.
            on_unknown: where a crash, or an error that does not say whether something was done, has left the step
                begun and not finished: "rerun" calls it again, "fail" raises StepUnknown. It costs one more call of the
                store.
        """
        return replace(self, _options=_checked(key, on_unknown))

    def __call__(self, name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._runner is None:
            return fn(*args, **kwargs)
        place = self._runner.place(name, self._options.key, self._options.on_unknown)
        result: R = self._runner.run(place, fn, args, kwargs)
        return result


@dataclass(frozen=True, slots=True)
class AsyncStep:
    """`current_job().astep`: a Step of an async function. The call counts, not the await: steps that are gathered are
    in the order in which they stand there."""

    _runner: StepRunner | None
    _options: StepOptions = StepOptions()

    def options(self, *, key: str | int | None = None, on_unknown: Literal["rerun", "fail"] = "rerun") -> AsyncStep:
        """See Step.options()."""
        return replace(self, _options=_checked(key, on_unknown))

    def __call__(
        self, name: str, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        if self._runner is None:
            return _awaited(fn(*args, **kwargs))
        place = self._runner.place(name, self._options.key, self._options.on_unknown)
        return self._runner.arun(place, fn, args, kwargs)


async def _awaited(work: Awaitable[R]) -> R:
    return await work


def _checked(key: str | int | None, on_unknown: Any) -> StepOptions:
    if on_unknown not in {"rerun", "fail"}:
        raise ConfigError(f'on_unknown={on_unknown!r} is not "rerun" or "fail"')
    return StepOptions(key, on_unknown)


class Enqueueable(Protocol[J_co]):
    """A call, or a workflow of whatever shape."""

    def enqueue(self) -> J_co: ...


def _nobody() -> str | None:
    return None


def _unheard(said: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class JobContext:
    """The job that is running here. Outside of a worker every field is empty and nothing has an effect, so that a task
    may be called as a plain function.

    Attributes:
        id: the job's id, "" outside of a job.
        attempt: from 1; 0 outside of a job.
        task: the task's name.
        deadline: when the hard `timeout` ends the attempt, None where there is no limit.
        step_name: the step that is running here, as the record names it ("draft#0", "draft:intro"), "" outside of one.
    """

    id: str = ""
    attempt: int = 0
    task: str = ""
    deadline: datetime | None = None
    step_name: str = ""
    _cancel_reason: Callable[[], str | None] = field(default=_nobody, repr=False, compare=False)
    _say: Callable[[str], object] = field(default=_unheard, repr=False, compare=False)
    _steps: StepRunner | None = field(default=None, repr=False, compare=False)
    _fence: str = field(default="", repr=False, compare=False)
    _started: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def raise_if_cancelled(self) -> None:
        """For long synchronous code that nothing can interrupt: raises JobCancelled once a cancel was asked for."""
        reason = self._cancel_reason()
        if reason is not None:
            raise JobCancelled(f"job {self.id} was cancelled: {reason}" if reason else f"job {self.id} was cancelled")

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the task is, for `job.info().progress` and those who follow the job. It may be called as often as
        one likes: the store hears the latest of it twice a second, and the last of it at the attempt's end. It stands
        in the record in the clear.

        Args:
            done: of `total`, in whatever unit.
            total: None where it is not known.
            message: for people; cut after 500 characters.

        Raises:
            ValueError: done or total is no number, is negative or not finite.
        """
        for name, value in (("done", done), ("total", total)):
            known = value is not None or name == "done"
            if known and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"progress({name}={value!r}): a number that is not negative, please")
        self._say(json.dumps([done, total, str(message)[:500]], separators=(",", ":")))

    def enqueue(self, what: Enqueueable[J_co], *, key: str | int | None = None) -> J_co:
        """Start a child: a job, a group or a workflow of this job's own. `what.enqueue()` otherwise, and outside of a
        worker no more than that.

        A later attempt of this job finds the children that an earlier one has started instead of starting them again.
        Without a key a child is found by how many were started before it: all of them in the same order, and with the
        same arguments, in each attempt. Whoever cancels this job cancels its children.

        Args:
            what: a call made by bind(), or what chain(), group(), chord() or Workflow() have made.
            key: the child is found by this, wherever it is started: for loops over what may come in another order.

        Raises:
            EnqueueError: as Task.enqueue(); or an earlier attempt has started another child in this place.
            StaleAttempt: somebody else has ended this attempt: nothing was started.
        """
        return self._start(what, self._child(key))

    def aenqueue(self, what: Enqueueable[J_co], *, key: str | int | None = None) -> Coroutine[Any, Any, J_co]:
        """enqueue(), without blocking the loop: see Task.aenqueue(). The call counts, not the await."""
        from queuekit.task import enqueue_off_loop

        id = self._child(key)
        return enqueue_off_loop(lambda: self._start(what, id), id)

    def _child(self, key: str | int | None) -> str:
        """The id that the child has in each attempt."""
        if not self.id:
            return ""
        said = f"#{next(self._started)}" if key is None else f":{key}"
        return blake2b(f"{self.id}\0{said}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def _start(self, what: Enqueueable[J_co], id: str) -> J_co:
        if not id:
            return what.enqueue()
        before = starting.set(Start(self.id, self._fence, id))
        try:
            return what.enqueue()
        finally:
            starting.reset(before)

    @property
    def step(self) -> Step:
        """A synchronous step of this job: `step(name, fn, *args, **kwargs)`."""
        return Step(self._steps)

    @property
    def astep(self) -> AsyncStep:
        """An async step of this job: `await astep(name, fn, *args, **kwargs)`."""
        return AsyncStep(self._steps)

    @property
    def idempotency_key(self) -> str:
        """The same in each attempt, and another for each job and each of its steps: for a service that does once what
        it is asked twice under one key. "" outside of a job."""
        return f"{self.id}:{self.step_name}" if self.step_name else self.id


@dataclass(frozen=True, slots=True)
class Start:
    """In whose name something is enqueued here, by which fence; and the id that it gets if it has none of its own."""

    parent: str
    fence: str
    id: str


starting: ContextVar[Start | None] = ContextVar("queuekit_starting", default=None)
_NONE: Final = JobContext()
running: ContextVar[JobContext] = ContextVar("queuekit_job", default=_NONE)  # set by execution


def current_job() -> JobContext:
    """The job that is running in this context, or one without an id."""
    return running.get()
