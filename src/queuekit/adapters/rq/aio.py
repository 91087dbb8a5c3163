"""The pool `async`: jobs are popped from RQ's queues many at a time, and run in this process.

No RQ worker works here. One is registered, beats, and keeps RQ's books for its monitors: the started, finished and
failed jobs, their results, its own counts. The books of many jobs are written in one conversation: for attempts that
start and that succeed in commands of our own, which tests/contracts/test_rq_books.py holds to what RQ's worker writes;
for the others by RQ's functions.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
import traceback
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import redis
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import WorkerStatus

from queuekit.adapters import BrokerAway
from queuekit.adapters.aio import EMPTY, run
from queuekit.adapters.rq import NATIVE_TTL, queue_name
from queuekit.adapters.rq.job import DoorbellJob
from queuekit.adapters.rq.worker import POLL, DoorbellQueue, Hooks, best_effort, refuse_native_workers
from queuekit.clients import ask_all
from queuekit.execution.outcomes import Dropped, Ended, Failed, Released, Retried, Succeeded
from queuekit.message import BUCKETS, InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from redis.client import Pipeline
    from rq import Queue

    from queuekit.adapters.rq import RqAdapter
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Delivery, Outcome
    from queuekit.worker import Worker

__all__ = ["run_async"]

log = logging.getLogger("queuekit.rq")

Command: TypeAlias = tuple[str | float, ...]

BEAT: Final = 10.0  # seconds between two heartbeats of the worker, and of the jobs that run
TTLS: Final = (b"result_ttl", b"failure_ttl")
READ: Final = (b"data", b"meta", b"status", b"origin", *TTLS)
FIELDS: Final = [name.decode() for name in READ]
JOB: Final = Job.redis_job_namespace_prefix
STARTED: Final = 60  # seconds without one after which RQ takes a job for abandoned


class _Job(DoorbellJob):
    def fill(self, kept: dict[bytes, bytes], data: bytes) -> None:
        """With what is looked at here. RQ looks for thirty fields, which takes as long as all the rest."""
        if b"data" not in kept:
            raise InvalidMessage("it has no data")
        self.data = data
        self.origin = kept.get(b"origin", b"").decode()
        self.result_ttl, self.failure_ttl = (int(kept[name]) if kept.get(name) else None for name in TTLS)
        self._status = JobStatus(kept[b"status"].decode()) if kept.get(b"status") else JobStatus.CREATED
        self.meta = json.loads(kept[b"meta"]) if kept.get(b"meta") else {}


class _Bookkeeper(Hooks, SimpleWorker):
    """RQ's worker as its monitors see it. What it writes for a job is less than RQ's own: no entry for an execution,
    apart from that in the registry of what has started."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.running: dict[str, DoorbellJob] = {}  # by RQ's name for an execution: JOB:EXECUTION
        self.started = {queue.name: queue.started_job_registry.key for queue in self.queues}
        self.finished = {queue.name: queue.finished_job_registry.key for queue in self.queues}

    def begin(self, jobs: Sequence[DoorbellJob]) -> None:
        began = now()
        said, until = utcformat(began), time.time() + STARTED
        names = secrets.token_hex(16 * len(jobs))
        entries: defaultdict[str, list[str | float]] = defaultdict(list)
        commands: list[Command] = []
        for number, job in enumerate(jobs):
            job.execution = f"{job.id}:{names[32 * number : 32 * number + 32]}"
            job.started_at = began
            self.running[job.execution] = job
            entries[self.started[job.place]] += until, job.execution
            key = JOB + job.id
            commands += (
                (
                    "HSET", key, "last_heartbeat", said, "status", "started", "started_at", said,
                    "worker_name", self.name,
                ),
                ("PERSIST", key),
            )  # fmt: skip
        commands += [("ZADD", registry, *members) for registry, members in entries.items()]
        commands.append(self._now(WorkerStatus.BUSY))
        with best_effort():
            self._tell(commands)

    def _now(self, state: WorkerStatus) -> Command:
        self._state = state
        return "HSET", self.key, "state", state.value

    def _tell(self, commands: Sequence[Command]) -> None:
        """Raises redis.RedisError."""
        for answer in ask_all(self.connection, commands):
            if isinstance(answer, redis.RedisError):
                raise answer

    def say(self, said: Sequence[tuple[DoorbellJob, Outcome]]) -> None:
        ended, worked = now(), 0.0
        over: defaultdict[str, list[str]] = defaultdict(list)
        good: defaultdict[str, list[str | float]] = defaultdict(list)
        others: list[tuple[DoorbellJob, Outcome]] = []
        commands: list[Command] = []
        for job, outcome in said:
            if isinstance(outcome, Dropped):
                log.info("RQ job %s dropped: %s", job.id, outcome.reason)
            if not job.execution:  # nothing was run, and the hash may be that of a twin that is
                if job.get_status(refresh=False) is JobStatus.QUEUED:
                    commands.append(("EXPIRE", JOB + job.id, NATIVE_TTL))
                continue
            self.running.pop(job.execution, None)
            over[self.started[job.place]].append(job.execution)
            if isinstance(outcome, Succeeded):
                assert job.started_at is not None
                worked += (ended - job.started_at).total_seconds()
                ttl = job.get_result_ttl(NATIVE_TTL) or 1
                commands += self._succeeded(job, outcome, ended, ttl)
                good[self.finished[job.place]] += time.time() + ttl, job.id
            else:
                others.append((job, outcome))
        commands += [("ZREM", registry, *names) for registry, names in over.items()]
        commands += [("ZADD", registry, *members) for registry, members in good.items()]
        if good:
            count = sum(map(len, good.values())) // 2
            commands.append(("HINCRBY", self.key, "successful_job_count", count))
            commands.append(("HINCRBYFLOAT", self.key, "total_working_time", worked))
        if not self.running:
            commands.append(self._now(WorkerStatus.IDLE))
        with best_effort():
            self._tell(commands)
        if others:  # also where something of the former was refused
            with best_effort():
                self._others(others, ended)

    def _succeeded(self, job: DoorbellJob, outcome: Succeeded, ended: datetime, ttl: int) -> tuple[Command, ...]:
        """For so many seconds RQ keeps it."""
        assert job.started_at is not None
        key, result = JOB + job.id, Result.get_key(job.id)  # type: ignore[no-untyped-call]
        kept = outcome.text is not None and outcome.text != "null" and not job.delivery().bell.private
        value = ("return_value", base64.b64encode((outcome.text or "").encode()).decode()) if kept else ()
        return (
            ("HSET", key, "status", "finished", "ended_at", utcformat(ended)),
            ("EXPIRE", key, ttl),
            (
                "XADD", result, "MAXLEN", "~", 10, "*", "type", Result.Type.SUCCESSFUL.value,
                "worker_name", self.name, *value,
                "execution_started_at", job.started_at.timestamp(), "execution_ended_at", ended.timestamp(),
            ),
            ("EXPIRE", result, ttl),
        )  # fmt: skip

    def _others(self, said: Sequence[tuple[DoorbellJob, Outcome]], ended: datetime) -> None:
        """Raises redis.RedisError."""
        with self.connection.pipeline(transaction=False) as pipe:
            bad = sum(self._other(job, outcome, ended, pipe) for job, outcome in said)
            if bad:
                pipe.hincrby(self.key, "failed_job_count", bad)
            pipe.execute()

    def _other(self, job: DoorbellJob, outcome: Outcome, ended: datetime, pipe: Pipeline) -> bool:
        """Whether RQ counts it as a failure."""
        match outcome:
            case Retried(reason=reason, error=error) | Failed(reason=reason, error=error):
                private = job.delivery().bell.private
                text = f"{'' if private else ''.join(traceback.format_exception(error))}\n{reason}"
            case Ended(reason=reason):
                text = f"cancelled: {reason}"
            case Released(reason=reason):
                text = f"released, and queued again: {reason}"
            case _:
                pipe.expire(job.key, NATIVE_TTL)
                return False
        job.set_status(JobStatus.STOPPED if isinstance(outcome, Ended) else JobStatus.FAILED, pipeline=pipe)
        job._handle_failure(text, pipe, self.name, execution_started_at=job.started_at, execution_ended_at=ended)
        return True

    def beat(self) -> None:
        """Its own, and those of all that runs. Registers it again where the broker has forgotten it."""
        entries: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for name, job in tuple(self.running.items()):
            entries[self.started[job.place]][name] = time.time() + STARTED
        with best_effort():
            if not self.connection.exists(self.key):
                self.register_birth()  # type: ignore[no-untyped-call]
            with self.connection.pipeline(transaction=False) as pipe:
                self.heartbeat(pipeline=pipe)
                for registry, members in entries.items():
                    pipe.zadd(registry, members, xx=True)
                pipe.execute()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()


class _Source:
    """See queuekit.adapters.aio.Source."""

    def __init__(self, adapter: RqAdapter, worker: Worker) -> None:
        self.worker = worker
        self.client = adapter._connect(socket_timeout=POLL + 10.0, socket_connect_timeout=5.0, health_check_interval=0)
        self.places = {
            queue_name(adapter.settings.namespace, queue, level): (queue, level)
            for level in reversed(BUCKETS)
            for queue in worker.queues
        }
        self.queues: dict[str, Queue] = {}
        self.blank = _Job.blank(self.client)
        self.books: _Bookkeeper | None = None  # None: the broker was not there yet
        self._next_beat = 0.0

    def open(self) -> None:
        DoorbellQueue.worker, DoorbellQueue.places = self.worker, self.places
        DoorbellJob.most = self.worker.settings.doorbell_limit
        try:
            self.books = self._make_books()
            refuse_native_workers(self.books)
        except redis.RedisError as error:
            log.warning("the broker is away: %s", error)

    def _make_books(self) -> _Bookkeeper:
        """It asks the broker who it is connected as. Raises redis.RedisError."""
        made = _Bookkeeper(
            list(self.places),
            connection=self.client,
            job_class=DoorbellJob,
            queue_class=DoorbellQueue,
            serializer=JSONSerializer,
            worker_ttl=POLL + 15,
        )
        made.qk = self.worker
        self.queues = {queue.key: queue for queue in made.queues}
        return made

    def look_around(self) -> None:
        if self.books is not None and time.monotonic() > self._next_beat:
            self.books.beat()
            self._next_beat = time.monotonic() + BEAT

    def fetch(self, room: Room) -> Sequence[DoorbellJob]:
        # A native job has no record before adopt(): one that is popped is all there is, and not many are risked.
        room = replace(room, most=1) if self.worker.settings.adopt else room
        try:
            if self.books is None:
                self.books = self._make_books()
            names = self._pop(room)
            if not names and room.wait:
                popped: Any = self.client.blpop(list(self.queues), EMPTY)
                names = [] if popped is None else [(popped[0].decode(), popped[1])]
            if self.worker.stopping.is_set():
                self._push(names)
                return []
            found = []
            for (key, raw), row in zip(names, self._rows([raw for _, raw in names]), strict=True):
                job = DoorbellQueue.opened(raw, row, self.queues[key], self.blank)
                if job is not None:
                    job.place = self.queues[key].name
                    found.append(job)
        except redis.RedisError as error:  # what was popped is found by its record
            raise BrokerAway(f"the broker does not answer: {error}") from error
        return found

    def _pop(self, room: Room) -> list[tuple[str, bytes]]:
        """In the order of the queues' levels."""
        lengths = ask_all(self.client, [("LLEN", key) for key in self.queues])
        names: list[tuple[str, bytes]] = []
        left = {queue: room.of(queue) for queue in self.worker.queues}
        for (key, native), length in zip(self.queues.items(), lengths, strict=True):
            if isinstance(length, redis.RedisError):
                raise length
            queue, _ = self.places[native.name]
            few = min(length, room.most - len(names), left[queue])
            if few > 0:
                popped: Any = self.client.lpop(key, few)
                names += [(key, raw) for raw in popped or ()]
                left[queue] -= len(popped or ())
        return names

    def _rows(self, names: Sequence[bytes]) -> list[Any]:
        """Of each hash what is needed here, or the error that the broker answers."""
        asked = [JOB + raw.decode("utf-8", "replace") for raw in names]  # opened() puts aside what is none
        rows = ask_all(self.client, [("HMGET", key, *FIELDS) for key in asked]) if asked else []
        return [
            row
            if isinstance(row, redis.RedisError)
            else {name: value for name, value in zip(READ, row, strict=True) if value is not None}
            for row in rows
        ]

    def delivery(self, message: DoorbellJob) -> Delivery | Outcome:
        return message.delivery()

    def put_aside(self, message: DoorbellJob, why: str) -> bool:
        return self.worker.quarantine(message.id, why, source=message.origin)

    def begun(self, messages: Sequence[DoorbellJob]) -> None:
        if self.books is not None:
            self.books.begin(messages)

    def settle(self, said: Sequence[tuple[DoorbellJob, Outcome]]) -> None:
        if self.books is not None:
            self.books.say(said)

    def put_back(self, messages: Sequence[DoorbellJob]) -> None:
        key_of = {queue.name: key for key, queue in self.queues.items()}
        with best_effort():
            self._push([(key_of[job.place], job.id.encode()) for job in messages])

    def _push(self, names: Sequence[tuple[str, bytes]]) -> None:
        for key, raw in reversed(names):
            self.client.lpush(key, raw)  # a doorbell too many is dropped

    def close(self) -> None:
        with suppress(redis.RedisError):
            if self.books is not None:
                self.books.register_death()  # type: ignore[no-untyped-call]
        self.client.close()


def run_async(adapter: RqAdapter, worker: Worker) -> int:
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    return run(worker, _Source(adapter, worker))
