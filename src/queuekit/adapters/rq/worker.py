"""RQ's own workers with a claim before the job, an outcome after it, and none of RQ's retries.

Pinned by tests/contracts/test_rq.py: the hooks that are overridden, and what RQ does around them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis
from rq import Queue, SimpleWorker, worker_registration
from rq import Worker as ForkingWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text, now
from rq.worker import BaseWorker

from queuekit.adapters.rq import NATIVE_TTL, queue_name
from queuekit.adapters.rq.job import DoorbellJob
from queuekit.errors import ConfigError
from queuekit.execution import Dropped, Ended, Failed, Held, Released, Retried, Succeeded, Unrecorded
from queuekit.message import BUCKETS, InvalidMessage
from queuekit.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rq.executions import Execution

    from queuekit.adapters.rq import RqAdapter
    from queuekit.execution import Outcome
    from queuekit.worker import Worker

__all__ = ["HorseWorker", "OneProcessWorker", "run", "serve"]

log = logging.getLogger("queuekit.rq")

POLL: Final = 2  # seconds that a worker waits in the broker before it looks around
OURS: Final = "queuekit"  # the field of RQ's hash of a worker that marks ours
RQ_GRACE: Final = 60  # RQ's worker kills a horse so many seconds after job.timeout


class DoorbellQueue(Queue):
    """A queue that hands out what can be read, and reports the rest.

    Attributes:
        worker, places: set by serve(), since RQ makes queues by class. The queue and level of each of RQ's names.
        holding: a message is out of the broker, and a stop must wait until it is handed out or back.
    """

    worker: Worker
    places: ClassVar[dict[str, tuple[str, int]]] = {}
    holding: ClassVar[bool] = False

    @classmethod
    def dequeue_any(  # type: ignore[override]  # our worker alone calls it, by these names
        cls, queues: Any, timeout: int | None, connection: redis.Redis, **options: Any
    ) -> Any:
        """RQ's own stops the worker for a name that is no UTF-8, a hash that it cannot read, or an unknown status."""
        found = {queue.key.encode(): queue for queue in queues}
        # A native job has no record before adopt(): not even while its name is on the way here may a signal cut in. A
        # stop waits for the end of the blocking call, then.
        adopts = cls.worker.settings.adopt
        try:
            while not cls.worker.stopping.is_set():
                cls.holding = adopts
                popped: Any = connection.blpop(list(found), timeout or 1)
                cls.holding = popped is not None
                if popped is None:
                    if timeout is None:
                        return None
                    if not cls.worker.stopping.is_set():
                        raise DequeueTimeout(timeout, list(found))
                    break
                key, raw = popped
                job = None if cls.worker.stopping.is_set() else cls._open(raw, found[key], connection)
                if cls.worker.stopping.is_set():
                    connection.lpush(key, raw)  # a doorbell too many is dropped
                    break
                if job is not None:
                    return job, found[key]
        finally:
            cls.holding = False
        raise StopRequested

    @classmethod
    def _open(cls, raw: bytes, queue: Queue, connection: redis.Redis) -> DoorbellJob | None:
        said = raw.decode("utf-8", "backslashreplace")
        try:
            job = DoorbellJob(raw.decode(), connection=connection, serializer=JSONSerializer)
            job.refresh()  # type: ignore[no-untyped-call]
            if job.is_native and not cls._adopt(job, queue):
                return None
            job.delivery()
        except redis.RedisError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            cls.worker.quarantine(said, f"an RQ job that cannot be read: {error}")
            return None
        except Exception as error:
            if isinstance(error, (InvalidMessage, UnicodeDecodeError)) or connection.exists(f"rq:job:{said}"):
                fields = connection.hgetall(f"rq:job:{said}") if said.isprintable() else {}
                cls.worker.quarantine(f"{said} {fields!r}"[:100_000], f"an RQ job that cannot be read: {error}")
            else:  # a doorbell whose hash has expired: the record repairs it
                log.info("RQ job %s is gone from the broker", said)
            return None
        return job

    @classmethod
    def _adopt(cls, job: DoorbellJob, queue: Queue) -> bool:
        """Make the record of a native producer's job at once: until then the message that was popped is all there is.
        Raises InvalidMessage."""
        execution = cls.worker.execution
        if not execution.settings.adopt:
            return True  # delivery() says what it is
        name, args, kwargs = job.asked()
        place, level = cls.places[queue.name]
        delivery = execution.adopt(id=job.id, task=name, args=args, kwargs=kwargs, queue=place, priority=level)
        if isinstance(delivery, Unrecorded):  # the worker stops, and the message goes back
            log.warning("RQ job %s goes back to its queue: %s", job.id, delivery.reason)
            return False
        job.take_over(delivery)
        return True


class _Hooks(BaseWorker):
    """What our two workers share."""

    qk: Worker
    max_connection_wait_time = 5.0
    stop_at: float | None = None
    taken = 0
    idle = False  # the queues are empty, and it was asked to end then

    def serialize(self) -> dict[str, Any]:
        """What RQ keeps of a worker, and that it is one of ours: a native one has no business on our queues."""
        return {**super().serialize(), OURS: self.qk.name}

    # ---- a delivery -------------------------------------------------------------------------------------------------

    def perform_job(self, job: Any, queue: Queue, execution: Execution) -> bool:
        """Claim first, since whatever RQ prepares would strike a duplicate's twin; then run, then say it in RQ's words.
        What RQ's bookkeeping does is for its monitors alone: it may fail with the broker, and the job goes on."""
        delivery = job.delivery()
        private = delivery.bell.private
        held = self.qk.execution.claim(delivery)
        if not isinstance(held, Held):
            self._say(job, queue, execution, held, private=private)
            return False
        with _best_effort():
            self.prepare_job_execution(job)
        job.started_at = now()
        outcome = self.qk.execution.run(held)
        job.ended_at = now()
        self._say(job, queue, execution, outcome, private=private)
        return True

    def _say(self, job: Any, queue: Queue, execution: Execution, outcome: Outcome, *, private: bool) -> None:
        with _best_effort():
            match outcome:
                case Succeeded():
                    # The result as JSON has it; what RQ keeps is for its monitors.
                    job._result = None if outcome.text is None or private else json.loads(outcome.text)
                    job._status = JobStatus.FINISHED
                    self.handle_job_success(job, queue, queue.started_job_registry, execution)
                case Retried(reason=reason, error=error) | Failed(reason=reason, error=error):
                    text = "" if private else "".join(traceback.format_exception(error))
                    self._fail(job, queue, execution, f"{text}\n{reason}")
                case Ended(reason=reason):
                    self._stopped_job_id = job.id  # RQ's word for it is STOPPED
                    self._fail(job, queue, execution, f"cancelled: {reason}")
                case Released(reason=reason):
                    self._fail(job, queue, execution, f"released, and queued again: {reason}")
                case Dropped(reason=reason):
                    log.info("RQ job %s dropped: %s", job.id, reason)
                    self._forget(job, execution)
                case _:
                    self._forget(job, execution)

    def _fail(self, job: Any, queue: Queue, execution: Execution, text: str) -> None:
        job.ended_at = job.ended_at or now()
        self.handle_job_failure(job, queue, exc_string=text, execution=execution)

    def _forget(self, job: Any, execution: Execution) -> None:
        with self.connection.pipeline() as pipe:
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            if job.get_status(refresh=False) is JobStatus.QUEUED:  # not the hash of a twin that runs
                pipe.expire(job.key, NATIVE_TTL)
            pipe.execute()

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        self.idle = found is None
        self.taken += found is not None
        return found

    def subscribe(self) -> None:
        """No remote commands: their thread would make each fork unsafe, and queuekit cancels by the record."""

    def unsubscribe(self) -> None: ...

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        self.qk.watch()
        super().heartbeat(*args, **kwargs)

    def run_maintenance_tasks(self) -> None:
        with _best_effort():
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def request_stop(self, signum: int, frame: Any) -> None:
        if self.qk.stopping.is_set():
            self.request_force_stop(signum, frame)
            return
        self.qk.stopping.set()
        self.stop_at = time.monotonic() + self.qk.settings.grace
        log.info("stopping: no new jobs, and %g s for the running one", self.qk.settings.grace)
        self._stop_requested = True
        if not self.executions and not DoorbellQueue.holding:
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)


class HorseWorker(_Hooks, ForkingWorker):
    """A process for each job."""

    def perform_job(self, job: Any, queue: Queue, execution: Execution) -> bool:
        try:
            return super().perform_job(job, queue, execution)
        finally:
            self.qk.execution.hooks.flush()  # the horse ends without exit handlers

    def execute_job(self, job: Any, queue: Queue) -> None:
        limit = job.timeout
        execution = self.prepare_execution(job)
        self.fork_work_horse(job, queue)
        # RQ kills a horse RQ_GRACE seconds after its timeout; ours is meant to die at the limit's backstop.
        job.timeout = -1 if limit is None or limit < 0 else limit - RQ_GRACE - 0.5
        self.monitor_work_horse(job, queue, execution)
        self.set_state("idle")

    def maintain_heartbeats(self, job: Any, execution: Execution) -> None:
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            self._end_horse()
        with _best_effort():
            super().maintain_heartbeats(job, execution)

    def request_force_stop(self, signum: int, frame: Any) -> None:
        self.stop_at = self.stop_at or time.monotonic()
        self._end_horse()

    def _end_horse(self) -> None:
        """First so that it releases its attempt; the next time, a second later, for good."""
        assert self.stop_at is not None
        late = time.monotonic() > self.stop_at + 2
        if self.horse_pid:
            self.kill_horse(signal.SIGKILL if late else signal.SIGTERM)

    def handle_work_horse_killed(self, job: Any, retpid: int, ret_val: int, rusage: Any) -> None:
        log.warning("the horse of RQ job %s died (%s); the steward ends its attempt", job.id, ret_val)

    # ---- in the horse -----------------------------------------------------------------------------------------------

    def setup_work_horse_signals(self) -> None:
        assert self.pid is not None
        die_with_parent(self.pid, signal.SIGKILL)  # an orphan would go on, and write
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop_horse)

    def _stop_horse(self, signum: int, frame: Any) -> None:
        self.qk.stopping.set()
        self.qk.execution.interrupt_running()


class OneProcessWorker(_Hooks, SimpleWorker):
    """All jobs in the worker's own process, one at a time."""

    def execute_job(self, job: Any, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        try:
            self.perform_job(job, queue, execution)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # one that the task has set and left
            self.executions.pop(execution.id, None)
        self.set_state("idle")

    def request_stop(self, signum: int, frame: Any) -> None:
        super().request_stop(signum, frame)
        from threading import Timer

        timer = Timer(self.qk.settings.grace, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()

    def request_force_stop(self, signum: int, frame: Any) -> None:
        self.qk.execution.interrupt_running()


@contextmanager
def _best_effort() -> Iterator[None]:
    """RQ's own books, which only its monitors read."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("RQ's record of the job could not be written: %s", error)


def run(adapter: RqAdapter, worker: Worker) -> int:
    """Run RQ's worker in this process until it is told to stop."""
    pools: dict[str, type[HorseWorker | OneProcessWorker]] = {"worker": HorseWorker, "simple": OneProcessWorker}
    kind = pools.get(worker.pool or "worker")
    if kind is None:
        raise ConfigError(f"pool={worker.pool!r}: RQ has the pools {', '.join(pools)}")
    if worker.concurrency is not None and worker.concurrency > 1:
        from queuekit.adapters.rq.processes import run_many

        return run_many(lambda one: _run_one(adapter, one, kind), worker, worker.concurrency)
    return _run_one(adapter, worker, kind)


def _run_one(adapter: RqAdapter, worker: Worker, kind: type[HorseWorker | OneProcessWorker]) -> int:
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    serve(adapter, worker, kind, logging_level="WARNING")
    return 0


def serve(
    adapter: RqAdapter,
    worker: Worker,
    kind: type[HorseWorker | OneProcessWorker],
    *,
    name: str | None = None,
    max_jobs: int | None = None,
    **options: Any,
) -> int:
    """Work until told to stop, or until `max_jobs` or RQ's other `options` for work() end it. How many jobs it took."""
    names = DoorbellQueue.places = {
        queue_name(adapter.settings.namespace, queue, level): (queue, level)
        for level in reversed(BUCKETS)
        for queue in worker.queues
    }
    DoorbellQueue.worker = worker
    started = 0
    taken = 0
    while not worker.stopping.is_set():
        native = None
        try:
            native = kind(
                list(names),
                # The name of one that an outage has ended is taken until RQ forgets it.
                name=name if name is None or not started else f"{name}.{started}",
                # Without a timeout said here a worker of RQ's own command brings its 415 s: for one silent BLPOP.
                connection=adapter._connect(
                    socket_timeout=POLL + 10.0, socket_connect_timeout=5.0, health_check_interval=0
                ),
                job_class=DoorbellJob,
                queue_class=DoorbellQueue,
                serializer=JSONSerializer,
                worker_ttl=POLL + 15,  # RQ waits in the broker for 15 s less than this
                job_monitoring_interval=1,
                log_job_description=False,
            )
            native.qk = worker
            if not started:
                refuse_native_workers(native)
                native._install_signal_handlers()
                worker.start()
                log.info("RQ %s serves %s", kind.__name__, ", ".join(worker.queues))
            started += 1
            native.work(max_jobs=None if max_jobs is None else max_jobs - taken, **options)
        except redis.RedisError as error:
            log.warning("the broker is away: %s", error)
        if native is not None:
            taken += native.taken
            if native.idle or (max_jobs is not None and taken >= max_jobs):
                break
        worker.stopping.wait(1.0)  # RQ's worker leaves for a broker's outage; this process does not
    return taken


def refuse_native_workers(native: HorseWorker | OneProcessWorker) -> None:
    """A stock worker on our queues would run what it finds by its name, past every record. Raises ConfigError."""
    for queue in native.queues:
        for key in worker_registration.get_keys(queue):
            fields = {as_text(name): as_text(value) for name, value in native.connection.hgetall(key).items()}
            if not fields or OURS in fields or "death" in fields or _is_gone(fields):
                continue
            raise ConfigError(
                f"the RQ worker {key.removeprefix(native.redis_worker_namespace_prefix)} (process {fields.get('pid')} "
                f"on {fields.get('hostname')}) serves the queue {queue.name!r} and is none of queuekit's: it would run "
                "jobs past their records. Stop it, or start it with `rq worker -w queuekit.adapters.rq.Worker` "
                f"(RQ forgets one that was killed in {native.connection.ttl(key)} s)"
            )


def _is_gone(fields: dict[str, str]) -> bool:
    """Whether it ran on this machine and does not any more. RQ remembers one that was killed for some minutes."""
    if fields.get("hostname") != socket.gethostname() or not fields.get("pid", "").isdigit():
        return False
    try:
        os.kill(int(fields["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
