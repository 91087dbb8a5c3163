"""The pool `async` of Celery's worker: our jobs go past Celery's requests and its tracer, and run in this process.

On Redis messages are popped from the lists that kombu keeps, many at a time: kombu takes them one by one, with three
conversations for each. The record carries a job from there on, as it does on RQ. Where native messages are adopted,
which have no record yet, they come by the link, as in every pool, and are acknowledged. On RabbitMQ all are pulled in
batches: see aio_rabbitmq.py.

Celery's event loop sends the events, and acknowledges what the link has brought; threads of ours take, claim, run and
record. A native task of a user's app gets a thread, as in Celery's own pool `threads`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from celery.app.task import Context
from celery.concurrency.thread import TaskPool
from celery.utils.saferepr import saferepr
from kombu.transport.redis import Channel
from redis import RedisError

from queuekit.adapters import BrokerAway
from queuekit.adapters.aio import EMPTY, FETCHED, MOST, fetch_all
from queuekit.adapters.celery.gate import describe
from queuekit.adapters.celery.tasks import ADOPTED, adopt, said_of
from queuekit.adapters.celery.transport import read_envelope
from queuekit.clients import connect, one_try
from queuekit.execution.aio import Runner
from queuekit.execution.outcomes import Delivery, Dropped, Ended, Stale, Unrecorded
from queuekit.message import BUCKETS, HEADER, Doorbell, InvalidMessage, as_text, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from queuekit.adapters.celery.broker import Broker
    from queuekit.adapters.celery.gate import Gate
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Outcome
    from queuekit.worker import Worker

__all__ = ["AsyncPool", "Job", "Taking"]

log = logging.getLogger("queuekit.celery")

LOOK: Final = 0.02  # seconds between two looks whether all has ended
ANSWER: Final = 5.0  # seconds for an answer of the broker
RECEIVED: Final = "task-received"
STARTED: Final = "task-started"
EVENTS: Final = {
    "SUCCESS": "task-succeeded", "RETRY": "task-retried", "FAILURE": "task-failed", "REVOKED": "task-revoked",
}  # fmt: skip


class AsyncPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    jobs: _Jobs | None = None

    def attach(self, consumer: Any, worker: Worker) -> _Jobs:
        """Called for each of Celery's consumers, by the thread of its event loop."""
        if self.jobs is None:
            self.jobs = _Jobs(worker, consumer.app, self.limit)
        self.jobs.attach(consumer)
        return self.jobs

    def on_stop(self) -> None:
        if self.jobs is not None:
            self.jobs.stop()
        super().on_stop()


class Job:
    """A message on its way.

    Attributes:
        raw, place: as it was taken, and from which list or queue; None where the link has brought it.
        settle: how its broker is told that it is over, or, with keep=True, that it is for somebody else; once.
        bell, args, kwargs: what it says, once it was looked at.
    """

    __slots__ = ("args", "bell", "clock", "kwargs", "message", "place", "raw", "settle")

    def __init__(
        self, *, raw: Any = None, place: str = "", message: Any = None, settle: Callable[..., object] | None = None
    ) -> None:
        self.raw, self.place, self.message, self.settle = raw, place, message, settle
        self.args: Any = ()
        self.kwargs: Any = {}
        self.bell: Doorbell | None = None
        self.clock = 0.0

    def say(self, *, keep: bool) -> None:
        settle, self.settle = self.settle, None
        if settle is not None:
            settle(keep=keep)


class _Jobs:
    def __init__(self, worker: Worker, app: Any, limit: int) -> None:
        self.worker, self.app = worker, app
        self.runner: Runner[Job] = Runner(worker.execution, limit, self.begun, self.settle, worker.caps)
        self._arrived: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._todo: deque[tuple[Job, Outcome | str]] = deque()
        self._bell = os.pipe()
        for end in self._bell:
            os.set_blocking(end, False)
        self._events: Any = None
        self._hostname = ""
        self._thread: threading.Thread | None = None
        self._fetching: threading.Thread | None = None
        self._source: Taking | None = None

    def fetch_from(self, broker: Broker, gate: Gate) -> None:
        """Take the messages from the broker from now on, past kombu's consumer. Harmless when called twice."""
        if self._thread is None:
            self._source = _source(self, broker, gate)
            self._start(fetch_all, self.worker, self._source, self.runner)
            self._fetching = self._thread

    def deliver(self, message: Any) -> None:
        """What the link hands over, in the thread of Celery's event loop."""
        if self._thread is None:
            self._start(self._take_all)
        job = Job(message=message)
        self.received(job)
        self._arrived.put(job)

    def _start(self, run: Callable[..., object], *args: Any) -> None:
        self._thread = threading.Thread(target=run, args=args, name="queuekit-take", daemon=True)
        self._thread.start()

    # ---- in the thread of Celery's event loop -----------------------------------------------------------------------

    def attach(self, consumer: Any) -> None:
        self._events, self._hostname = consumer.event_dispatcher, consumer.hostname
        consumer.hub.remove_reader(self._bell[0])
        consumer.hub.add_reader(self._bell[0], self._look)

    def _look(self) -> None:
        """At what the other threads have left to do."""
        with suppress(BlockingIOError):
            os.read(self._bell[0], 4096)
        while self._todo:
            job, what = self._todo.popleft()
            if isinstance(what, str):
                self._act(job, what)
                continue
            if isinstance(what, Unrecorded):
                if job.raw is None:
                    job.message.reject_log_error(log, (), requeue=True)
                continue
            self._tell(job, what)
            if job.raw is None:
                job.message.ack_log_error(log, ())

    def _act(self, job: Job, what: str) -> None:
        if what == RECEIVED:
            headers = job.message.headers
            self._send(
                RECEIVED, job, name=headers["shadow"] or headers["task"], args=headers.get("argsrepr"),
                kwargs=headers.get("kwargsrepr"), root_id=headers.get("root_id"), parent_id=headers.get("parent_id"),
                retries=0, eta=None, expires=None,
            )  # fmt: skip
            return
        accepted = getattr(job.message, "accepted", None)  # set by a link
        if accepted is not None:
            accepted()
        self._send(STARTED, job)

    def _tell(self, job: Job, outcome: Outcome) -> None:
        said = None if job.bell is None else said_of(outcome, job.bell)
        if said is None:
            if isinstance(outcome, Dropped) and job.bell is not None:
                log.info("the message of job %s is dropped: %s", job.bell.id, outcome.reason)
            return
        fields: dict[str, Any] = {}
        if said.state == "SUCCESS":
            fields = {"result": saferepr(said.result), "runtime": time.monotonic() - job.clock}
        elif isinstance(outcome, Ended):
            fields = {"terminated": True, "signum": None, "expired": False}
        else:
            error = None if job.bell is None or job.bell.private else getattr(outcome, "error", None)
            traced = "" if error is None else "".join(traceback.format_exception(error))
            fields = {"exception": saferepr(said.result), "traceback": traced}
        self._send(EVENTS[said.state], job, **fields)

    def _send(self, event: str, job: Job, **fields: Any) -> None:
        if self._told:
            with suppress(Exception):  # for monitors alone
                self._events.send(event, uuid=job.message.headers["id"], **fields)

    # ---- in threads of ours -----------------------------------------------------------------------------------------

    @property
    def _told(self) -> bool:
        """Whether somebody is told of events."""
        return self._events is not None and bool(self._events.enabled)

    def _ring(self, todo: Iterable[tuple[Job, Outcome | str]]) -> None:
        self._todo.extend(todo)
        with suppress(BlockingIOError):  # it rings already
            os.write(self._bell[1], b"!")

    def received(self, job: Job) -> None:
        if self._told:
            self._ring([(job, RECEIVED)])

    def _take_all(self) -> None:
        while True:
            batch = [self._arrived.get()]
            while len(batch) < MOST and not self._arrived.empty():
                batch.append(self._arrived.get())
            try:
                self._take(batch)
            except Exception:
                log.exception("%d messages could not be taken", len(batch))
                self.settle([(job, Dropped("it could not be taken")) for job in batch])

    def _take(self, batch: Sequence[Job]) -> None:
        deliveries: list[tuple[Job, Delivery]] = []
        said: list[tuple[Job, Outcome]] = []
        for job in batch:
            got = Unrecorded("the worker stops") if self.worker.stopping.is_set() else self.delivery(job)
            if isinstance(got, Delivery):
                deliveries.append((job, got))
            else:
                said.append((job, got))
        if said:
            self.settle(said)
        self.runner.take(deliveries)

    def delivery(self, job: Job) -> Delivery | Outcome:
        """Of a message that has passed the gate."""
        message = job.message
        job.args, job.kwargs, _ = message.decode()
        header, name, id = message.headers[HEADER], message.headers["task"], message.headers["id"]
        if ADOPTED not in header:
            job.bell = Doorbell.from_header(header)
            source = job.place or (message.delivery_info or {}).get("routing_key") or ""
            return Delivery(job.bell, list(job.args), job.kwargs, str(source))
        found, asked = header[ADOPTED], message.headers["shadow"] or name
        try:
            made = adopt(self.app.tasks[name], id=id, name=asked, found=found, args=job.args, kwargs=job.kwargs)
        except InvalidMessage as error:
            told = as_text({"task": asked, "id": id, "args": job.args, "kwargs": job.kwargs})
            if not self.worker.quarantine(told, str(error), source=found["queue"]):
                return Unrecorded(str(error))
            return Dropped(f"put aside: {error}")
        if isinstance(made, Delivery):
            job.bell = made.bell
        return made

    def begun(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            job.clock = now
        if self._source is not None:
            self._source.begun(jobs)
        if self._told or jobs[0].raw is None:
            self._ring((job, STARTED) for job in jobs)

    def settle(self, said: Sequence[tuple[Job, Outcome]]) -> None:
        if self.worker.settings.celery_result:
            for job, outcome in said:
                self._keep(job, outcome)
        for job, outcome in said:
            job.say(keep=isinstance(outcome, Unrecorded))
        self._ring(said)

    def _keep(self, job: Job, outcome: Outcome) -> None:
        if job.bell is None:
            return
        task, headers = self.app.tasks[job.message.headers["task"]], job.message.headers
        if isinstance(outcome, Stale):
            task.keep_what_the_record_says(job.bell.id)
            return
        said = said_of(outcome, job.bell)
        if said is not None:
            own = {"args": job.args, "kwargs": job.kwargs, "hostname": self._hostname, "retries": 0}
            task.keep(job.bell.id, said.state, said.result, Context({**headers, **own}))

    # ---- stop -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """In the thread of the event loop, which does not run any more. The grace, and what comes after it, is seen to
        by whoever has set `stopping`."""
        self.worker.stopping.set()
        if self._fetching is not None:
            self._fetching.join(FETCHED)  # what it has not begun goes back
        while self.runner.busy:
            time.sleep(LOOK)
        self.runner.end()
        self._look()
        if self._source is not None:
            self._source.close()


def _source(jobs: _Jobs, broker: Broker, gate: Gate) -> Taking:
    if broker.is_redis:
        return _Source(jobs, broker, gate)
    from queuekit.adapters.celery.aio_rabbitmq import RabbitSource

    return RabbitSource(jobs, broker, gate)


class Taking:
    """What sources share, whatever carries the messages: see queuekit.adapters.aio.Source."""

    def __init__(self, jobs: _Jobs, gate: Gate) -> None:
        self.jobs, self.gate, self.worker = jobs, gate, jobs.worker

    def open(self) -> None: ...

    def look_around(self) -> None: ...

    def fetch(self, room: Room) -> Sequence[Job]:
        raise NotImplementedError

    def read(self, message: Job) -> Any:
        """What was taken, as kombu gives it. Raises InvalidMessage."""
        raise NotImplementedError

    def body(self, message: Job) -> str | bytes:
        """Of one that cannot be read."""
        found: str | bytes = message.raw
        return found

    def name(self, message: Job) -> str:
        """The queue in the broker."""
        return message.place

    def delivery(self, message: Job) -> Delivery | Outcome:
        message.message = self.read(message)
        try:
            self.gate.admit(message.message, self.name(message))
        except Exception as error:  # an InvalidMessage, or a value that nobody thought of
            raise InvalidMessage(f"{error}" or type(error).__name__) from None
        self.jobs.received(message)
        return self.jobs.delivery(message)

    def put_aside(self, message: Job, why: str) -> bool:
        told = shortened(self.body(message)) if message.message is None else describe(message.message)
        return self.worker.quarantine(told, why, source=self.name(message))

    def begun(self, messages: Sequence[Job]) -> None: ...

    def settle(self, said: Sequence[tuple[Job, Outcome]]) -> None:
        self.jobs.settle(said)

    def put_back(self, messages: Sequence[Job]) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


class _Source(Taking):
    """Kombu's lists on Redis."""

    def __init__(self, jobs: _Jobs, broker: Broker, gate: Gate) -> None:
        super().__init__(jobs, gate)
        assert broker.settings.broker_url is not None
        self.client = connect(broker.settings.broker_url, **one_try(EMPTY + ANSWER), health_check_interval=0)
        self._names = {queue.name: name for name in self.worker.queues for queue in broker.queues(name)}
        self._turn = list(self._names)
        self._steps = [broker.priority(level) for level in reversed(BUCKETS)]  # kombu's own: 0 is the highest

    def fetch(self, room: Room) -> Sequence[Job]:
        self._turn.append(self._turn.pop(0))  # none is always the first
        keys = {name + (f"{Channel.sep}{step}" if step else ""): name for step in self._steps for name in self._turn}
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.llen(key)
                lengths = pipe.execute()
            found: list[Job] = []
            left = {queue: room.of(queue) for queue in self.worker.queues}
            for (key, name), length in zip(keys.items(), lengths, strict=True):
                queue = self._names[name]
                few = min(length, room.most - len(found), left[queue])
                if few > 0:
                    popped: Any = self.client.rpop(key, few)
                    found += [Job(raw=raw, place=key) for raw in popped or ()]
                    left[queue] -= len(popped or ())
            if not found and room.wait:
                one: Any = self.client.brpop(list(keys), EMPTY)
                found = [] if one is None else [Job(raw=one[1], place=one[0].decode())]
        except RedisError as error:  # what was popped is found by its record
            raise BrokerAway(f"the broker does not answer: {error}") from error
        return found

    def read(self, message: Job) -> Any:
        return read_envelope(message.raw)

    def name(self, message: Job) -> str:
        return message.place.partition(Channel.sep)[0]

    def put_back(self, messages: Sequence[Job]) -> None:
        with suppress(RedisError):
            for message in reversed(messages):
                self.client.rpush(message.place, message.raw)  # a doorbell too many is dropped
