"""RQ's own workers with a claim before the job, an outcome after it, and none of RQ's retries.

Pinned by tests/contracts/test_rq.py: the hooks that are overridden, and what RQ does around them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis
from rq import Queue, SimpleWorker, worker_registration
from rq import Worker as ForkingWorker
from rq.exceptions import DequeueTimeout, NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text, now
from rq.worker import BaseWorker

from queuekit.adapters import ASYNC
from queuekit.adapters.rq import NATIVE_TTL, queue_name
from queuekit.adapters.rq.job import DoorbellJob
from queuekit.adapters.rq.spare import Spare
from queuekit.errors import ConfigError
from queuekit.execution import Dropped, Ended, Failed, Held, Released, Retried, Succeeded, Unrecorded
from queuekit.message import BUCKETS, InvalidMessage, shortened
from queuekit.processes import SAME, die_with_parent
from queuekit.store.redis import read_scripts
from queuekit.worker import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.adapters.rq import RqAdapter
    from queuekit.execution import Delivery, Outcome
    from queuekit.worker import Worker

__all__ = [
    "DoorbellQueue",
    "Hooks",
    "HorseWorker",
    "OneProcessWorker",
    "best_effort",
    "refuse_native_workers",
    "run",
    "serve",
]

log = logging.getLogger("queuekit.rq")

POLL: Final = 2  # seconds that a worker waits in the broker before it looks around
BRIEFLY: Final = 0.005  # seconds without a message after which a worker has nothing to do
FRESH: Final = 60.0  # seconds that a process waits for a job: what is between forgets connections that say nothing
AGAIN: Final = 10.0  # seconds after a fork that failed
OURS: Final = "queuekit"  # the field of RQ's hash of a worker that marks ours
HANDING_BACK: Final = 1.5  # seconds that user code has to end then
HAND_BACK: Final = signal.SIGQUIT  # tells a process that runs user code that the grace is over
LEAVING: Final = 4.5  # seconds after the grace at which the process ends in any case
OFTEN: Final = 1.0  # seconds
RQ_GRACE: Final = 60  # RQ's worker kills a horse so many seconds after job.timeout


class DoorbellQueue(Queue):
    """A queue that hands out what can be read, and reports the rest.

    Attributes:
        worker, native, places: set by serve(), since RQ makes queues by class. RQ's worker; the queue and level of each
            of RQ's names.
        holding: a message is out of the broker, and a stop must wait until it is handed out or back.
    """

    worker: Worker
    native: ClassVar[Hooks]
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
                may_rest = timeout is not None and cls.native.may_rest
                cls.holding = adopts
                popped: Any = connection.blpop(list(found), BRIEFLY if may_rest else timeout or 1)
                cls.holding = popped is not None
                if popped is None:
                    if may_rest:
                        cls.native.rest()
                        continue
                    if timeout is None:
                        return None
                    if not cls.worker.stopping.is_set():
                        raise DequeueTimeout(timeout, list(found))
                    break
                key, raw = popped
                job = None
                if not cls.worker.stopping.is_set():
                    with connection.pipeline(transaction=False) as pipe:
                        pipe.hgetall(b"rq:job:" + raw)
                        (row,) = pipe.execute(raise_on_error=False)
                    job = cls.opened(raw, row, found[key], DoorbellJob.blank(connection))
                    if job is not None:
                        job.came = row
                if cls.worker.stopping.is_set():
                    connection.lpush(key, raw)  # a doorbell too many is dropped
                    break
                if job is not None:
                    return job, found[key]
        finally:
            cls.holding = False
        raise StopRequested

    @classmethod
    def opened(cls, raw: bytes, row: Any, queue: Queue, blank: DoorbellJob) -> DoorbellJob | None:
        """The job of that name, of whose hash the broker says `row`: its fields, or an error. None: it is none that can
        run. Raises redis.RedisError."""
        connection = blank.connection
        said = raw.decode("utf-8", "backslashreplace")
        try:
            job = blank.named(raw.decode())
            if isinstance(row, Exception):
                raise row
            if not row:
                raise NoSuchJobError(f"No such job: {said}")
            job.restore(row)
            if job.is_native and not cls._adopt(job, queue):
                return None
            if job.adopted is None:
                job.take_over(job.delivery(queue.name))
        except redis.RedisError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            cls.worker.quarantine(shortened(said), f"an RQ job that cannot be read: {error}", source=queue.name)
            return None
        except Exception as error:
            if isinstance(error, (InvalidMessage, UnicodeDecodeError)) or connection.exists(f"rq:job:{said}"):
                fields = connection.hgetall(f"rq:job:{said}") if said.isprintable() else {}
                told, why = shortened(f"{said} {fields!r}"), f"an RQ job that cannot be read: {error}"
                cls.worker.quarantine(told, why, source=queue.name)
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


class Hooks(BaseWorker):
    """What our two workers share."""

    qk: Worker
    max_connection_wait_time = 5.0
    stop_at: float | None = None
    told = 0.0  # when the first signal came, by time.monotonic()
    taken = 0
    _beaten = _lasts = _suspended = 0.0  # when it last sent a heartbeat, for how long, and when it asked
    idle = False  # the queues are empty, and it was asked to end then

    @property
    def may_rest(self) -> bool:
        """Whether it wants to be told, by rest(), that it has nothing to do."""
        return False

    def rest(self) -> None: ...

    def let_go(self) -> None:
        """It works no more."""

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
        with best_effort():
            self.prepare_job_execution(job)
        job.started_at = now()
        outcome = self.qk.execution.run(held)
        job.ended_at = now()
        self._say(job, queue, execution, outcome, private=private)
        return True

    def _say(self, job: Any, queue: Queue, execution: Execution, outcome: Outcome, *, private: bool) -> None:
        with best_effort():
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

    # RQ does the next three several times a job, in round trips of their own: half of what a short job takes. They
    # are for its monitors, and `rq suspend`: once a second is often enough.

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        self.qk.watch()
        lasts, moment = timeout or self.worker_ttl + 60, time.monotonic()
        if pipeline is None and moment - self._beaten < OFTEN and lasts <= self._lasts:
            return
        self._beaten, self._lasts = moment, lasts
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        with self.connection.pipeline(transaction=False) as pipe:
            super().heartbeat(timeout, pipe)
            pipe.execute()

    def set_state(self, state: str, pipeline: Any = None) -> None:
        if pipeline is not None or state != self._state:
            super().set_state(state, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        if time.monotonic() - self._suspended >= OFTEN:
            super().check_for_suspension(burst)
            self._suspended = time.monotonic()

    def run_maintenance_tasks(self) -> None:
        with best_effort():
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def request_stop(self, signum: int, frame: Any) -> None:
        if self.qk.stopping.is_set():
            if time.monotonic() - self.told > SAME:
                self.request_force_stop(signum, frame)
            return
        self.told = time.monotonic()
        self.qk.stopping.set()
        self.stop_at = time.monotonic() + self.qk.settings.grace
        log.info("stopping: no new jobs, and %g s for the running one", self.qk.settings.grace)
        self._stop_requested = True
        threading.Thread(target=self._leave, name="queuekit-stop", daemon=True).start()
        if not self.executions and not DoorbellQueue.holding:
            raise StopRequested

    def _leave(self) -> None:
        """The last resort, for code that nothing stops, or a broker that does not answer."""
        time.sleep(self.qk.settings.grace + LEAVING)
        self.leave_running()
        leave(self.qk.exit_code)

    def leave_running(self) -> None:
        """The process ends, and what it runs with it."""
        raise NotImplementedError

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)


class HorseWorker(Hooks, ForkingWorker):
    """A process for each job. One is forked while there is nothing to do, and the next job need not wait for that."""

    _spare: Spare | None = None
    _next_spare = 0.0  # when it is to have another one, by time.monotonic()
    _booked_as: Callable[[], str] | None = None  # in a horse: what RQ calls what it runs

    @property
    def may_rest(self) -> bool:
        return time.monotonic() >= self._next_spare

    def rest(self) -> None:
        self.let_go()
        self._next_spare = time.monotonic() + FRESH
        try:
            self._spare = Spare.fork(self._get_ready, self._run_handed)
        except OSError as error:  # a job has one forked, or says so
            self._next_spare = time.monotonic() + AGAIN
            log.warning("no process could be started ahead of the next job: %s", error)

    def let_go(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def perform_job(self, job: Any, queue: Queue, execution: Execution) -> bool:
        try:
            return super().perform_job(job, queue, execution)
        finally:
            self.qk.execution.hooks.flush()  # the horse ends without exit handlers

    def execute_job(self, job: Any, queue: Queue) -> None:
        limit = job.timeout
        DoorbellQueue.holding = True  # no stop cuts in before RQ has it among what runs
        try:
            spare = self._hand_over(job, queue)
            if spare is None:
                execution = self.prepare_execution(job)
                self.fork_work_horse(job, queue)
            else:
                execution = self._book(job, spare)
        finally:
            DoorbellQueue.holding = False
        # RQ kills a horse RQ_GRACE seconds after its timeout; ours is meant to die at the limit's backstop.
        job.timeout = -1 if limit is None or limit < 0 else limit - RQ_GRACE - 0.5
        self.monitor_work_horse(job, queue, execution)
        self.set_state("idle")

    def _hand_over(self, job: Any, queue: Queue) -> Spare | None:
        """The process that runs it from here on, where one waited for it."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        self._next_spare = 0.0
        if not spare.tell((job.id, job.came, job.redis_server_version, job.delivery(), queue.name)):
            spare.end()
            return None
        self._horse_pid = spare.pid
        return spare

    def _book(self, job: Any, spare: Spare) -> Execution:
        """RQ's notes of what runs, while it claims: it takes them away at its end, and waits for them there."""
        with best_effort():
            self.prepare_execution(job)
        if not self.executions:
            self.executions[""] = Execution("", job.id, self.connection, self.name)
        (execution,) = self.executions.values()
        spare.tell(execution.id)
        spare.let_go()
        return execution

    def maintain_heartbeats(self, job: Any, execution: Execution) -> None:
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            self._end_horse()
        with best_effort():
            super().maintain_heartbeats(job, execution)

    def request_force_stop(self, signum: int, frame: Any) -> None:
        self.stop_at = self.stop_at or time.monotonic()
        self._end_horse()

    def _end_horse(self) -> None:
        """First so that it releases its attempt; the next times, a second later each, for good in the end."""
        assert self.stop_at is not None
        late = time.monotonic() > self.stop_at + 2 * HANDING_BACK
        if self.horse_pid:
            self.kill_horse(signal.SIGKILL if late else HAND_BACK)

    def leave_running(self) -> None:
        if self.horse_pid:
            self.kill_horse(signal.SIGKILL)

    def handle_work_horse_killed(self, job: Any, retpid: int, ret_val: int, rusage: Any) -> None:
        log.warning("the horse of RQ job %s died (%s); the steward ends its attempt", job.id, ret_val)

    # ---- in the horse -----------------------------------------------------------------------------------------------

    def _get_ready(self) -> None:
        os.setpgrp()
        self.setup_work_horse_signals()
        with suppress(Exception):  # the job is told, if it is away then too
            self.connection.ping()
            self.qk.store.now()

    def _run_handed(self, handed: tuple[str, Any, Any, Delivery, str], next_told: Callable[[], str]) -> None:
        """What RQ's own would have of its parent, were it forked for this job."""
        id, row, version, delivery, name = handed
        os.environ["RQ_WORKER_ID"], os.environ["RQ_JOB_ID"] = self.name, id
        job = DoorbellJob(id, connection=self.connection, serializer=JSONSerializer)
        job.restore(row)
        job.take_over(delivery)
        job.redis_server_version = version
        self._booked_as = next_told
        self.executions = {"": Execution("", id, self.connection, self.name)}
        self.main_work_horse(job, next(queue for queue in self.queues if queue.name == name))

    def _say(self, job: Any, queue: Queue, execution: Execution, outcome: Outcome, *, private: bool) -> None:
        if self._booked_as is not None:
            execution.id = self._booked_as()
        super()._say(job, queue, execution, outcome, private=private)

    def setup_work_horse_signals(self) -> None:
        assert self.pid is not None
        die_with_parent(self.pid, signal.SIGKILL)  # an orphan would go on, and write
        # A service manager signals all processes: it is the parent that says when. Handlers and not SIG_IGN, which
        # programs started by a task would inherit.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(HAND_BACK, self._stop_horse)

    def _stop_horse(self, signum: int, frame: Any) -> None:
        if not self.qk.stopping.is_set():
            threading.Thread(target=self._hand_back_the_rest, name="queuekit-stop", daemon=True).start()
        self.qk.stopping.set()
        self.qk.execution.interrupt_running()

    def _hand_back_the_rest(self) -> None:
        time.sleep(HANDING_BACK)
        if self.qk.execution.release_running("the worker stopped, and the task went on"):
            os._exit(0)


class OneProcessWorker(Hooks, SimpleWorker):
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
        timer = threading.Timer(self.qk.settings.grace, os.kill, (os.getpid(), HAND_BACK))
        timer.daemon = True
        timer.start()

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()
        signal.signal(HAND_BACK, self.request_force_stop)

    def request_force_stop(self, signum: int, frame: Any) -> None:
        self.qk.execution.interrupt_running()

    def leave_running(self) -> None:
        self.qk.execution.release_running("the worker stopped, and the task went on")


@contextmanager
def best_effort() -> Iterator[None]:
    """RQ's own books, which only its monitors read."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("RQ's record of the job could not be written: %s", error)


def run(adapter: RqAdapter, worker: Worker) -> int:
    """Run RQ's worker in this process until it is told to stop."""
    if worker.pool == ASYNC:
        from queuekit.adapters.rq.aio import run_async

        return run_async(adapter, worker)
    pools: dict[str, type[HorseWorker | OneProcessWorker]] = {"worker": HorseWorker, "simple": OneProcessWorker}
    kind = pools.get(worker.pool or "worker")
    if kind is None:
        raise ConfigError(f"pool={worker.pool!r}: RQ has the pools {', '.join(pools)}, {ASYNC}")
    if worker.concurrency is not None and worker.concurrency > 1:
        worker.at_a_time = worker.concurrency
        worker.check_caps()
        from queuekit.adapters.rq.processes import run_many

        return run_many(lambda one: _run_one(adapter, one, kind), worker, worker.concurrency)
    return _run_one(adapter, worker, kind)


def _run_one(adapter: RqAdapter, worker: Worker, kind: type[HorseWorker | OneProcessWorker]) -> int:
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    serve(adapter, worker, kind, logging_level="WARNING")
    return worker.exit_code


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
    DoorbellJob.most = worker.settings.doorbell_limit
    worker.at_a_time = 1
    started = 0
    taken = 0
    while not worker.stopping.is_set():
        native = None
        try:
            native = kind(
                list(names),
                # The name of one that an outage has ended is taken until RQ forgets it.
                name=name if name is None or not started else f"{name}.{started}",
                # Without a timeout said here a worker of RQ's own command brings its 415 s: for one silent BLPOP. A
                # horse connects anew: it is not to look up first what it could tell the server of itself.
                connection=adapter._connect(
                    socket_timeout=POLL + 10.0,
                    socket_connect_timeout=5.0,
                    health_check_interval=0,
                    protocol=2,
                    driver_info=None,
                ),
                job_class=DoorbellJob,
                queue_class=DoorbellQueue,
                serializer=JSONSerializer,
                worker_ttl=POLL + 15,  # RQ waits in the broker for 15 s less than this
                job_monitoring_interval=1,
                log_job_description=False,
            )
            native.qk = worker
            DoorbellQueue.native = native
            if not started:
                refuse_native_workers(native)
                native._install_signal_handlers()
                worker.start()
                read_scripts()
                worker.execution.prepare(worker.tasks)
                log.info("RQ %s serves %s", kind.__name__, ", ".join(worker.queues))
            started += 1
            native.work(max_jobs=None if max_jobs is None else max_jobs - taken, **options)
        except redis.RedisError as error:
            log.warning("the broker is away: %s", error)
        finally:
            if native is not None:
                native.let_go()
        if native is not None:
            taken += native.taken
            if native.idle or (max_jobs is not None and taken >= max_jobs):
                break
        worker.stopping.wait(1.0)  # RQ's worker leaves for a broker's outage; this process does not
    return taken


def refuse_native_workers(native: BaseWorker) -> None:
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
