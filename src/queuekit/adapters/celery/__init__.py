"""Celery 5.7 on Redis, Valkey or RabbitMQ.

What queuekit asks for, and what it becomes here:
    queue                   a Celery queue, queuekit.<namespace>.<queue>
    priority                the message's priority: on Redis kombu keeps four lists for a queue, and 0 is the highest
    id                      the Celery task's id for the first publication, `<id>-<number>` for a later one
    arguments               args and kwargs of the Celery message, JSON; a worker runs what the record says
    timeout                 limits of our own in the task; prefork's hard time limit 5 s later kills the child
    late acknowledgement    acks_late, with a prefetch of one message for each process or thread; on Redis a worker has
                            what it has taken in its memory alone, and the record carries the job
    retries                 none of Celery's: each wait is parked in the record
    outcome                 SUCCESS, RETRY, FAILURE or REVOKED, as states and as events; a duplicate leaves them alone

Publishing needs kombu alone: neither a program that enqueues nor a steward loads Celery's worker.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import celery

from queuekit.adapters import ASYNC, Capabilities, Pool
from queuekit.adapters.celery.broker import Broker
from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from queuekit.adapters import findings
    from queuekit.adapters.celery.check import Finding
    from queuekit.adapters.report import Row
    from queuekit.app import App
    from queuekit.message import Message, Publication
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings
    from queuekit.store import Wire
    from queuekit.task import Task
    from queuekit.worker import Worker

__all__ = ["CeleryAdapter", "check", "install"]


def install(app: Any, settings: Settings | None = None, **overrides: Any) -> App:
    """Take queuekit's tasks into a Celery app that is there: `celery -A proj worker` runs both from then on.

    See queuekit.adapters.celery.installing.
    """
    from queuekit.adapters.celery.installing import install as do

    return do(app, settings, **overrides)


def check(app: Any) -> list[Finding]:
    """What in the app's configuration undoes a promise of queuekit's, with the line that mends it. Changes nothing."""
    from queuekit.adapters.celery.check import check as do

    return do(app)


class CeleryAdapter:
    name: ClassVar[str] = "celery"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(
            Pool("prefork", processes=True, interrupts_sync=True, shared_loop=True, concurrent=True),
            Pool("threads", processes=False, interrupts_sync=False, shared_loop=True, concurrent=True),
            Pool("solo", processes=False, interrupts_sync=True, shared_loop=True, concurrent=False),
            Pool(ASYNC, False, False, shared_loop=True, concurrent=True, caps=("redis", "rabbitmq")),
        ),
        default_pool="prefork",
        brokers=("redis", "rabbitmq"),
        refused=dict.fromkeys(
            ("gevent", "eventlet"),
            "its green threads share one system thread, so that a time limit cannot be raised in one job and not in "
            "another. For many jobs that wait make the task async, and choose the pool `async`",
        ),
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        if native is not None and not isinstance(native, celery.Celery):
            raise ConfigError(f"App(celery={native!r}): give a celery.Celery")
        self.settings = settings
        self.broker = Broker(settings)
        self._native = native
        self._app = native
        self._lock = threading.Lock()

    @classmethod
    def broker_url_of(cls, native: Any) -> str:
        """Where the user's own app publishes to, for a broker_url that is not set. Raises ConfigError."""
        conf = native.conf
        found = conf.broker_write_url or conf.broker_url
        urls = [found] if isinstance(found, str) else list(found or ())
        urls = [one.strip() for url in urls for one in url.split(";") if one.strip()]
        if len(urls) != 1:
            raise ConfigError(
                f"the Celery app has {len(urls)} broker URLs, and queuekit takes one: set broker_url "
                "(QUEUEKIT_BROKER_URL=redis://HOST:PORT/DB)"
            )
        return urls[0].replace("pyamqp://", "amqp://", 1).replace("redis+socket://", "unix://", 1)

    @property
    def own(self) -> bool:
        """Whether the Celery app is queuekit's own, and not a user's that was handed in."""
        return self._native is None

    @property
    def async_by_link(self) -> bool:
        """Whether messages come by kombu's consumer in the pool `async` too, which hands over what comes: on Redis a
        native message that is popped, and lost with its worker, has no record to be found by."""
        return self.settings.adopt and self.broker.is_redis

    @property
    def app(self) -> Any:
        """The Celery app: the user's own where one was handed in, which keeps its app-wide settings."""
        with self._lock:
            if self._app is None:
                from queuekit.adapters.celery.tasks import make_app

                self._app = make_app(self.broker)
            return self._app

    def publish(self, publications: Sequence[Publication]) -> None:
        self.broker.publish(publications)

    def wiring(self, like: Message) -> Callable[[str, Arguments], Wire] | None:
        return self.broker.wiring(like)

    def depth(self, route: str) -> int | None:
        return self.broker.depth(route)

    def native(self, task: Task[..., Any, Any]) -> Any:
        """The Celery task of that name. It runs where a worker delivers to it."""
        from queuekit.adapters.celery.tasks import compile_task

        return compile_task(self.app, task.name, self.broker, task)

    def compile(self, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterator[Row]:
        from queuekit.adapters.celery.compile import compile_rows

        return compile_rows(self, task, pool, rows)

    def diagnose(self, tasks: Sequence[Task[..., Any, Any]]) -> Iterator[findings.Finding]:
        from queuekit.adapters.celery.diagnose import diagnose

        return diagnose(self)

    def run_worker(self, worker: Worker) -> int:
        from queuekit.adapters.celery.worker import run

        return run(self, worker)

    def close(self) -> None:
        self.broker.close()
