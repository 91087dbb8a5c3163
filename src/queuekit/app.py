"""App: the composition root. One store, one adapter, one set of settings.

Most programs use the default App, made at first use from the settings, or by configure(). An explicit one, for tests
and for more than one, is used inside `with app.activate():`.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import uuid
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from queuekit.clients import refuse_cluster
from queuekit.errors import ConfigError, EnqueueError, JobNotFound
from queuekit.events import EventKind, Hooks, event_of, load_hooks, tell_cancelled, tell_revived
from queuekit.handle import Job
from queuekit.job import moment
from queuekit.message import Message, Publication
from queuekit.store import NewJob, StoreAway
from queuekit.store.revival import revive
from queuekit.task import find_task, registered_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from queuekit.adapters import Adapter
    from queuekit.adapters.memory import MemoryAdapter
    from queuekit.events import JobHook
    from queuekit.settings import Settings
    from queuekit.store import Created, Store
    from queuekit.task import Call
    from queuekit.worker import Worker

__all__ = ["App", "configure", "current_app", "has_default", "use_default"]

log = logging.getLogger("queuekit")

DEV_FOLDER: Final = ".queuekit"
BROKER_AWAY_PAUSE: Final = 2.0  # seconds

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
        self._ask_broker_at = 0.0  # time.monotonic()
        _apps.add(self)

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
            if self._adapter is not None:
                self._adapter.close()
            if self._store is not None:
                self._store.close()
            self._adapter = self._store = None

    # ---- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, call: Call[Any]) -> Job[Any]:
        """See Task.enqueue()."""
        return self.enqueue_many([call])[0]

    def enqueue_many(self, calls: Sequence[Call[Any]]) -> list[Job[Any]]:
        """See Task.enqueue_many()."""
        prepared = [(call, *self._prepare(call)) for call in calls]
        until = time.monotonic() + self.settings.enqueue_timeout
        jobs: list[Job[Any]] = []
        ready: dict[str, list[Publication]] = {}
        try:
            for call, message, new in prepared:
                made = self._accept(message, new, until)
                if made.pseq is not None:
                    ready.setdefault(new.route, []).append(Publication(message, made.pseq, made.number, made.epoch))
                jobs.append(Job(new.id, app=self, task=call.task, created=made.created))
        finally:  # those before one that was refused are accepted
            for route, publications in ready.items():
                self._publish(route, publications)
        return jobs

    def _prepare(self, call: Call[Any]) -> tuple[Message, NewJob]:
        task, asked, settings = call.task, call.task.request, self.settings
        task.check_importable()
        arguments = task.codec(settings.payload_limit).encode_arguments(call.args, call.kwargs)
        named = task.retry if asked.retry is None else asked.retry
        if isinstance(named, str):
            settings.retry_policy(named)  # a name that nobody knows is said before anything is written
        message = task.message(
            asked.id or uuid.uuid4().hex,
            arguments.args,
            arguments.kwargs,
            backend=cast("str", settings.backend),
            default_ttl=settings.result_ttl,
        )
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
            message=message.seal(),
            digest=digest,
            route=message.route,
            token=secrets.token_hex(8),
            result_ttl=message.result_ttl,
            at=None if asked.at is None else asked.at.timestamp(),
            delay=asked.delay,
            expires=None if asked.expires_at is None else asked.expires_at.timestamp(),
            expires_in=asked.expires_in,
        )
        return message, new

    def _accept(self, message: Message, new: NewJob, until: float) -> Created:
        """Record the job, and tell the hooks."""
        hooks = self.hooks
        if not hooks:
            return self._create(new, until)
        told = event_of(message, EventKind.enqueued, time.time(), delay=new.delay)
        headers = dict(message.headers)
        with hooks.around_enqueue(told, headers):
            if headers:
                headers = {str(name): str(value) for name, value in headers.items()}
                new = replace(new, message=replace(message, headers=headers).seal())
            made = self._create(new, until)
            if made.created:
                delay = new.delay if new.at is None else max(new.at - made.at, 0.0)
                hooks(replace(told, at=moment(made.at), delay=delay or None, headers=headers))
        return made

    def _create(self, new: NewJob, until: float) -> Created:
        """Within enqueue_timeout, whatever the store does: it is asked again only while a whole answer still fits."""
        sent = False
        while True:
            try:
                made = self.store.create(new)
                break
            except StoreAway as error:
                sent = sent or error.sent
                if until - time.monotonic() < 3 * self.settings.store_timeout + 0.1:  # connecting, and two answers
                    known = "it is not known whether the job was recorded" if sent else "the job was not recorded"
                    raise EnqueueError(
                        f"job {new.id} was not enqueued within {self.settings.enqueue_timeout:g} s: {error}; "
                        f"{known}. Enqueueing again with options(id={new.id!r}) doubles nothing",
                        recorded=None if sent else False,
                        job_id=new.id,
                    ) from error
                time.sleep(0.1)
        if not made.same:
            raise EnqueueError(
                f"job {new.id!r} exists, and asks for something else: another task, other arguments, another queue",
                recorded=False,
                job_id=new.id,
            )
        return made

    def _publish(self, route: str, publications: list[Publication]) -> None:
        """The jobs are accepted: what fails from here on is made good by a steward.

        While the broker is away, one enqueue in a while asks it; the others would wait for it in vain.
        """
        if time.monotonic() < self._ask_broker_at:
            return
        try:
            self.adapter.publish(publications)
            self.store.published(route, [(one.message.id, one.pseq) for one in publications])
        except ConnectionError as error:
            self._ask_broker_at = time.monotonic() + BROKER_AWAY_PAUSE
            log.warning("recorded, and published when the broker is back: %s", error)
        except Exception:
            log.exception("the jobs are recorded, but could not be published from here")

    def revive(
        self, id: str, *, backend: str | None = None, arguments: tuple[list[Any], dict[str, Any]] | None = None
    ) -> Job[Any]:
        """Queue a failed or cancelled job again. Its attempts are numbered on, and its retries are counted anew.

        Args:
            backend: the engine that is to run it; this App's by default, wherever the job was before. On another one
                it is published by that one's stewards: within a tick of theirs, or once a worker starts there.
            arguments: (args, kwargs) for it from now on, as JSON values; None: as they were.

        Raises:
            JobNotFound: an unknown id.
            QueuekitError: the job has not ended, or has succeeded; or a payload codec has encoded its arguments.
        """
        record = self.store.get(id)
        if record is None:
            raise JobNotFound(f"no job {id!r} in namespace {self.settings.namespace!r}")
        own = cast("str", self.settings.backend)
        elsewhere = backend is not None and backend != own
        back = revive(self.store, record, backend=backend or own, arguments=arguments, handed_over=elsewhere)
        message, taken = back.message, back.taken
        if not elsewhere:
            self._publish(message.route, [Publication(message, taken.pseq, taken.number, taken.epoch)])
        tell_revived(self.hooks, self.store, message)
        return Job(id, app=self, task=find_task(message.task), created=False)

    def cancel(self, id: str, reason: str) -> str:
        """See Job.cancel(): "cancelled" (it had not started), "requested" (it runs), "ended" or "missing"."""
        answer = self.store.cancel(id, reason)
        if answer == "cancelled":
            tell_cancelled(self.hooks, self.store, [id])
        return answer

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
        """Move the clock of the memory backend."""
        self._memory("advance").clock.advance(seconds)

    def _memory(self, what: str) -> MemoryAdapter:
        if self.settings.backend != "memory":
            raise ConfigError(f"{what}() is for the memory backend; {self.settings.backend} runs its jobs in workers")
        return cast("MemoryAdapter", self.adapter)

    # ---- workers ----------------------------------------------------------------------------------------------------

    def worker(self, *, queues: Sequence[str] = (), concurrency: int | None = None, pool: str | None = None) -> Worker:
        """A worker for the tasks that this process has declared; run it by adapter.run_worker().

        Raises:
            ConfigError: a pool that the adapter does not have; a task or a setting that cannot be worked with.
        """
        from queuekit.worker import Worker

        settings = self.settings
        pool = pool or settings.pool
        if pool is not None:
            self.adapter.capabilities.check_pool(pool, backend=self.adapter.name)
        _ = settings.payload_codec  # one that cannot be found is said now
        for task in registered_tasks():
            task.codec(settings.payload_limit).check()
            if isinstance(task.retry, str):
                settings.retry_policy(task.retry)
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
            shared=runs is not None and runs.concurrent and not runs.processes,
        )


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
        if _default is not None and _default.in_use:
            raise ConfigError(
                "configure() comes too late: the default App is in use. Call it once, before the first job is "
                "enqueued; for more than one App, make them and use them with `with app.activate():`"
            )
        _default = App(load(explicit=settings), **natives)
        return _default
