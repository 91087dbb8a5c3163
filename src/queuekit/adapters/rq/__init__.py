"""RQ 3 on Redis or Valkey.

What queuekit asks for, and what it becomes here:
    queue, priority         an RQ queue for each level; the worker serves the higher ones first
    id                      the RQ job's id for the first publication, `<id>-<number>` for a later one
    arguments               args and kwargs, JSON (RQ's own JSONSerializer)
    timeout                 limits of our own in the horse; the worker kills a horse that is 5 s over
    late acknowledgement    RQ pops a message when it takes it: the record carries the job
    retries                 none of RQ's: each wait is parked in the record
    outcome                 FINISHED with a result; FAILED with the traceback, also where the job runs again
"""

from __future__ import annotations

import math
import threading
from json import dumps
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now as utcnow
from rq.utils import utcformat

from queuekit.adapters import ASYNC, BrokerAway, Capabilities, Pool
from queuekit.adapters.rq.job import BACKSTOP, DoorbellJob
from queuekit.clients import connect, one_try
from queuekit.message import HEADER, shown_of, split_route
from queuekit.store import Wire, WireForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from queuekit.adapters.report import Row
    from queuekit.adapters.rq.beside import SimpleWorker, Worker, install
    from queuekit.message import Message, Publication
    from queuekit.payload.arguments import Arguments
    from queuekit.settings import Settings
    from queuekit.task import Task
    from queuekit.worker import Worker as QueuekitWorker

__all__ = ["RqAdapter", "SimpleWorker", "Worker", "install", "queue_name"]

QUEUES: Final = Queue.redis_queues_keys
QUEUE_KEY: Final = Queue.redis_queue_namespace_prefix
JOB_KEY: Final = Job.redis_job_namespace_prefix
EMPTY: Final = {
    **{f"{what}_callback_name": "" for what in ("success", "failure", "stopped")},
    **dict.fromkeys(("started_at", "ended_at", "last_heartbeat", "worker_name", "group_id"), ""),
}  # what RQ writes of a job that has none of it

NATIVE_TTL: Final = 500  # seconds that RQ keeps a finished publication for its monitors; the record is kept by us


def queue_name(namespace: str, queue: str, level: int) -> str:
    # Always with a level: a queue named "x.p9" must not meet level 9 of "x".
    return f"queuekit.{namespace}.{queue}.p{level}"


def _timeout(message: Message) -> int:
    return -1 if message.timeout is None else math.ceil(message.timeout) + BACKSTOP


def _native_ttl(message: Message) -> int:
    return min(math.ceil(message.result_ttl), NATIVE_TTL)


def __getattr__(name: str) -> Any:
    """For `rq worker -w queuekit.adapters.rq.Worker`, and for programs that install()."""
    if name in {"SimpleWorker", "Worker", "install"}:
        from queuekit.adapters.rq import beside

        return getattr(beside, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RqAdapter:
    name: ClassVar[str] = "rq"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(
            Pool("worker", processes=True, interrupts_sync=True, shared_loop=False, concurrent=False),
            Pool("simple", processes=False, interrupts_sync=True, shared_loop=True, concurrent=False),
            Pool(ASYNC, False, interrupts_sync=False, shared_loop=True, concurrent=True, caps=("redis",)),
        ),
        default_pool="worker",
        gaps={
            "C15:worker": "RQ's Worker forks a process for each job, so that no loop can live on from one to the next; "
            "the pools `async` and `simple` run them in one process, and hold the clause"
        },
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        if native is not None:
            from queuekit.adapters.rq import connection

            native = connection.check(native)
        self.settings = settings
        self._native: redis.Redis | None = native
        self._client: redis.Redis | None = None
        self._lock = threading.Lock()

    # ---- connections ------------------------------------------------------------------------------------------------

    @staticmethod
    def broker_url_of(native: Any) -> str:
        """Where the user's own connection leads to. Raises ConfigError where no URL can say it."""
        from queuekit.adapters.rq.connection import check, url_of

        return url_of(check(native))

    def _connect(self, **options: Any) -> redis.Redis:
        if self._native is not None:
            from queuekit.adapters.rq.connection import alike

            return alike(self._native, **options)
        assert self.settings.broker_url is not None
        return connect(self.settings.broker_url, **options)

    @property
    def client(self) -> redis.Redis:
        """For publishing: tries once, and connecting and answering fit into enqueue_timeout."""
        with self._lock:
            if self._client is None:
                half = min(2.0, self.settings.enqueue_timeout * 0.4)
                self._client = self._connect(**one_try(half))
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    # ---- publishing -------------------------------------------------------------------------------------------------

    def _queue(self, route: str, connection: redis.Redis) -> Queue:
        _, queue, level = split_route(route)
        return Queue(
            queue_name(self.settings.namespace, queue, level),
            connection=connection,
            job_class=DoorbellJob,
            serializer=JSONSerializer,
        )

    def publish(self, publications: Sequence[Publication]) -> None:
        client = self.client
        try:
            with client.pipeline() as pipe:  # a transaction: a hash and its place in the queue belong together
                for publication in publications:
                    job = self._job(publication, client)
                    self._queue(publication.message.route, client).enqueue_job(job, pipeline=pipe)
                pipe.execute()
        except redis.RedisError as error:
            raise BrokerAway(f"the broker did not take the jobs: {error}") from error

    def wiring(self, like: Message) -> Callable[[str, Arguments], Wire] | None:
        """What RQ's enqueue_job() sends, but for the compression of its data, which RQ reads without as well. RQ takes
        ten times as long over it, mostly for what none of ours has."""
        _, queue, level = split_route(like.route)
        queue = queue_name(self.settings.namespace, queue, level)
        same = {
            **EMPTY,
            "origin": queue,
            "description": like.task,
            "timeout": str(_timeout(like)),
            "result_ttl": str(_native_ttl(like)),
            "failure_ttl": str(NATIVE_TTL),
            "status": "queued",
        }
        fields = tuple(part for pair in same.items() for part in pair)
        key, task = f"{QUEUE_KEY}{queue}", dumps(like.task)
        own, bell = WireForm.OWN, WireForm.DOORBELL
        differ = ("created_at", own, "data", own, "enqueued_at", own, "meta", bell)
        form = WireForm(("SADD", QUEUES, key), ("HSET", own, *fields, *differ), ("RPUSH", key, own))
        shown_as = shown_of(like, self.settings.shown_limit)

        def wire(id: str, arguments: Arguments) -> Wire:
            now = utcformat(utcnow())
            shown, (header, between, then, behind) = shown_as(arguments)
            data = f"[{task},null,{shown.args_text},{shown.kwargs_text}]"
            before = f'{{"{HEADER}":{header}{id}{between}'
            return Wire(form, (f"{JOB_KEY}{id}", now, data, now, before, then, behind + "}", id))

        return wire

    def _job(self, publication: Publication, client: redis.Redis) -> Job:
        message = publication.message
        args, kwargs, bell = publication.within(self.settings.shown_limit)
        return Job.create(
            message.task,
            args=args,
            kwargs=kwargs,
            connection=client,
            id=publication.native_id,
            timeout=_timeout(message),
            result_ttl=_native_ttl(message),
            failure_ttl=NATIVE_TTL,
            description=message.task,
            meta={HEADER: dict(bell)},
            serializer=JSONSerializer,
        )

    def depth(self, route: str) -> int | None:
        client = self.client
        try:
            return client.llen(self._queue(route, client).key)
        except redis.RedisError as error:
            raise BrokerAway(f"the broker does not answer: {error}") from error

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def native(self, task: Task[..., Any, Any]) -> Any:
        """The function: RQ knows tasks as functions."""
        return task.fn

    def compile(self, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterator[Row]:
        from queuekit.adapters.rq.compile import compile_rows

        return compile_rows(self, task, pool, rows)

    def run_worker(self, worker: QueuekitWorker) -> int:
        from queuekit.adapters.rq.worker import run

        return run(self, worker)
