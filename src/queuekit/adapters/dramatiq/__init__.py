"""Dramatiq on Redis or RabbitMQ.

Dramatiq carries the doorbells and runs the threads; of its middleware none that decides about a job is there. Which of
its behaviours this leans on is pinned by tests/contracts/test_dramatiq.py and test_dramatiq_pika.py.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final

import dramatiq

from queuekit.adapters import ASYNC, Capabilities, Pool
from queuekit.adapters.dramatiq.beside import install
from queuekit.adapters.dramatiq.broker import Broker, base_queue, level_queue
from queuekit.errors import ConfigError
from queuekit.message import HEADER, bucket, split_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from queuekit.adapters.findings import Finding
    from queuekit.adapters.report import Row
    from queuekit.message import Message, Publication
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings
    from queuekit.store import Wire
    from queuekit.task import Task
    from queuekit.worker import Worker

__all__ = ["DramatiqAdapter", "install"]

BACKSTOP: Final = 5.0  # seconds after our own hard limit at which the engine's would strike


class DramatiqAdapter:
    """Jobs as Dramatiq messages; see queuekit.adapters.Adapter.

    `native` is the user's own broker: its middleware sees our messages too, but for those of Dramatiq's that would
    retry, limit or drop them. Messages travel by the setting broker_url all the same, since a steward has no other.
    """

    name: ClassVar[str] = "dramatiq"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(
            Pool("threads", False, interrupts_sync=False, shared_loop=True, concurrent=True, caps=("redis",)),
            Pool(ASYNC, False, False, shared_loop=True, concurrent=True, caps=("redis", "rabbitmq")),
        ),
        default_pool="threads",
        brokers=("redis", "rabbitmq"),
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        if native is not None and not isinstance(native, dramatiq.Broker):
            raise ConfigError(f"App(dramatiq={native!r}): give a dramatiq.Broker")
        self.settings = settings
        self._user_broker: dramatiq.Broker | None = native
        self._kind = _broker_class(settings)
        self._broker: Broker | None = None
        self._lock = threading.RLock()

    def make_broker(self, **options: Any) -> Broker:
        """One of ours, on the broker of the settings. Makes no connection."""
        return self._kind(self.settings, user_broker=self._user_broker, **options)

    @property
    def broker(self) -> Broker:
        """The broker that publishes and that the actors are bound to. A worker makes one of its own to consume."""
        with self._lock:
            if self._broker is None:
                self._broker = self.make_broker(timeout=self._kind.publish_timeout(self.settings))
            return self._broker

    # ---- publishing -------------------------------------------------------------------------------------------------

    def publish(self, publications: Sequence[Publication]) -> None:
        self.broker.send([self._compile(one) for one in publications])

    def wiring(self, like: Message) -> Callable[[str, Arguments], Wire] | None:
        broker = self.broker
        if self._user_broker is not None:  # whose middleware is told of what is enqueued, and may change it
            return None
        return broker.wiring(like, self._queue(like.route), _options(like))

    def depth(self, route: str) -> int | None:
        return self.broker.waiting(self._queue(route))

    def _queue(self, route: str) -> str:
        _, queue, level = split_route(route)
        return level_queue(base_queue(self.settings, queue), level)

    def _compile(self, publication: Publication) -> dramatiq.Message[Any]:
        return dramatiq.Message(**self._fields(publication))

    def _fields(self, publication: Publication) -> dict[str, Any]:
        """Of the message, but for its timestamp."""
        message = publication.message
        args, kwargs, header = publication.within(self.settings.shown_limit)
        return {
            "queue_name": self._queue(message.route),
            "actor_name": message.task,
            "args": tuple(args),
            "kwargs": kwargs,
            "options": {HEADER: header, **_options(message)},
            "message_id": publication.native_id,
        }

    # ---- the native task --------------------------------------------------------------------------------------------

    def native(self, task: Task[..., Any, Any]) -> Any:
        """The task's actor. It can be called; what its send() sends has no record until a worker claims it, and is run
        only with the setting `adopt`."""
        with self._lock:
            actor = self.broker.actors.get(task.name)
            if actor is None:
                options = {} if task.timeout is None else {"time_limit": _milliseconds(task.timeout)}
                actor = _Actor(
                    task.fn,
                    broker=self.broker,
                    actor_name=task.name,
                    queue_name=level_queue(base_queue(self.settings, task.queue), bucket(task.priority)),
                    priority=-bucket(task.priority),  # Dramatiq: lower is sooner
                    options={"max_retries": 0, **options},
                )
            return actor

    def compile(self, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterator[Row]:
        from queuekit.adapters.dramatiq.compile import compile_rows

        return compile_rows(self, task, pool, rows)

    def diagnose(self, tasks: Sequence[Task[..., Any, Any]]) -> Iterator[Finding]:
        from queuekit.adapters.dramatiq.diagnose import diagnose

        return diagnose(self.settings, self._user_broker)

    # ---- working ----------------------------------------------------------------------------------------------------

    def run_worker(self, worker: Worker) -> int:
        from queuekit.adapters.dramatiq.worker import THREADS, run

        self.check_pool(worker)
        if worker.pool != ASYNC and not self.threads_are_ours:
            return run(worker, self.make_broker)
        from queuekit.adapters.aio import CONCURRENCY
        from queuekit.adapters.dramatiq.aio import run_async

        return run_async(worker, self.make_broker, CONCURRENCY if worker.pool == ASYNC else THREADS)

    @property
    def threads_are_ours(self) -> bool:
        """Whether `threads` is run as the pool `async` is: a user's middleware may count on Dramatiq's."""
        return self._user_broker is None and not (self.settings.broker_url or "").startswith("amqp")

    def check_pool(self, worker: Worker) -> None:
        """Raises ConfigError."""
        pools = [pool.name for pool in self.capabilities.pools]
        if worker.pool is not None and worker.pool not in pools:
            raise ConfigError(f"pool={worker.pool!r}: the backend dramatiq has {', '.join(pools)}")

    def close(self) -> None:
        with self._lock:
            if self._broker is not None:
                self._broker.close()
            self._broker = None


class _Actor(dramatiq.Actor[Any, Any]):
    def send_with_options(self, *args: Any, **options: Any) -> Any:
        broker = self.broker
        assert isinstance(broker, Broker)
        if not broker.settings.adopt:
            raise ConfigError(
                f"actor {self.actor_name!r} belongs to a queuekit task: a message that is sent past it has no record, "
                "and no worker would run it. Call the task's enqueue(), or set adopt=true here and for the workers"
            )
        return super().send_with_options(*args, **options)


def _broker_class(settings: Settings) -> type[Broker]:
    if settings.broker_url is None or not settings.broker_url.startswith(("amqp://", "amqps://")):
        from queuekit.adapters.dramatiq.redis import RedisBroker

        return RedisBroker
    try:
        from queuekit.adapters.dramatiq.rabbitmq import RabbitBroker
    except ModuleNotFoundError as error:
        if error.name != "pika":
            raise
        raise ConfigError(
            "backend dramatiq on RabbitMQ needs the package 'pika', which is not installed: "
            "pip install 'queuekit[dramatiq,rabbitmq]'"
        ) from error
    return RabbitBroker


def _options(like: Message) -> dict[str, Any]:
    """Those in which messages like this one do not differ."""
    limit = {} if like.timeout is None else {"time_limit": _milliseconds(like.timeout)}
    return {"max_retries": 0, **limit}


def _milliseconds(timeout: float) -> int:
    return round((timeout + BACKSTOP) * 1000)
