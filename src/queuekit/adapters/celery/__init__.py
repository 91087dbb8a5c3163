"""Celery 5.7 on Redis or Valkey.

What queuekit asks for, and what it becomes here:
    queue                   a Celery queue, queuekit.<namespace>.<queue>
    priority                the message's priority: on Redis kombu keeps four lists for a queue, and 0 is the highest
    id                      the Celery task's id for the first publication, `<id>-<number>` for a later one
    arguments               args and kwargs of the Celery message, JSON; a worker runs what the record says
    timeout                 limits of our own in the task; prefork's hard time limit 5 s later kills the child
    late acknowledgement    acks_late, with a prefetch of one message for each process or thread
    retries                 none of Celery's: each wait is parked in the record
    outcome                 SUCCESS, RETRY, FAILURE or REVOKED, as states and as events; a duplicate leaves them alone

Publishing needs kombu alone: neither a program that enqueues nor a steward loads Celery's worker.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import celery  # noqa: F401  # without it load_adapter() says how to install it

from queuekit.adapters import Capabilities, Pool
from queuekit.adapters.celery.broker import Broker
from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.message import Publication
    from queuekit.settings import Settings
    from queuekit.task import Task
    from queuekit.worker import Worker

__all__ = ["CeleryAdapter"]


class CeleryAdapter:
    name: ClassVar[str] = "celery"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(
            Pool("prefork", processes=True, interrupts_sync=True, shared_loop=True, concurrent=True),
            Pool("threads", processes=False, interrupts_sync=False, shared_loop=True, concurrent=True),
            Pool("solo", processes=False, interrupts_sync=True, shared_loop=True, concurrent=False),
        ),
        default_pool="prefork",
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        if settings.broker_url is not None and settings.broker_url.startswith(("amqp://", "amqps://")):
            raise ConfigError(
                "backend celery runs on Redis so far: no test has run it on RabbitMQ yet. Set "
                "broker_url=redis://HOST:PORT/DB"
            )
        self.settings = settings
        self.broker = Broker(settings)
        self._app = native
        self._lock = threading.Lock()

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

    def depth(self, route: str) -> int | None:
        return self.broker.depth(route)

    def native(self, task: Task[..., Any, Any]) -> Any:
        """The Celery task of that name. It runs where a worker delivers to it."""
        from queuekit.adapters.celery.tasks import compile_task

        return compile_task(self.app, task.name, task.timeout)

    def run_worker(self, worker: Worker) -> int:
        from queuekit.adapters.celery.worker import run

        return run(self, worker)

    def close(self) -> None:
        self.broker.close()
