"""Beside an RQ that is there: the user's own connection, and RQ's own command.

    install(connection)                                     enqueue over the connection that the native queues use
    rq worker -w queuekit.adapters.rq.Worker documents      run queuekit's tasks, steward included

RQ gives a worker one job class and one serializer for all its queues. Native jobs and ours share a server, then, and
never a queue: the native ones keep their workers, and ours are always called queuekit.NAMESPACE.QUEUE.pLEVEL.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from rq import Queue, worker_registration
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.logutils import setup_loghandlers
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker, DequeueStrategy

from queuekit.adapters.rq.connection import alike, check, same_server, url_of
from queuekit.adapters.rq.job import DoorbellJob
from queuekit.adapters.rq.worker import DoorbellQueue, HorseWorker, OneProcessWorker, serve
from queuekit.errors import ConfigError
from queuekit.message import BUCKETS
from queuekit.settings import load, load_for_install, redact
from queuekit.task import registered_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import redis

    from queuekit.app import App
    from queuekit.settings import Settings

__all__ = ["SimpleWorker", "Worker", "install"]

_LEVEL = re.compile(rf"\.p[{''.join(map(str, BUCKETS))}]\Z")
_COMMAND = "rq worker -w queuekit.adapters.rq.Worker"


def install(connection: redis.Redis, settings: Settings | None = None, **overrides: Any) -> App:
    """Use the Redis connection that your RQ queues are made with. Call it once in each process that enqueues or works.

    The connection itself is left as it is: queuekit makes connections of its own like it. The App becomes the default
    one where there is none yet. With backend="memory", as for tests, the connection is not used.

    Args:
        settings: read from the environment and files where None.
        overrides: single settings, as for configure(). broker_url is where the connection leads to, if not given: the
            steward, a process beside each worker, has the settings alone.

    Raises:
        ConfigError: no connection that RQ can use; another backend is set; a setting that cannot be; broker_url is not
            given, and the connection cannot be said as a URL.
    """
    from queuekit.app import App, has_default, use_default

    native = check(connection)
    settings = load_for_install("rq", settings, overrides)
    if settings.backend == "rq" and settings.broker_url is None:
        settings = settings.replace("the connection given to install()", broker_url=url_of(native))
    app = App(settings.resolve(), redis=native)
    if not has_default():
        use_default(app)
    return app


class _Commanded(BaseWorker):
    """What RQ's command makes by `-w`. It checks what it was given, and hands over to our own worker in work()."""

    kind: type[HorseWorker | OneProcessWorker]
    pool: str

    def __init__(
        self,
        queues: str | Queue | Sequence[str] | Sequence[Queue],
        name: str | None = None,
        *,
        connection: redis.Redis | None = None,
        exception_handlers: Any = None,
        prepare_for_work: bool = True,
        **_options: Any,  # RQ's intervals, and job class, queue class and serializer, which are ours whatever they say
    ) -> None:
        own: dict[str, Any] = {
            "job_class": DoorbellJob,
            "queue_class": DoorbellQueue,
            "serializer": JSONSerializer,
            "prepare_for_work": prepare_for_work,
        }
        if not prepare_for_work:  # a monitor that looks at a worker elsewhere
            super().__init__(queues, name, connection=connection, **own)
            return
        if exception_handlers:
            raise ConfigError("--exception-handler: RQ would call it for no job of queuekit's. Leave it out")
        asked = [one if isinstance(one, str) else one.name for one in _many(queues)]
        if connection is None:
            connection = next((one.connection for one in _many(queues) if isinstance(one, Queue)), None)
        self._app = _app(check(connection))
        names = _queues(asked, self._app.settings, check(connection))
        super().__init__([], name, connection=connection, **own)
        self._given_name = name
        self._worker = self._app.worker(queues=names, concurrency=1, pool=self.pool)

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Serve the queues. With `burst` it ends when they are empty: what waits to be retried is left to the next."""
        setup_loghandlers(logging_level or "INFO", date_format, log_format, name="queuekit")
        if with_scheduler:
            self.log.info("RQ's scheduler is left out: queuekit's steward publishes what is due")
        if dequeue_strategy != DequeueStrategy.DEFAULT:
            raise ConfigError(
                f"--dequeue-strategy {dequeue_strategy}: each level of a priority is an RQ queue, and would not be "
                "served in order. Leave it out; start a worker for each queue where all are to have their turn"
            )
        adapter: Any = self._app.adapter
        taken = serve(
            adapter,
            self._worker,
            self.kind,
            name=self._given_name,
            burst=burst,
            logging_level=logging_level,
            date_format=date_format,
            log_format=log_format,
            max_jobs=max_jobs,
            max_idle_time=max_idle_time,
        )
        if self._worker.stopping.is_set() and threading.current_thread() is threading.main_thread():
            # The process ends, and its interpreter takes its handlers back: a third signal would be a crash.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return taken > 0


class Worker(_Commanded, HorseWorker):
    """`rq worker -w queuekit.adapters.rq.Worker QUEUE...`: a process for each job."""

    kind, pool = HorseWorker, "worker"


class SimpleWorker(_Commanded, OneProcessWorker):
    """`rq worker -w queuekit.adapters.rq.SimpleWorker QUEUE...`: all jobs in one process, one at a time."""

    kind, pool = OneProcessWorker, "simple"


def _many(queues: str | Queue | Sequence[str] | Sequence[Queue]) -> Iterable[str | Queue]:
    return [queues] if isinstance(queues, (str, Queue)) else queues


# ---- what RQ's command does not say --------------------------------------------------------------------------------


def _app(connection: redis.Redis) -> App:
    """The App that the user's modules have made, or one of the settings and RQ's connection. Raises ConfigError."""
    from queuekit.app import App, current_app, has_default, use_default

    settings = load()
    _import(settings.modules)
    if not registered_tasks():
        raise ConfigError(
            "no @agent_task is known here, so that a worker has nothing to run: RQ's command imports no module by "
            f"itself. Name yours: QUEUEKIT_MODULES=package.tasks {_COMMAND} ..."
        )
    if not has_default():
        made: dict[str, Any] = {"backend": settings.backend or "rq"}
        if settings.broker_url is None:
            made["broker_url"] = url_of(connection)
        use_default(App(settings.replace("the command rq worker", **made), redis=connection))
    app = current_app()
    if app.settings.backend != "rq":
        raise ConfigError(
            f"backend={app.settings.backend!r} ({app.settings.source('backend')}), but this is RQ's worker: set "
            "backend=rq, or start that engine's worker"
        )
    _check_same(app.settings, connection)
    return app


def _import(modules: Iterable[str]) -> None:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  # as `queuekit worker` does
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise ConfigError(f"modules={name!r}: there is no such module in {os.getcwd()} or on the path") from error  # noqa: PTH109


def _check_same(settings: Settings, connection: redis.Redis) -> None:
    """What is published at broker_url would never be seen by a worker of another server. Raises ConfigError."""
    from queuekit.adapters.rq import RqAdapter

    ours = RqAdapter(settings)
    try:
        if same_server(alike(connection, socket_timeout=2.0), ours.client) is False:
            raise ConfigError(
                f"broker_url={redact(settings.broker_url or '')!r} ({settings.source('broker_url')}) is not "
                f"where RQ's command was sent to ({redact(url_of(connection))}). Give both the same (--url), or leave "
                "broker_url out"
            )
    finally:
        ours.close()


def _queues(asked: Sequence[str], settings: Settings, connection: redis.Redis) -> tuple[str, ...]:
    """The queues of ours that the command's names mean. Raises ConfigError for one that is native, or nobody's."""
    ours = f"queuekit.{settings.namespace}."
    known = {"default", *settings.queues, *(task.queue for task in registered_tasks())}
    found: list[str] = []
    for name in asked:
        if name.startswith(ours):
            queue = name.removeprefix(ours)
            found.append(queue if queue in known else _LEVEL.sub("", queue))
        elif name.startswith("queuekit."):
            raise ConfigError(
                f"queue {name!r} is not of the namespace {settings.namespace!r} "
                f"({settings.source('namespace')}): set QUEUEKIT_NAMESPACE, or name one of {_list(ours, known)}"
            )
        elif _is_native(name, connection):
            raise ConfigError(
                f"queue {name!r} holds native RQ jobs, or has native workers, and is not shared: this worker would put "
                f"them aside, and a native one would run ours past their records. Start `rq worker {name}` for the "
                f"native jobs, and `{_COMMAND} {ours}{name if name in known else 'default'}` for queuekit's"
            )
        elif name not in known:
            raise ConfigError(
                f"queue {name!r} is none that a task here names. Name one of {_list(ours, known)}; {ours}{name} where "
                f"only options(queue={name!r}) does; or start `rq worker {name}` if it is for native jobs"
            )
        else:
            found.append(name)
    return tuple(dict.fromkeys(found))


def _list(ours: str, known: Iterable[str]) -> str:
    return ", ".join(f"{ours}{name}" for name in sorted(known))


def _is_native(name: str, connection: redis.Redis) -> bool:
    queue = Queue(name, connection=connection)
    if connection.sismember(Queue.redis_queues_keys, queue.key):
        return True
    return any(connection.exists(key) for key in worker_registration.get_keys(queue))
