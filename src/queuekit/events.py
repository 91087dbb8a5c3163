"""Signals out: what happens to jobs, told to hooks.

A hook is a callable that takes a JobEvent. It is told of a fact after the store has recorded it, and never of an
outcome that the store refused. What a crash does to it: a process that dies between the record and the hook tells
nobody, so a hook hears of each fact at most once. The record is the truth; events are for metrics, traces and alerts.

Which process and thread: `enqueued` in the program that enqueues, `cancelled` of a job that had not started in the one
that cancels it; what an attempt does in the worker's process or forked child that runs it, in the thread that runs
synchronous tasks; what is seen of attempts that nobody ended (`lost`, and the `retried`, `failed` or `cancelled` that
comes of it) in a steward. So a hook has to be thread-safe and may not expect to see a job's whole life in one process.

Order: one process tells of a job's facts in their order. Between processes nothing waits for a hook: the next attempt
may have `started` before the steward tells that the one before it was `lost`. Where the order matters, sort by `at`.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, cast

from queuekit import confirming
from queuekit.errors import ConfigError
from queuekit.imports import import_named
from queuekit.job import JobStatus, moment
from queuekit.message import InvalidMessage, Message

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from queuekit.job import Record
    from queuekit.retry import Category
    from queuekit.store import Store

__all__ = ["Around", "EventKind", "Hooks", "JobEvent", "JobHook", "JobInstrument", "load_hooks"]

log = logging.getLogger("queuekit")


class EventKind(StrEnum):
    """What has happened. More may come: compare with what you know, and do not enumerate.

    Each attempt that has started ends in exactly one event, which has a `duration`: retried, succeeded, failed,
    cancelled, lost or released. Each job ends in exactly one succeeded, failed or cancelled.
    """

    enqueued = "enqueued"
    """Recorded: from here on the job is accepted. A failed job that was revived is told with the reason "revived"."""
    started = "started"
    """An attempt was claimed. Its user code starts once the hooks have returned."""
    retried = "retried"
    """The attempt failed, and the job runs again in `delay` seconds."""
    succeeded = "succeeded"
    """The result is recorded."""
    failed = "failed"
    """The job is a dead letter. `attempt` 0: no worker could read its record."""
    cancelled = "cancelled"
    """On demand, or since it had expired before it started. Without a `duration` it did not run at that time."""
    lost = "lost"
    """The worker or process of the attempt is gone. `delay` None: the job has ended; failed or cancelled follows."""
    released = "released"
    """The attempt was handed back and does not count: its worker stopped, knew no such task, or died with others."""
    throttled = "throttled"
    """The job was held back by a limit. Nothing limits jobs yet: no such event is told so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One fact about one job, frozen. It holds no argument, no result and no error message of a private task.

    Attributes:
        kind: what has happened.
        job_id, task, queue, backend: which job.
        at: when, on the store's clock. The end of an attempt is reckoned from its start by the clock of the process.
        attempt: from 1; 0 where none has started. A released attempt's number is used again.
        worker: the worker incarnation that runs, or ran, the attempt; "" where there is none.
        duration: seconds from the start of the attempt to its end, on the one event that tells of its end.
        waited: of started: seconds from when the job could have run (enqueued, its delay or retry due) to its start.
        delay: seconds until the next attempt can start; of enqueued: until the first, None for at once.
        category: of the error that ended the attempt.
        error_type: the qualified name of the error's class.
        reason: in words; of a private task the category, or what somebody gave as the reason of a cancel.
        private: the task keeps its arguments, results and error messages to itself.
        headers: what travels with the job: `traceparent`, `tracestate`, `baggage`, and what other hooks have added.
    """

    kind: EventKind
    job_id: str
    task: str
    queue: str
    backend: str
    at: datetime
    attempt: int = 0
    worker: str = ""
    duration: float | None = None
    waited: float | None = None
    delay: float | None = None
    category: Category | None = None
    error_type: str | None = None
    reason: str | None = None
    private: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What there is of it, fit for JSON; `at` in ISO 8601."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {
            **{name: value for name, value in found.items() if value not in (None, "", {})},
            "kind": self.kind.value,
            "at": self.at.isoformat(),
        }


class JobHook(Protocol):
    """A hook: any callable that takes a JobEvent.

    It is called in whatever thread the fact came about, several at a time, also in forked children: it must be
    thread-safe, and whatever connection it keeps has to survive a fork. The job waits for it: before its user code, and
    before the engine acknowledges it. What takes long belongs into a queue of the hook's own. What it raises is logged,
    once for each hook in each process, and never touches the job.
    """

    def __call__(self, event: JobEvent, /) -> None: ...


class JobInstrument(JobHook, Protocol):
    """A hook that also stands around the work: a tracer, a log context. Each of these methods may be left out.

    What they raise is logged once, as with a hook; a context manager's `__exit__` cannot hold an error back.
    """

    def around_enqueue(self, event: JobEvent, headers: MutableMapping[str, str], /) -> AbstractContextManager[object]:
        """Around the record of one job. `event` is what will be told, `at` being this process's clock yet. What is put
        into `headers` is sealed with the record and travels to every attempt: keep it small and free of secrets. Where
        a hook has this method, each job of a batch is recorded by itself."""
        ...

    def around_attempt(self, event: JobEvent, /) -> AbstractContextManager[object]:
        """Around one attempt, user code and record. It is entered after `started` was told, in the context that the
        task runs in, synchronous or async: what it sets in a context variable, the task sees. The event of the
        outcome is told inside. `__exit__` gets the error of the user code, which for a private task is left out."""
        ...

    def flush(self) -> None:
        """Send what is held back: this process ends now, without the interpreter's exit handlers. Called in forked
        children; may take a few seconds."""
        ...


class Hooks:
    """The hooks of a process, called one after the other. False where there are none, so that nothing is paid.

    Attributes:
        stand_around_enqueue: whether one of them does, for which each job is recorded by itself.
    """

    def __init__(self, hooks: Sequence[JobHook] = ()) -> None:
        self._hooks = tuple(hooks)
        self._want = [_wants(hook) for hook in hooks]
        self.stand_around_enqueue = any(hasattr(hook, "around_enqueue") for hook in hooks)
        self._said: set[JobHook | int] = set()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def wants(self, kind: EventKind) -> bool:
        """Whether there is anybody to tell of it, or to stand around the work that it is of."""
        return bool(self._want) and any(want(kind) for want in self._want)

    def __call__(self, event: JobEvent, context: contextvars.Context | None = None) -> None:
        """Tell all of them, in the given context."""
        for hook in self._hooks:
            self._safely(hook, context, hook, event)

    def flush(self) -> None:
        """This process ends without exit handlers: what is held back is sent, by the hooks and to the store."""
        confirming.flush()
        for hook in self._hooks:
            flush = getattr(hook, "flush", None)
            if flush is not None:
                self._safely(hook, None, flush)

    @contextmanager
    def around_enqueue(self, event: JobEvent, headers: MutableMapping[str, str]) -> Iterator[None]:
        around = Around(self, None)
        around.enter("around_enqueue", event, headers)
        try:
            yield
        except BaseException as error:
            around.leave(error)
            raise
        around.leave(None)

    def around_attempt(self, event: JobEvent, context: contextvars.Context) -> Around:
        """Enter; the caller has to leave()."""
        around = Around(self, context)
        around.enter("around_attempt", event)
        return around

    def _safely(self, hook: JobHook, context: contextvars.Context | None, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args) if context is None else context.run(call, *args)
        except KeyboardInterrupt:  # nobody's but the user's
            raise
        except BaseException:
            if id(hook) in self._said:
                log.debug("the hook %r failed again", hook, exc_info=True)
            else:
                self._said.add(id(hook))
                log.exception("the hook %r failed; its further failures are logged at DEBUG. No job is touched", hook)
            return None


WANTS = "_queuekit_wants"


def _wants(hook: JobHook) -> Callable[[EventKind], bool]:
    """What our own log says: it is there in each worker, and mostly has no use for half of the events."""
    wants: Callable[[EventKind], bool] | None = getattr(hook, WANTS, None)
    return wants or (lambda _: True)


class Around:
    """The context managers of all hooks around one piece of work."""

    def __init__(self, hooks: Hooks, context: contextvars.Context | None) -> None:
        self._hooks, self.context = hooks, context
        self._entered: list[tuple[JobHook, AbstractContextManager[object]]] = []

    def enter(self, name: str, *args: Any) -> None:
        for hook in self._hooks._hooks:  # noqa: SLF001  # of this module
            method = getattr(hook, name, None)
            if method is not None:
                self._hooks._safely(hook, self.context, self._enter, hook, method, *args)  # noqa: SLF001

    def _enter(self, hook: JobHook, method: Callable[..., AbstractContextManager[object]], *args: Any) -> None:
        manager = method(*args)
        manager.__enter__()
        self._entered.append((hook, manager))

    def leave(self, error: BaseException | None) -> None:
        """All of them, the last first. What they return is nobody's business: an error stays one."""
        while self._entered:
            hook, manager = self._entered.pop()
            told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
            self._hooks._safely(hook, self.context, manager.__exit__, *told)  # noqa: SLF001


def load_hooks(hooks: Iterable[JobHook | str]) -> list[JobHook]:
    """Those given by name ("package.module:name") imported. A class is called, without arguments.

    Raises:
        ConfigError: there is no such module or name, or it cannot be called.
    """
    return [_load(hook) if isinstance(hook, str) else _callable(hook, repr(hook)) for hook in hooks]


def _load(name: str) -> JobHook:
    found = import_named("hooks", name)
    return _callable(found() if isinstance(found, type) else found, name)


def _callable(hook: Any, name: str) -> JobHook:
    if not callable(hook):
        raise ConfigError(f"hooks={name}: a hook is called with a JobEvent, and this cannot be called")
    return cast("JobHook", hook)


# ---- making events -------------------------------------------------------------------------------------------------


def event_of(message: Message, kind: EventKind, at: float, **said: Any) -> JobEvent:
    """An event of the job that the message asks for. `at` in seconds since the epoch."""
    return JobEvent(
        kind=kind,
        job_id=message.id,
        task=message.task,
        queue=message.queue,
        backend=message.backend,
        at=moment(at),
        private=message.hidden,
        headers=message.headers,
        **said,
    )


def said_of(end: Mapping[str, Any], *, private: bool) -> dict[str, Any]:
    """What an attempt's recorded end says that an event may say as well."""
    from queuekit.retry import Category

    category = end.get("category")
    return {
        "category": Category(category) if category else None,
        "error_type": end.get("error_type"),
        "reason": category if private and category else end.get("reason"),
        "delay": end.get("delay"),
    }


def settled(record: Record) -> list[JobEvent]:
    """The events of a job whose attempt was just ended from outside, by reap(), leave() or the beat of its worker."""
    try:
        message = Message.to_publish(record.message)
    except InvalidMessage:
        return []
    ended = [(start, end) for start, end in record.runs if end is not None and end.get("category") in _FROM_OUTSIDE]
    if not ended:
        return []
    start, end = ended[-1]
    event = event_of(
        message,
        EventKind.lost,
        end["at"],
        attempt=start["number"],
        worker=start["worker"],
        duration=end["at"] - start["at"],
        **said_of(end, private=message.hidden),
    )
    over = record.status in _OVER and record.finished == end["at"]  # in the same step
    lost = end["outcome"] == "lost"
    told = [replace(event, delay=None if over else event.delay)] if lost else []
    if over:
        reason = event.reason if record.status is JobStatus.failed else record.reason
        duration = None if lost else event.duration
        told.append(replace(event, kind=EventKind(record.status.value), reason=reason, delay=None, duration=duration))
    elif end["outcome"] == "released":
        told.append(replace(event, kind=EventKind.released))
    elif not lost:
        told.append(replace(event, kind=EventKind.retried))
    return told


def tell_cancelled(hooks: Hooks, store: Store, ids: Iterable[str]) -> None:
    """Tell of jobs that were just cancelled while they did not run. Of one that cannot be read nobody hears."""
    for id in ids if hooks else ():
        with suppress(ConnectionError, InvalidMessage):
            record = store.get(id)
            if record is not None and record.finished is not None:
                message, attempt = Message.to_publish(record.message), record.attempt
                said = {"attempt": attempt, "reason": record.reason or None}
                hooks(event_of(message, EventKind.cancelled, record.finished, **said))


def tell_revived(hooks: Hooks, store: Store, message: Message) -> None:
    """Tell of a job that was just queued again by hand."""
    if hooks:
        with suppress(ConnectionError):
            hooks(event_of(message, EventKind.enqueued, store.now(), reason="revived"))


_FROM_OUTSIDE = frozenset({"lost", "time_limit"})
_OVER = frozenset({JobStatus.failed, JobStatus.cancelled})
