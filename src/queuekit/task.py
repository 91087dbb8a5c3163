"""@agent_task, and the Task it makes: a function that can be called here, or enqueued to run elsewhere.

A task is declared once, under a name that every process agrees on, and knows no engine: what it becomes on one is
compiled when a worker starts or `native` is asked for.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Self, TypeAlias, cast, get_args, overload

from typing_extensions import ParamSpec, TypeVar

from queuekit.errors import ConfigError
from queuekit.message import ID_PATTERN, MAX_TIMEOUT, QUEUE_PATTERN, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from types import CodeType

    from queuekit.handle import Job
    from queuekit.payload import Codec
    from queuekit.retry import RetryPolicy
    from queuekit.schedules import Scheduled
    from queuekit.schedules.when import When
    from queuekit.workflow import Flow, Group, Part, Step

__all__ = ["Call", "Options", "Task", "agent_task", "enqueue_off_loop", "find_task", "registered_tasks"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", default=Any)
A = TypeVar("A")
B = TypeVar("B")
Seconds: TypeAlias = float | timedelta
OnDuplicate: TypeAlias = Literal["existing", "reject", "replace", "debounce"]

_registry: dict[str, Task[..., Any, Any]] = {}
_scopes: dict[str, CodeType] = {}  # the code of the module that declared it
MAX_KEY: Final = 200  # characters
BATCH: Final = 200  # jobs that are recorded in one step: some milliseconds, in which the store does nothing else
_MAIN: Final = {"__main__", "__mp_main__"}  # the second: as multiprocessing imports it into a spawned process
_NO_ROOM: Final = "Declare it at the top of a module, or give it a name that every process knows: @agent_task(name=...)"


def find_task(name: str) -> Task[..., Any, Any] | None:
    """The task that was declared under the name, or under that alias, in this process."""
    return _registry.get(name)


def registered_tasks() -> list[Task[..., Any, Any]]:
    """All tasks declared in this process, without aliases, by name."""
    return [task for name, task in sorted(_registry.items()) if task.name == name]


@dataclass(frozen=True, slots=True)
class Options:
    """What one request may say otherwise than its task. None: as the task, or the settings, have it. In seconds."""

    id: str | None = None
    queue: str | None = None
    delay: float | None = None
    at: datetime | None = None
    expires_in: float | None = None
    expires_at: datetime | None = None
    priority: int | None = None
    retry: RetryPolicy | str | None = None
    timeout: float | None = None
    soft_timeout: float | None = None
    result_ttl: float | None = None
    backend: str | None = None
    key: str | None = None
    on_duplicate: OnDuplicate | None = None
    key_ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A request as a value: what to run, with what, and how. Made by Task.bind().

    Attributes:
        rule, undo: what on_failure() and compensate() have said, for a step of a workflow.
    """

    task: Task[..., R, Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    rule: Literal["stop", "skip"] = "stop"
    undo: Call[Any] | Callable[[Any], Call[Any]] | None = None

    def enqueue(self) -> Job[R]:
        """Hand it over: see Task.enqueue()."""
        from queuekit.app import current_app

        return current_app().enqueue(self)

    async def aenqueue(self) -> Job[R]:
        """enqueue(), without blocking the loop: see Task.aenqueue()."""
        return await enqueue_off_loop(self.enqueue, self.task.request.id)

    def then(self, step: Step[R, B] | Callable[[R], Call[B]] | Callable[[R], Part[B]], /) -> Flow[B]:
        """A chain: this, and after it the step, which gets the result."""
        from queuekit.workflow import chain

        return chain(self, step)

    @overload
    def on_failure(self, rule: Literal["stop"], /) -> Call[R]: ...
    @overload
    def on_failure(self, rule: Literal["skip"], /) -> Call[R | None]: ...
    def on_failure(self, rule: Literal["stop", "skip"], /) -> Call[Any]:
        """What it means to those who wait for this step that it has failed, or was cancelled.

        Args:
            rule: "stop", as without this: they are cancelled, and those who wait for them. "skip": they go on without
                it, and get None in the place of its result.

        Raises:
            ConfigError: another rule.
        """
        if rule not in {"stop", "skip"}:
            raise ConfigError(f'on_failure({rule!r}) of a step of {self.task.name!r}: "stop" or "skip"')
        return replace(self, rule=rule)

    def compensate(self, undo: Call[Any] | Callable[[R], Call[Any]], /) -> Call[R]:
        """What undoes this step: it runs where the step has succeeded, and its workflow was then stopped by the failure
        or the cancel of another; after all of the workflow has ended, and those of later steps before those of earlier
        ones. A function gets the step's result, to be handed on."""
        return replace(self, undo=undo)


async def enqueue_off_loop(call: Callable[[], A], id: str | None) -> A:
    """What the call gives, which enqueues something under that id: see Task.aenqueue()."""
    from secrets import token_hex

    from queuekit.app import current_app
    from queuekit.errors import EnqueueError
    from queuekit.offloop import off_loop

    app = current_app()
    patience = app.settings.enqueue_timeout if app.in_use else 5.0  # reading them would block the loop

    def refusal() -> EnqueueError:
        name = id or token_hex(16)
        return EnqueueError(
            f"job {name} was not enqueued within {patience:g} s: other calls wait for the store, and none of them got "
            "through. The job was not recorded",
            recorded=False,
            job_id=name,
        )

    return await off_loop(call, patience, refusal)


class Task(Generic[P, R, C]):
    """A declared task. Made by @agent_task, or by options() as a copy that says something otherwise.

    Attributes:
        name: the same in every process; messages and records carry it.
        is_async: whether the function is `async def`.
    """

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        name: str,
        unimportable: str | None,
        aliases: tuple[str, ...],
        queue: str,
        retry: RetryPolicy | str | None,
        timeout: float | None,
        soft_timeout: float | None,
        result_ttl: float | None,
        keep_result: bool,
        priority: int,
        private: bool,
        schedule: Any = None,
        max_concurrency: int | None = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = name
        self.aliases = aliases
        self.queue = queue
        self.retry = retry
        self.timeout = timeout
        self.soft_timeout = soft_timeout
        self.result_ttl = result_ttl
        self.keep_result = keep_result
        self.priority = priority
        self.private = private
        self.schedule = schedule
        self.max_concurrency = max_concurrency
        self.is_async = inspect.iscoroutinefunction(fn)
        self.request = Options()
        self._unimportable = unimportable
        self._codecs: dict[int, Codec] = {}

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function here and now, as if it were no task."""
        return cast("C", self.fn(*args, **kwargs))

    def codec(self, limit: int) -> Codec:
        """Turns arguments and results into JSON and back. `limit`: the most bytes that either may have."""
        if limit not in self._codecs:
            from queuekit.payload import Codec

            self._codecs[limit] = Codec(self.fn, task=self.name, limit=limit)
        return self._codecs[limit]

    @property
    def module(self) -> str:
        """The module of its function, by the name under which another process imports it."""
        return _main_module(self.fn) if self.fn.__module__ in _MAIN else self.fn.__module__

    @functools.cached_property
    def plain(self) -> bool:
        """Whether its jobs, with the options of this copy of it, may run at once and on the App's backend."""
        asked = self.request
        later = (asked.at, asked.delay, asked.expires_at, asked.expires_in)
        return self._unimportable is None and later == (None,) * 4 and asked.key is None and asked.backend is None

    def check_importable(self) -> None:
        """Raises ConfigError for a task of which no worker could ever know."""
        if self._unimportable is not None:
            raise ConfigError(
                f"task {self.name!r} was declared in {self._unimportable}, which a worker cannot import. "
                "Put it into a file: a task in x.py is found by `queuekit worker x.py`"
            )

    # ---- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Hand the job over. When this returns, the job is recorded, and will end in a terminal state.

        Raises:
            PayloadError: an argument that does not fit; nothing was recorded.
            EnqueueError: the store could not be reached within the setting enqueue_timeout.
            ConfigError: no backend, no broker, or a task that no worker can import.
        """
        from queuekit.app import current_app

        return current_app().enqueue(Call(self, args, kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """enqueue(), without blocking the loop: in one of eight threads that are there for that.

        Where it is cancelled before one of them has come to it, the job is not recorded. After that nobody knows: it
        may be recorded, and will run then. Enqueue it again under an id of your own (`options(id=)`), which doubles
        nothing, or cancel that.

        Raises:
            EnqueueError: as enqueue(); and where no thread has come to it within enqueue_timeout, in which no other
                call got through to the store.
        """
        return await enqueue_off_loop(lambda: self.enqueue(*args, **kwargs), self.request.id)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The request as a value, to be enqueued later."""
        return Call(self, args, kwargs)

    def map(self: Step[A, B], items: Iterable[A], /) -> Group[B]:
        """A group: this task, once for each of the items."""
        from queuekit.workflow import group

        return group([self.bind(item) for item in items])

    def enqueue_many(
        self, calls: Iterable[Call[R] | tuple[Any, ...]], *, progress: Callable[[int], object] | None = None
    ) -> list[Job[R]]:
        """Hand over many jobs: calls made by bind(), or tuples of positional arguments.

        They are taken in batches of 200, each of which is checked before any of it is recorded, and then recorded in
        one step: all of it or nothing. The next is taken and checked while one is on its way. `progress` is called with
        the number of jobs that are recorded so far.

        Raises:
            BulkEnqueueError: it broke off after a batch that is recorded; `accepted` and `jobs` say what is.
            EnqueueError, PayloadError: as enqueue() does, where nothing is recorded.
        """
        from queuekit.errors import BulkEnqueueError

        jobs: list[Job[R]] = []
        try:
            for batch in self._in_batches(calls, BATCH, ahead=True):
                jobs += batch
                if progress is not None:
                    progress(len(jobs))
        except BulkEnqueueError as error:
            error.jobs = jobs
            raise
        return jobs

    async def aenqueue_many(
        self, calls: Iterable[Call[R] | tuple[Any, ...]], *, progress: Callable[[int], object] | None = None
    ) -> list[Job[R]]:
        """enqueue_many(), without blocking the loop: in a thread, which calls `progress` too."""
        import asyncio

        return await asyncio.to_thread(self.enqueue_many, calls, progress=progress)

    def enqueue_batches(
        self, calls: Iterable[Call[R] | tuple[Any, ...]], *, size: int = BATCH
    ) -> Iterator[list[Job[R]]]:
        """enqueue_many() for more than is to be in memory at a time: takes `size` of the calls, records them, and gives
        their jobs, whenever it is asked for the next. Raises as enqueue_many() does."""
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1000:
            raise ConfigError(f"size={size!r} in enqueue_batches(): 1 to 1000 jobs, which are recorded in one step")
        return self._in_batches(calls, size)

    def _in_batches(
        self, calls: Iterable[Call[R] | tuple[Any, ...]], size: int, *, ahead: bool = False
    ) -> Iterator[list[Job[R]]]:
        from queuekit.app import current_app

        each = (call if isinstance(call, Call) else Call(self, tuple(call)) for call in calls)
        return current_app().enqueue_batches(each, size, ahead=ahead)

    def options(
        self,
        *,
        id: str | None = None,
        queue: str | None = None,
        delay: Seconds | None = None,
        at: datetime | None = None,
        expires: Seconds | datetime | None = None,
        key: str | None = None,
        on_duplicate: OnDuplicate | None = None,
        key_ttl: Seconds | None = None,
        priority: int | None = None,
        retry: RetryPolicy | str | None = None,
        timeout: Seconds | None = None,
        soft_timeout: Seconds | None = None,
        result_ttl: Seconds | None = None,
        backend: str | None = None,
    ) -> Self:
        """The same task with other options, for the calls made through the copy.

        Args:
            id: the job's id. Enqueueing the same id with the same arguments again gives the existing job.
            delay: seconds from now; `at`: a moment with a time zone. Not both.
            expires: a job that has not started by then (seconds from now, or a moment) is cancelled.
            key: what the job is about, such as "customer-17": while a job of this task with the same key has not
                ended, no other is made. It stands in the record as it is.
            on_duplicate: what a second one does. "existing" (the default): give the first, whatever its arguments;
                `Job.created` is False. "reject": raise DuplicateJob. "replace": cancel the first, which has not
                started, and take its place. "debounce": put the first, which has not started, off by `delay`, with
                the new arguments. One that has started is left as it is by the last two, and given.
            key_ttl: seconds from now that the key is held at least, also once the job has succeeded or failed.
            priority: 0 to 9, higher first. Engines keep four levels apart: 0-2, 3-5, 6-8 and 9.
            backend: the engine that is to run it, where that is not the setting's. Its stewards publish it at their
                next tick.

        Raises:
            ConfigError: a value that cannot be.
        """
        where = f"options() of task {self.name!r}"
        if id is not None and not (isinstance(id, str) and ID_PATTERN.match(id)):
            raise ConfigError(f"id={id!r} in {where}: 1 to 128 letters, digits, '_' and '-', as all engines take them")
        if delay is not None and at is not None:
            raise ConfigError(f"delay and at in {where}: give one of them")
        changes: dict[str, Any] = {
            "id": id,
            "queue": None if queue is None else _queue(queue, where),
            "backend": None if backend is None else _backend(backend, where),
            "delay": None if delay is None else _seconds("delay", delay, where, zero=True),
            "at": None if at is None else _aware("at", at, where),
            "priority": None if priority is None else _priority(priority, where),
            "retry": _retry(retry, where),
            "timeout": None if timeout is None else _seconds("timeout", timeout, where),
            "soft_timeout": None if soft_timeout is None else _seconds("soft_timeout", soft_timeout, where),
            "result_ttl": None if result_ttl is None else _seconds("result_ttl", result_ttl, where, zero=True),
            "key": None if key is None else _key(key, where),
            "on_duplicate": on_duplicate,
            "key_ttl": None if key_ttl is None else _seconds("key_ttl", key_ttl, where),
        }
        if isinstance(expires, datetime):
            changes["expires_at"] = _aware("expires", expires, where)
        elif expires is not None:
            changes["expires_in"] = _seconds("expires", expires, where)
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.pop("plain", None)
        copy.request = replace(self.request, **{name: value for name, value in changes.items() if value is not None})
        _check_limits(copy.request.soft_timeout or self.soft_timeout, copy.request.timeout or self.timeout, where)
        _check_key(copy.request, where)
        return copy

    # ---- elsewhere --------------------------------------------------------------------------------------------------

    def message(self, id: str, args: list[Any], kwargs: dict[str, Any], *, backend: str, default_ttl: float) -> Message:
        """What travels for a job of this task, with the options of this copy of it. `args` and `kwargs` as the codec
        has encoded them; `default_ttl`: the setting result_ttl, for a task that has none of its own."""
        asked = self.request
        ttls = (asked.result_ttl, self.result_ttl, default_ttl)
        return Message(
            id=id,
            task=self.name,
            args=args,
            kwargs=kwargs,
            queue=asked.queue or self.queue,
            backend=backend,
            priority=self.priority if asked.priority is None else asked.priority,
            timeout=asked.timeout or self.timeout,
            soft_timeout=asked.soft_timeout or self.soft_timeout,
            result_ttl=next(ttl for ttl in ttls if ttl is not None),
            keep_result=self.keep_result,
            private=self.private,
            retry=asked.retry if asked.retry is None or isinstance(asked.retry, str) else asked.retry.to_dict(),
        )

    def job(self, id: str) -> Job[R]:
        """A handle to the job of that id. Asks nobody: whether it exists shows when the handle is used."""
        from queuekit.app import current_app
        from queuekit.handle import Job

        return Job(id, app=current_app(), task=self)

    @property
    def native(self) -> Any:
        """What the task is compiled to on the current backend: the Celery task, the RQ function, the Dramatiq actor."""
        from queuekit.app import current_app

        return current_app().adapter.native(self)


# ---- the decorator -------------------------------------------------------------------------------------------------


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R, R]: ...


@overload
def agent_task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
@overload
def agent_task(fn: Callable[P, R], /) -> Task[P, R, R]: ...
@overload
def agent_task(
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    queue: str = "default",
    retry: RetryPolicy | str | None = None,
    timeout: Seconds | None = None,
    soft_timeout: Seconds | None = None,
    result_ttl: Seconds | None = None,
    keep_result: bool = True,
    priority: int = 0,
    private: bool = False,
    schedule: When | Scheduled | Sequence[When | Scheduled] | None = None,
    max_concurrency: int | None = None,
) -> _Decorator: ...
def agent_task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    queue: str = "default",
    retry: RetryPolicy | str | None = None,
    timeout: Seconds | None = None,
    soft_timeout: Seconds | None = None,
    result_ttl: Seconds | None = None,
    keep_result: bool = True,
    priority: int = 0,
    private: bool = False,
    schedule: When | Scheduled | Sequence[When | Scheduled] | None = None,
    max_concurrency: int | None = None,
) -> Any:
    """Declare a task: `@agent_task`, or `@agent_task(queue="documents", retry=RetryPolicy.for_llm(), timeout=300)`.

    Args:
        name: as messages and records carry it; module and function name by default. A task in a script that is run as
            `python x.py` is named after the file: `x.task`.
        aliases: names that it had before, so that old jobs still find it.
        retry: a policy, the name of one in the settings, or None: an exception fails the job at once, and a job whose
            worker died runs again, 3 attempts in all.
        timeout: seconds after which an attempt is ended; soft_timeout: seconds after which SoftTimeout is raised in it.
        result_ttl: seconds that the result is kept; one day by default.
        keep_result: False: the result is thrown away.
        priority: 0 to 9, higher first.
        private: keep arguments, results and error messages out of engine-visible fields and logs.
        schedule: Cron, Every or At; Scheduled for one with arguments; or several. A worker records it at its start.
        max_concurrency: how many jobs of the task one worker process runs at a time; as many as it has room for by
            default. A worker whose pool cannot keep it is refused at its start.

    Raises:
        ConfigError: a function that no worker could find by its name, a name that is taken, a value that cannot be.
    """

    scope = sys._getframe(1).f_code  # noqa: SLF001  # of the module that declares it

    def declare(fn: Callable[..., Any]) -> Task[..., Any, Any]:
        if not inspect.isfunction(fn):
            raise ConfigError(f"@agent_task takes a function (def or async def), not {fn!r}")
        where = f"@agent_task of {fn.__qualname__}"
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigError(f"{where}: a generator has no one result. Return a value, or enqueue a job for each item")
        found, unimportable = _name_of(fn) if name is None else (_given_name(name, where), _unimportable_main(fn))
        hard = None if timeout is None else _seconds("timeout", timeout, where)
        soft = None if soft_timeout is None else _seconds("soft_timeout", soft_timeout, where)
        _check_limits(soft, hard, where)
        if isinstance(aliases, str):
            raise ConfigError(f"aliases={aliases!r} in {where}: a list of names, not one string")
        task: Task[..., Any, Any] = Task(
            fn,
            name=found,
            unimportable=unimportable,
            aliases=tuple(_given_name(alias, where) for alias in aliases),
            queue=_queue(queue, where),
            retry=_retry(retry, where),
            timeout=hard,
            soft_timeout=soft,
            result_ttl=None if result_ttl is None else _seconds("result_ttl", result_ttl, where, zero=True),
            keep_result=keep_result,
            priority=_priority(priority, where),
            private=private,
            schedule=schedule,
            max_concurrency=None if max_concurrency is None else _count("max_concurrency", max_concurrency, where),
        )
        if schedule is not None:
            from queuekit.schedules.declared import declared_on

            declared_on(task.name, schedule)  # what cannot be is said now
        _register(task, scope)
        return task

    return declare if fn is None else declare(fn)


def _register(task: Task[..., Any, Any], scope: CodeType) -> None:
    for name in (task.name, *task.aliases):
        other = _registry.get(name)
        if other is not None and not _same_definition(other.fn, task.fn, anew=_scopes.get(name) is not scope):
            code = other.fn.__code__
            raise ConfigError(
                f"two tasks of the name {name!r}: the other one is at {code.co_filename}:{code.co_firstlineno}. "
                "Give one of them another name: @agent_task(name=...)"
            )
    for name in (task.name, *task.aliases):
        _registry[name] = task
        _scopes[name] = scope


def _same_definition(one: Callable[..., Any], other: Callable[..., Any], *, anew: bool) -> bool:
    """A module that was executed again: reloaded, or run as a script and imported as well. Where it was compiled
    `anew`, somebody may have edited it, and the function need not be in the same line."""
    a, b = inspect.unwrap(one).__code__, inspect.unwrap(other).__code__
    if (a.co_filename, a.co_qualname) != (b.co_filename, b.co_qualname) or "<locals>" in a.co_qualname:
        return False
    return anew or a.co_firstlineno == b.co_firstlineno


def _name_of(fn: Callable[..., Any]) -> tuple[str, str | None]:
    """The task's name, and why no worker can import it, if so."""
    qualname, where = fn.__qualname__, f"@agent_task of {fn.__qualname__}"
    if fn.__name__ == "<lambda>":
        raise ConfigError(f"{where}: a lambda has no name that a worker could find. {_NO_ROOM}")
    if "<locals>" in qualname:
        raise ConfigError(f"{where}: a function inside a function cannot be found by a worker. {_NO_ROOM}")
    if "." in qualname:
        raise ConfigError(f"{where}: a method has a self that cannot travel. {_NO_ROOM}")
    if fn.__module__ not in _MAIN:
        return f"{fn.__module__}.{qualname}", None
    unimportable = _unimportable_main(fn)
    return f"{_main_module(fn) if unimportable is None else '__main__'}.{qualname}", unimportable


def _unimportable_main(fn: Callable[..., Any]) -> str | None:
    if fn.__module__ not in _MAIN:
        return None
    path = fn.__globals__.get("__file__")
    if path is None or not Path(path).is_file():
        return "an interactive session, standard input or -c"
    return None


def _main_module(fn: Callable[..., Any]) -> str:
    """The name under which a worker imports what runs here as __main__."""
    spec = fn.__globals__.get("__spec__")
    if spec is not None:  # python -m package.module
        return str(spec.name)
    path = fn.__globals__.get("__file__")
    return Path(path).stem if path is not None else "__main__"


# ---- values --------------------------------------------------------------------------------------------------------


def _seconds(name: str, value: Seconds, where: str, *, zero: bool = False) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ConfigError(f"{name}={value!r} in {where}: seconds as a number, or a timedelta")
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise ConfigError(f"{name}={value!r} in {where}: must be {'0 or more' if zero else 'more than 0'} seconds")
    if seconds >= MAX_TIMEOUT:
        raise ConfigError(f"{name}={value!r} in {where}: must be less than {MAX_TIMEOUT:.0f} seconds (31 years)")
    return float(seconds)


def _check_limits(soft: float | None, hard: float | None, where: str) -> None:
    if soft is not None and hard is not None and soft >= hard:
        raise ConfigError(f"soft_timeout={soft} in {where}: must be less than timeout={hard}, or it never comes")


def _key(value: str, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEY or not value.isprintable():
        raise ConfigError(f"key={value!r} in {where}: a text of 1 to {MAX_KEY} printable characters")
    return value


def _check_key(asked: Options, where: str) -> None:
    for name, value in (("on_duplicate", asked.on_duplicate), ("key_ttl", asked.key_ttl)):
        if value is not None and asked.key is None:
            raise ConfigError(f"{name}={value!r} in {where}: says what becomes of a key. Give key= as well")
    if asked.on_duplicate is not None and asked.on_duplicate not in get_args(OnDuplicate):
        raise ConfigError(f"on_duplicate={asked.on_duplicate!r} in {where}: one of {', '.join(get_args(OnDuplicate))}")
    if asked.on_duplicate == "debounce" and not asked.delay and asked.at is None:
        raise ConfigError(f"on_duplicate='debounce' in {where}: puts a job off. Say by how much: delay= or at=")


def _aware(name: str, value: datetime, where: str) -> datetime:
    if not isinstance(value, datetime):
        raise ConfigError(f"{name}={value!r} in {where}: a datetime")
    if value.tzinfo is None:
        raise ConfigError(f"{name}={value!r} in {where}: a moment needs a time zone: datetime.now(timezone.utc)")
    if not 1970 < value.year < 9000:  # so that it is one on every clock, and in every zone
        raise ConfigError(f"{name}={value!r} in {where}: a moment between the years 1971 and 8999")
    return value.astimezone(UTC)


def _queue(value: str, where: str) -> str:
    if not isinstance(value, str) or not QUEUE_PATTERN.match(value):
        raise ConfigError(f"queue={value!r} in {where}: 1 to 100 letters, digits, '_', '-' and '.'")
    return value


def _backend(value: str, where: str) -> str:
    from queuekit.settings.backends import known_backends

    if value not in known_backends():
        raise ConfigError(f"backend={value!r} in {where}: give one of {', '.join(known_backends())}")
    return value


def _priority(value: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise ConfigError(f"priority={value!r} in {where}: a whole number from 0 to 9, higher first")
    return value


def _count(name: str, value: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} in {where}: a whole number from 1")
    return value


def _given_name(value: str, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 200 or any(c.isspace() or ord(c) < 33 for c in value):
        raise ConfigError(f"name={value!r} in {where}: 1 to 200 characters without spaces")
    return value


def _retry(value: RetryPolicy | str | None, where: str) -> RetryPolicy | str | None:
    if value is None or isinstance(value, str):
        return value
    from queuekit.retry import RetryPolicy

    if not isinstance(value, RetryPolicy):
        raise ConfigError(f"retry={value!r} in {where}: a RetryPolicy, the name of one in the settings, or None")
    return value
