"""App: the composition root. One store, one adapter, one set of settings.

Most programs use the default App, made at first use from the settings, or by configure(). An explicit one, for tests
and for more than one, is used inside `with app.activate():`.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from queuekit.adapters import Wiring
from queuekit.clients import refuse_cluster
from queuekit.confirming import Confirmations
from queuekit.context import starting
from queuekit.errors import (
    BulkEnqueueError,
    ConfigError,
    DuplicateJob,
    EnqueueError,
    JobConflict,
    JobNotFound,
    PayloadError,
    StaleAttempt,
)
from queuekit.events import EventKind, Hooks, event_of, load_hooks, tell_cancelled, tell_revived
from queuekit.handle import Job
from queuekit.message import InvalidMessage, Message, Publication
from queuekit.payload.arguments import Arguments
from queuekit.scheduling import Schedules
from queuekit.store import Created, IdTaken, NewJob, StoreAway
from queuekit.store.revival import revive
from queuekit.task import Options, find_task, registered_tasks
from queuekit.template import Batch, Prepared, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from queuekit.adapters import Adapter
    from queuekit.adapters.memory import MemoryAdapter
    from queuekit.events import JobHook
    from queuekit.settings import Settings
    from queuekit.store import Creating, Store, Taken, Wire
    from queuekit.task import Call, Task
    from queuekit.worker import Worker

T = TypeVar("T")

__all__ = ["App", "configure", "current_app", "has_default", "use_default"]

log = logging.getLogger("queuekit")

DEV_FOLDER: Final = ".queuekit"
BROKER_AWAY_PAUSE: Final = 2.0  # seconds
MADE_UP: Final = 24  # bytes, as 48 letters

_active: ContextVar[App | None] = ContextVar("queuekit_app", default=None)
_default: App | None = None
_default_lock = threading.Lock()
_apps: weakref.WeakSet[App] = weakref.WeakSet()


def _after_fork() -> None:
    """A lock that another thread held at the fork would be held for ever in the child."""
    global _default_lock
    _default_lock = threading.Lock()
    for app in list(_apps):
        app._lock = threading.RLock()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)


class App:
    """Settings, a store and an adapter, connected at first use.

    Args:
        settings: read from the environment and files where None.
        celery, dramatiq, redis: the user's own Celery app, Dramatiq broker or Redis connection (for RQ).
        hooks: what is told of job events here, besides the setting `hooks`: see queuekit.events. A steward, a process
            of its own, has those of the setting alone.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        celery: Any = None,
        dramatiq: Any = None,
        redis: Any = None,
        hooks: Sequence[JobHook | str] = (),
    ) -> None:
        self._given = settings
        self._given_hooks = tuple(hooks)
        self._hooks: Hooks | None = None
        self._natives = {"celery": celery, "dramatiq": dramatiq, "rq": redis}
        self._lock = threading.RLock()
        self._settings: Settings | None = None
        self._adapter: Adapter | None = None
        self._store: Store | None = None
        self._confirmations: Confirmations | None = None
        self._ask_broker_at = 0.0  # time.monotonic()
        self._templates: weakref.WeakKeyDictionary[Task[..., Any, Any], Template] = weakref.WeakKeyDictionary()
        self._seen: weakref.WeakSet[Task[..., Any, Any]] = weakref.WeakSet()
        # Of the App that a command has made, before it imports the user's modules, which may call configure():
        self.command_line: Mapping[str, Any] | None = None  # what goes before that
        self.final = False  # they have been imported elsewhere, and what they said is among its settings
        _apps.add(self)

    @cached_property
    def _on_one_redis(self) -> bool:
        """Whether the store may publish: the adapter can say how, and nothing is to be signed, which takes a number
        that is not known before."""
        settings = self.settings
        return settings.on_one_redis and settings.signer is None and isinstance(self.adapter, Wiring)

    @cached_property
    def _plain(self) -> bool:
        """Whether jobs here may be made by a template."""
        return self._on_one_redis and self.settings.payload_codec is None

    @property
    def in_use(self) -> bool:
        """Whether the settings were read already."""
        return self._settings is not None

    @property
    def settings(self) -> Settings:
        """The settings, checked as a whole. Raises ConfigError."""
        if self._settings is None:
            with self._lock:
                from queuekit.settings import load

                self._settings = self._settings or _complete(self._given or load(), self._natives)
        return self._settings

    @property
    def adapter(self) -> Adapter:
        if self._adapter is None:
            with self._lock:
                if self._adapter is None:
                    from queuekit.adapters import load_adapter

                    name = cast("str", self.settings.backend)
                    adapter = load_adapter(name)(self.settings, native=self._natives.get(name))
                    if name == "memory":
                        cast("MemoryAdapter", adapter).serve(find_task, self.hooks)
                    self._adapter = adapter
        return self._adapter

    @property
    def hooks(self) -> Hooks:
        """What is told of job events. Raises ConfigError where one cannot be found by its name."""
        if self._hooks is None:
            with self._lock:
                self._hooks = self._hooks or Hooks(load_hooks([*self._given_hooks, *self.settings.hooks]))
        return self._hooks

    @property
    def store(self) -> Store:
        if self._store is None:
            with self._lock:
                if self._store is None:
                    if self.settings.backend == "memory":
                        self._store = cast("MemoryAdapter", self.adapter).store
                    else:
                        from queuekit.store.redis import RedisStore

                        self._store = RedisStore.of(self.settings)
        return self._store

    def hand_in(self, backend: str, native: Any) -> None:
        """Give it the user's own engine application, where that is made after the App: by a module that a worker
        imports. Raises ConfigError where its adapter is in use."""
        with self._lock:
            if self._adapter is not None and self._natives.get(backend) is not native:
                raise ConfigError(f"the App has started to use {backend}: hand its application in before the first job")
            self._natives[backend] = native

    @property
    def _one_by_one(self) -> bool:
        """Whether each job is made and recorded by itself: a hook adds to what travels with it."""
        return self.hooks.stand_around_enqueue

    def add_hooks_of(self, settings: Settings) -> None:
        """Go by these from here on, which differ in their hooks alone."""
        with self._lock:
            self._settings, self._hooks = settings, None

    def configured(self, settings: Mapping[str, Any], others: Mapping[str, Any]) -> App | None:
        """The one in its place, where a command has made it and a module of the user's calls configure(). None: a
        command has not, or it comes too late for that too."""
        if self.command_line is None or self._adapter is not None or self._store is not None:
            return None
        from queuekit.settings import load

        hooks = [*self._given_hooks, *others.get("hooks", ())]
        app = App(load(cli=self.command_line, explicit=settings), **{**others, "hooks": hooks})
        app.command_line = self.command_line
        return app

    def replaced(self, source: str, /, **settings: Any) -> App:
        """Another App, with some settings changed, whose source is `source`, and the same engine application."""
        natives = {"celery": self._natives["celery"], "dramatiq": self._natives["dramatiq"]}
        changed = self.settings.replace(source, **settings)
        return App(changed, redis=self._natives["rq"], hooks=self._given_hooks, **natives)

    @contextmanager
    def activate(self) -> Iterator[Self]:
        """Use this App for what is enqueued and asked in this context."""
        token = _active.set(self)
        try:
            yield self
        finally:
            _active.reset(token)

    def close(self) -> None:
        """Close the connections. The App opens them again when it is used again."""
        with self._lock:
            if self._settings is not None and self._settings.backend == "memory":
                return
            if self._confirmations is not None:
                self._confirmations.flush()
            if self._adapter is not None:
                self._adapter.close()
            if self._store is not None:
                self._store.close()
            self._adapter = self._store = self._confirmations = None

    # ---- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, call: Call[Any]) -> Job[Any]:
        """See Task.enqueue()."""
        batch = self._record(Batch([call], [self._prepared(call, secrets.token_hex(MADE_UP))]))
        if batch.broken is not None:
            raise batch.broken
        return self._jobs(batch)[0]

    def enqueue_batches(
        self, calls: Iterable[Call[Any]], size: int, *, ahead: bool = False
    ) -> Iterator[list[Job[Any]]]:
        """See Task.enqueue_batches(). `ahead`: take and prepare the next of the calls while some are on their way."""
        batches, done = self._batches(calls, size), 0
        if ahead and not self._one_by_one and self.settings.backend != "memory":
            recorded = _ahead(map(self._readied, batches), self._record)
        else:
            recorded = map(self._record, batches)
        while True:
            made, left = 0, list[str]()
            try:
                batch = next(recorded, None)
                if batch is None:
                    return
                made, left = len(batch.made), [job.new.id for job in batch.jobs[len(batch.made) :]]
                if batch.broken is not None:
                    raise batch.broken
            except (EnqueueError, PayloadError) as error:
                if not done and not made:
                    raise
                raise BulkEnqueueError.of(error, done + made, left) from error
            done += made
            yield self._jobs(batch)

    def _batches(self, calls: Iterable[Call[Any]], size: int) -> Iterator[Batch]:
        calls = iter(calls)
        while some := list(itertools.islice(calls, size)):
            letters = secrets.token_hex(MADE_UP * len(some))  # once: the system takes its time over each
            made_up = (letters[n : n + 2 * MADE_UP] for n in range(0, len(letters), 2 * MADE_UP))
            yield Batch(some, list(map(self._prepared, some, made_up)))

    def _readied(self, batch: Batch) -> Batch:
        """What asks the store for it is ready too."""
        if not any(one.new.key is not None for one in batch.jobs):
            batch.creating = self.store.creating([one.new for one in batch.jobs], [one.wire for one in batch.jobs])
        return batch

    def _record(self, batch: Batch) -> Batch:
        until = time.monotonic() + self.settings.enqueue_timeout
        jobs, made = batch.jobs, batch.made
        try:
            if self._one_by_one or any(one.new.key is not None for one in jobs):
                for index, call in enumerate(batch.calls):
                    jobs[index], one = self._accept_one(call, jobs[index], until)
                    made.append(one)
            else:
                made.extend(self._create(jobs, until, creating=batch.creating))
                self._tell(jobs, made)
        except EnqueueError as error:
            batch.broken = error
        finally:  # those before one that was refused are accepted
            ready: dict[str, list[Publication]] = {}
            for job, one in zip(jobs, made, strict=False):
                if one.pseq is not None:
                    message = job.message
                    publication = Publication(message, one.pseq, one.number, one.epoch, self.settings.signer)
                    ready.setdefault(message.route, []).append(publication)
            for route, publications in ready.items():
                self._publish(route, publications)
        return batch

    def _jobs(self, batch: Batch) -> list[Job[Any]]:
        return [
            Job(job.new.id if one.created else one.other or job.new.id, app=self, task=call.task, created=one.created)
            for call, job, one in zip(batch.calls, batch.jobs, batch.made, strict=True)
        ]

    def _prepared(self, call: Call[Any], made_up: str) -> Prepared:
        """`made_up`: 48 letters, for an id and a token."""
        task, start = call.task, starting.get()
        template = self._template(task) if start is None and not self._one_by_one else None
        if template is None:
            message, new = self.prepare(call, made_up=made_up)
            return Prepared(new, self._wired(message, new), message)
        arguments = task.codec(self.settings.payload_limit).encode_arguments(call.args, call.kwargs)
        id = task.request.id or made_up[:32]
        new = NewJob(
            id,
            template.seal(id, arguments),
            template.digest(arguments),
            template.route,
            made_up[32:],
            template.like.result_ttl,
        )
        return Prepared(new, template.wire(id, arguments), template.like, arguments)

    def _template(self, task: Task[..., Any, Any]) -> Template | None:
        """None: its jobs are made one by one. So is the first of a task with options, which is mostly the only one."""
        if not self._plain or not task.plain:
            return None
        found = self._templates.get(task)
        if found is not None:
            return found
        if task.request != Options() and task not in self._seen:
            self._seen.add(task)
            return None
        settings = self.settings
        like = task.message("", [], {}, backend=cast("str", settings.backend), default_ttl=settings.result_ttl)
        named = task.retry if like.retry is None else like.retry
        if isinstance(named, str):
            settings.retry_policy(named)  # a name that nobody knows is said before anything is written
        wire = cast("Wiring", self.adapter).wiring(like)
        if wire is None:
            return None
        found = self._templates[task] = Template(like, wire)
        return found

    def prepare(
        self,
        call: Call[Any],
        *,
        id: str | None = None,
        inputs: list[list[Any]] | None = None,
        in_place_of: str | None = None,
        made_up: str = "",
    ) -> tuple[Message, NewJob]:
        """What is recorded for a call. `id` for one that has none of its own; `in_place_of`: the id that it has in any
        case; `inputs`: see Message; `made_up`: 48 letters, for an id and a token, where there are such already."""
        task, asked, settings, start = call.task, call.task.request, self.settings, starting.get()
        task.check_importable()
        later = frozenset(path[0] for path, _, _ in inputs or ())
        arguments = task.codec(settings.payload_limit).encode_arguments(call.args, call.kwargs, later=later)
        own = cast("str", settings.backend)
        backend = asked.backend or own
        if (backend == "memory") is not (own == "memory"):
            raise ConfigError(
                f"backend={backend!r} for a job of {task.name!r}: not from an App whose backend is {own!r}"
            )
        named = task.retry if asked.retry is None else asked.retry
        if isinstance(named, str):
            settings.retry_policy(named)  # a name that nobody knows is said before anything is written
        made_up = made_up or secrets.token_hex(MADE_UP)  # once: the system takes its time over each
        message = task.message(
            in_place_of or asked.id or id or (start.id if start is not None else made_up[:32]),
            arguments.args,
            arguments.kwargs,
            backend=backend,
            default_ttl=settings.result_ttl,
        )
        if inputs:
            message = replace(message, inputs=inputs)
        codec = settings.payload_codec
        try:
            message, digest = message.encoded(codec)
        except Exception as error:  # whatever the user's codec raises: it may ask a key service
            raise EnqueueError(
                f"job {message.id} was not enqueued: the payload codec raised {type(error).__qualname__}: {error}",
                recorded=False,
                job_id=message.id,
            ) from error
        new = NewJob(
            id=message.id,
            message=message.seal(settings.signer),
            digest=digest,
            route=message.route,
            token=made_up[32:],
            result_ttl=message.result_ttl,
            at=None if asked.at is None else asked.at.timestamp(),
            delay=asked.delay,
            expires=None if asked.expires_at is None else asked.expires_at.timestamp(),
            expires_in=asked.expires_in,
            parent=None if start is None else (start.parent, start.fence),
            elsewhere=backend != own,
            key=None if asked.key is None else f"{task.name} {asked.key}",
            if_held="existing" if asked.on_duplicate is None or asked.on_duplicate == "reject" else asked.on_duplicate,
            key_ttl=asked.key_ttl,
        )
        return message, new

    def headed(self, message: Message, new: NewJob, headers: Mapping[str, str]) -> tuple[Message, NewJob]:
        """The same with what the hooks have put into its headers."""
        message = replace(message, headers={str(name): str(value) for name, value in headers.items()})
        return message, replace(new, message=message.seal(self.settings.signer))

    def _accept_one(self, call: Call[Any], job: Prepared, until: float) -> tuple[Prepared, Created]:
        """Record the job, or what becomes of it where another one holds its key. What is recorded now."""
        made = self._accept(job, until, call)
        while made.again:  # the other is to be asked for what this one asks, under its own id
            message, new = self.prepare(call, in_place_of=made.other)
            there = Prepared(new, None, message)
            made = self._accept(there, until, None)
            if made.same:
                return there, made
            made = self._accept(job, until, call)  # it has ended meanwhile
        if made.created and made.other is not None:
            tell_cancelled(self.hooks, self.store, [made.other])
        return job, made

    def _accept(self, job: Prepared, until: float, call: Call[Any] | None) -> Created:
        """Record the job, and tell the hooks. `call`: as which another job that is found must do."""
        message = job.message
        told, headers = event_of(message, EventKind.enqueued, time.time(), delay=job.new.delay), dict(message.headers)
        with self.hooks.around_enqueue(told, headers):
            if headers != message.headers:
                message, new = self.headed(message, job.new, headers)
                job = Prepared(new, job.wire, message)
            (made,) = self._create([job], until, call)
            self._tell([job], [made])
        return made

    def _tell(self, jobs: Sequence[Prepared], made: Sequence[Created]) -> None:
        """The hooks, of those that were recorded now."""
        if not self.hooks.wants(EventKind.enqueued):
            return
        for job, one in zip(jobs, made, strict=True):
            if one.created:
                delay = job.new.delay if job.new.at is None else max(job.new.at - one.at, 0.0)
                self.hooks(event_of(job.message, EventKind.enqueued, one.at, delay=delay or None))

    def _create(
        self,
        prepared: Sequence[Prepared],
        until: float,
        call: Call[Any] | None = None,
        creating: Creating | None = None,
    ) -> list[Created]:
        """`call`: as which another job that is found must do, where it is one. `creating`: where it has been started.
        Raises EnqueueError, StaleAttempt."""
        news, wires = [one.new for one in prepared], [one.wire for one in prepared]
        made = self.ask(creating or (lambda: self.store.create_many(news, wires)), news[0].id, until, len(news))
        if isinstance(made, IdTaken):
            raise _asks_for_another(made.id, child=any(new.parent for new in news))
        for new, one in zip(news, made, strict=True):
            if one.stale:
                assert new.parent is not None
                raise StaleAttempt(
                    f"job {new.parent[0]}: somebody else has ended this attempt, which can start nothing"
                )
        if call is not None:
            _check_found(call, news[0], made[0])
        return made

    def ask(self, call: Callable[[], T], id: str, until: float, count: int = 1) -> T:
        """Within enqueue_timeout, whatever the store does: it is asked again only while a whole answer still fits."""
        sent = False
        while True:
            try:
                return call()
            except StoreAway as error:
                sent = sent or error.sent
                if until - time.monotonic() < 3 * self.settings.store_timeout + 0.1:  # connecting, and two answers
                    known = "it is not known whether the job was recorded" if sent else "the job was not recorded"
                    which = f"job {id} was" if count == 1 else f"job {id} and {count - 1} more were"
                    raise EnqueueError(
                        f"{which} not enqueued within {self.settings.enqueue_timeout:g} s: {error}; "
                        f"{known}. Enqueueing again with options(id={id!r}) doubles nothing",
                        recorded=None if sent else False,
                        job_id=id,
                    ) from error
                time.sleep(0.1)

    def publish_taken(self, taken: Sequence[tuple[str, Taken]]) -> None:
        """Publish what the store has queued, each with its route. What fails is made good by the stewards."""
        ready: dict[str, list[Publication]] = {}
        for route, one in taken:
            with suppress(InvalidMessage):  # said by the stewards
                message = Message.to_publish(one.message)
                publication = Publication(message, one.pseq, one.number, one.epoch, self.settings.signer)
                ready.setdefault(route, []).append(publication)
        for route, publications in ready.items():
            self._publish(route, publications)

    def _wired(self, message: Message, new: NewJob) -> Wire | None:
        """What publishes it in the step that records it, where the broker is on the store's Redis."""
        if not self._on_one_redis or new.at is not None or new.delay is not None or new.elsewhere or new.key:
            return None
        wire = cast("Wiring", self.adapter).wiring(message)
        return None if wire is None else wire(message.id, Arguments.of(message.args, message.kwargs))

    def _publish(self, route: str, publications: list[Publication]) -> None:
        """The jobs are accepted: what fails from here on is made good by a steward.

        While the broker is away, one enqueue in a while asks it; the others would wait for it in vain.
        """
        if time.monotonic() < self._ask_broker_at:
            return
        try:
            self.adapter.publish(publications)
            self._confirm(route, [(one.message.id, one.pseq) for one in publications])
        except ConnectionError as error:
            self._ask_broker_at = time.monotonic() + BROKER_AWAY_PAUSE
            log.warning("recorded, and published when the broker is back: %s", error)
        except Exception:
            log.exception("the jobs are recorded, but could not be published from here")

    def _confirm(self, route: str, published: list[tuple[str, int]]) -> None:
        """To the store, behind the caller's back: nobody has to wait for that. In memory nobody would."""
        if self.settings.backend == "memory":
            self.store.published(route, published)
            return
        with self._lock:
            if self._confirmations is None:
                self._confirmations = Confirmations(self.store)
            confirmations = self._confirmations
        confirmations.add(route, published)

    def revive(
        self,
        id: str,
        *,
        backend: str | None = None,
        arguments: tuple[list[Any], dict[str, Any]] | None = None,
        anew: bool = False,
    ) -> Job[Any]:
        """Queue a failed or cancelled job again. Its attempts are numbered on, and its retries are counted anew; it
        goes on after the steps that it has finished.

        Args:
            backend: the engine that is to run it; this App's by default, wherever the job was before. On another one
                it is published by that one's stewards: within a tick of theirs, or once a worker starts there.
            arguments: (args, kwargs) for it from now on, as JSON values; None: as they were.
            anew: with none of its steps done. So it is with other arguments.

        Raises:
            JobNotFound: an unknown id.
            QueuekitError: the job has not ended, or has succeeded; a payload codec has encoded its arguments; or its
                signature is of none of the keys here.
        """
        record = self.store.get(id)
        if record is None:
            raise JobNotFound(f"no job {id!r} in namespace {self.settings.namespace!r}")
        own = cast("str", self.settings.backend)
        elsewhere = backend is not None and backend != own
        signer = self.settings.signer
        back = revive(
            self.store,
            record,
            signer,
            backend=backend or own,
            arguments=arguments,
            handed_over=elsewhere,
            anew=anew,
        )
        message, taken = back.message, back.taken
        if not elsewhere:
            self._publish(message.route, [Publication(message, taken.pseq, taken.number, taken.epoch, signer)])
        tell_revived(self.hooks, self.store, message)
        return Job(id, app=self, task=find_task(message.task), created=False)

    def cancel(self, id: str, reason: str) -> str:
        """See Job.cancel(): "cancelled" (it had not started), "requested" (it runs), "ended" or "missing"."""
        answer = self.store.cancel(id, reason)
        if answer == "cancelled":
            tell_cancelled(self.hooks, self.store, [id])
        return answer

    def cancel_workflow(self, id: str, reason: str) -> str:
        """See WorkflowJob.cancel(): "cancelled", "ended" or "missing"."""
        return self.store.cancel_flow(id, reason)

    @property
    def schedules(self) -> _AppSchedules:
        """The schedules of the namespace: see queuekit.schedules."""
        return _AppSchedules(self)

    # ---- the memory backend -----------------------------------------------------------------------------------------

    def run_next(self) -> bool:
        """Run one job of the memory backend, jumping over waits. False: nothing to run, or another backend."""
        if self.settings.backend != "memory":
            return False
        return cast("MemoryAdapter", self.adapter).run_next()

    def run_until_idle(self, *, wait: bool = True) -> int:
        """Run all jobs of the memory backend, with `wait` also those scheduled or retrying. How many deliveries."""
        return self._memory("run_until_idle").run_until_idle(wait=wait)

    def advance(self, seconds: float) -> None:
        """Move the clock of the memory backend. Each tick of a schedule on the way makes its job, which runs when the
        others do; a clock that jumps over a wait makes none."""
        if seconds < 0:
            raise ValueError(f"advance() takes seconds >= 0, not {seconds}")
        self._memory("advance").advance(seconds)

    def _memory(self, what: str) -> MemoryAdapter:
        if self.settings.backend != "memory":
            raise ConfigError(f"{what}() is for the memory backend; {self.settings.backend} runs its jobs in workers")
        return cast("MemoryAdapter", self.adapter)

    # ---- workers ----------------------------------------------------------------------------------------------------

    def fitting_pool(self) -> str | None:
        """The pool for the tasks that this process has declared, where nobody has named one: `async` where all of them
        are and the engine has it on this broker. None: the engine's default. Beside a Celery app of the user's, whose
        native tasks share the pool, it is that app's affair."""
        from queuekit.adapters import ASYNC
        from queuekit.adapters.report import broker_of

        if self.settings.pool is not None or (self.adapter.name == "celery" and self._natives["celery"] is not None):
            return self.settings.pool
        found = next((one for one in self.adapter.capabilities.pools if one.name == ASYNC), None)
        runs = found is not None and (not found.brokers or broker_of(self.settings) in found.brokers)
        return ASYNC if runs and all(task.is_async for task in registered_tasks()) else None

    def worker(self, *, queues: Sequence[str] = (), concurrency: int | None = None, pool: str | None = None) -> Worker:
        """A worker for the tasks that this process has declared; run it by adapter.run_worker().

        Raises:
            ConfigError: a pool that the adapter does not have; a task or a setting that cannot be worked with.
        """
        from queuekit.worker import Worker

        settings = self.settings
        pool = pool or settings.pool
        if pool is not None:
            from queuekit.adapters.report import broker_of

            self.adapter.capabilities.check_pool(pool, backend=self.adapter.name, broker=broker_of(settings))
        _ = settings.payload_codec, settings.blob_store  # one that cannot be found is said now
        for task in registered_tasks():
            task.codec(settings.payload_limit).check()
            if isinstance(task.retry, str):
                settings.retry_policy(task.retry)
        self.schedules.check()
        if settings.broker_url is not None and settings.broker_url.startswith(("redis://", "rediss://", "unix://")):
            refuse_cluster(settings.broker_url)
        if settings.strict:
            from queuekit.adapters.report import refuse_faults

            refuse_faults(self.adapter, registered_tasks(), pool or self.adapter.capabilities.default_pool, settings)
        capabilities = self.adapter.capabilities
        runs = next((one for one in capabilities.pools if one.name == (pool or capabilities.default_pool)), None)
        return Worker(
            self.store,
            settings,
            registered_tasks(),
            find=find_task,
            queues=queues or settings.queues,
            concurrency=concurrency or settings.concurrency,
            pool=pool,
            hooks=self.hooks,
            register=self.schedules.register,
            shared=runs is not None and runs.concurrent and not runs.processes,
            publish=self.publish_taken,
        )


def _ahead(batches: Iterator[Batch], record: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """Each as `record` gives it; while it is on its way to the store, the next is taken and prepared. Nothing is
    recorded behind a broken one."""
    waiting = next(batches, None)
    while waiting is not None:
        waiting.start()
        broken, following = None, None
        try:
            following = next(batches, None)
        except Exception as error:  # of the user's iterator too: those that are on their way come first
            broken = error
        except BaseException:
            waiting.drop()
            raise
        yield (there := record(waiting))
        if broken is not None:
            raise broken
        waiting = None if there.broken is not None else following


def _asks_for_another(id: str, *, child: bool = False) -> JobConflict:
    return JobConflict(
        f"job {id!r} exists, and asks for something else: another task, other arguments, another queue"
        + (". Children are found by their order: give enqueue() a key" if child else ""),
        recorded=False,
        job_id=id,
    )


def _check_found(call: Call[Any], new: NewJob, made: Created) -> None:
    """Whether the job that was found in its place will do. Raises EnqueueError."""
    if not made.same:
        raise _asks_for_another(new.id)
    # One that is found by its id is the same request, made again.
    if not made.created and made.other is not None and call.task.request.on_duplicate == "reject":
        raise DuplicateJob(
            f"job {new.id} was not enqueued: job {made.other} of the same task holds its key {call.task.request.key!r}",
            recorded=False,
            job_id=made.other,
        )


class _AppSchedules(Schedules):
    def __init__(self, app: App) -> None:
        super().__init__(app.store, app.settings, lambda call, id: app.prepare(call, in_place_of=id))
        self._app = app

    def run_now(self, name: str) -> Job[Any]:
        message, id = self.make_now(name)
        if self._app.hooks:
            self._app.hooks(event_of(message, EventKind.enqueued, self._app.store.now()))
        return Job(id, app=self._app, task=find_task(message.task))


def _complete(settings: Settings, natives: Mapping[str, Any]) -> Settings:
    """With a broker: the one that is set, that of the user's own engine application, or that of a development server
    running in this folder."""
    name = settings.backend
    if name is not None and name != "memory" and settings.broker_url is None:
        native = natives.get(name)
        if native is not None:
            from queuekit.adapters import load_adapter

            find = getattr(load_adapter(name), "broker_url_of", None)
            if find is not None:
                return settings.replace(f"the {name} application", broker_url=find(native)).resolve()
        from queuekit.embedded import attach

        server = attach(Path(DEV_FOLDER))
        if server is not None:
            settings = settings.replace(f"the development server in {DEV_FOLDER}", broker_url=server.url)
    return settings.resolve()


def current_app() -> App:
    """The activated App, or the default one."""
    app = _active.get()
    if app is not None:
        return app
    global _default
    with _default_lock:
        if _default is None:
            _default = App()
        return _default


def has_default() -> bool:
    """Whether somebody has made a default App, by configure(), by an adapter's install() or by using one."""
    return _default is not None


def use_default(app: App) -> None:
    """Make this App the default one: for programs of our own, such as a worker, that configure by other means."""
    global _default
    with _default_lock:
        _default = app


def configure(**settings: Any) -> App:
    """Set up the default App: `configure(backend="rq", broker_url="redis://localhost:6379/0")`.

    `hooks` takes callables as well as names: see App.

    Raises:
        ConfigError: a setting that does not exist or cannot be, or the default App is in use already.
    """
    from queuekit.settings import load

    natives: dict[str, Any] = {n: settings.pop(n) for n in ("celery", "dramatiq", "redis") if n in settings}
    hooks = settings.get("hooks")
    if isinstance(hooks, (list, tuple)):  # a callable is this process's alone, a name goes to the stewards too
        natives["hooks"] = [hook for hook in hooks if not isinstance(hook, str)]
        settings["hooks"] = [hook for hook in hooks if isinstance(hook, str)]
        if natives["hooks"] and not settings["hooks"]:
            del settings["hooks"]  # it leaves those of the environment and the files alone
    global _default
    with _default_lock:
        made = _default
        if made is not None and made.final:
            return made
        if made is not None and (again := made.configured(settings, natives)) is not None:
            _default = again
            return again
        if made is not None and made.in_use:
            raise ConfigError(
                "configure() comes too late: the default App is in use. Call it once, before the first job is "
                "enqueued; for more than one App, make them and use them with `with app.activate():`"
            )
        _default = App(load(explicit=settings), **natives)
        return _default
