"""The pool `async` of Celery's worker: our jobs go past Celery's requests and its tracer, and run in this process.

On Redis messages are popped from the lists that kombu keeps, many at a time: kombu takes them one by one, with three
conversations for each. The record carries a job from there on, as it does on RQ. Where native messages are adopted,
which have no record yet, they come by the link, as in every pool, and are acknowledged.

Celery's event loop sends the events and acknowledges; threads of ours take, claim, run and record. A native task of a
user's app gets a thread, as in Celery's own pool `threads`.
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

__all__ = ["AsyncPool"]

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


class _Job:
    """A message on its way.

    Attributes:
        raw, place: as it was popped, and from which list; None where the link has brought it.
        bell, args, kwargs: what it says, once it was looked at.
    """

    __slots__ = ("args", "bell", "clock", "kwargs", "message", "place", "raw")

    def __init__(self, *, raw: bytes | None = None, place: str = "", message: Any = None) -> None:
        self.raw, self.place, self.message = raw, place, message
        self.args: Any = ()
        self.kwargs: Any = {}
        self.bell: Doorbell | None = None
        self.clock = 0.0


class _Jobs:
    def __init__(self, worker: Worker, app: Any, limit: int) -> None:
        self.worker, self.app = worker, app
        self.runner: Runner[_Job] = Runner(worker.execution, limit, self.begun, self.settle, worker.caps)
        self._arrived: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._todo: deque[tuple[_Job, Outcome | str]] = deque()
        self._bell = os.pipe()
        for end in self._bell:
            os.set_blocking(end, False)
        self._events: Any = None
        self._hostname = ""
        self._thread: threading.Thread | None = None
        self._fetching: threading.Thread | None = None

    def fetch_from(self, broker: Broker, gate: Gate) -> None:
        """Pop the messages from Redis from now on. Harmless when called twice."""
        if self._thread is None:
            source = _Source(self, broker, gate)
            self._start(fetch_all, self.worker, source, self.runner)
            self._fetching = self._thread

    def deliver(self, message: Any) -> None:
        """What the link hands over, in the thread of Celery's event loop."""
        if self._thread is None:
            self._start(self._take_all)
        job = _Job(message=message)
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

    def _act(self, job: _Job, what: str) -> None:
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

    def _tell(self, job: _Job, outcome: Outcome) -> None:
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

    def _send(self, event: str, job: _Job, **fields: Any) -> None:
        if self._told:
            with suppress(Exception):  # for monitors alone
                self._events.send(event, uuid=job.message.headers["id"], **fields)

    # ---- in threads of ours -----------------------------------------------------------------------------------------

    @property
    def _told(self) -> bool:
        """Whether somebody is told of events."""
        return self._events is not None and bool(self._events.enabled)

    def _ring(self, todo: Iterable[tuple[_Job, Outcome | str]]) -> None:
        self._todo.extend(todo)
        with suppress(BlockingIOError):  # it rings already
            os.write(self._bell[1], b"!")

    def received(self, job: _Job) -> None:
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

    def _take(self, batch: Sequence[_Job]) -> None:
        deliveries: list[tuple[_Job, Delivery]] = []
        said: list[tuple[_Job, Outcome]] = []
        for job in batch:
            got = Unrecorded("the worker stops") if self.worker.stopping.is_set() else self.delivery(job)
            if isinstance(got, Delivery):
                deliveries.append((job, got))
            else:
                said.append((job, got))
        if said:
            self.settle(said)
        self.runner.take(deliveries)

    def delivery(self, job: _Job) -> Delivery | Outcome:
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

    def begun(self, jobs: Sequence[_Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            job.clock = now
        if self._told or jobs[0].raw is None:
            self._ring((job, STARTED) for job in jobs)

    def settle(self, said: Sequence[tuple[_Job, Outcome]]) -> None:
        if self.worker.settings.celery_result:
            for job, outcome in said:
                self._keep(job, outcome)
        self._ring(said)

    def _keep(self, job: _Job, outcome: Outcome) -> None:
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


class _Source:
    """Kombu's lists on Redis: see queuekit.adapters.aio.Source."""

    def __init__(self, jobs: _Jobs, broker: Broker, gate: Gate) -> None:
        self.jobs, self.gate, self.worker = jobs, gate, jobs.worker
        assert broker.settings.broker_url is not None
        self.client = connect(broker.settings.broker_url, **one_try(EMPTY + ANSWER), health_check_interval=0)
        self._names = {queue.name: name for name in self.worker.queues for queue in broker.queues(name)}
        self._turn = list(self._names)
        self._steps = [broker.priority(level) for level in reversed(BUCKETS)]  # kombu's own: 0 is the highest

    def open(self) -> None: ...

    def look_around(self) -> None: ...

    def fetch(self, room: Room) -> Sequence[_Job]:
        self._turn.append(self._turn.pop(0))  # none is always the first
        keys = {name + (f"{Channel.sep}{step}" if step else ""): name for step in self._steps for name in self._turn}
        try:
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.llen(key)
                lengths = pipe.execute()
            found: list[_Job] = []
            left = {queue: room.of(queue) for queue in self.worker.queues}
            for (key, name), length in zip(keys.items(), lengths, strict=True):
                queue = self._names[name]
                few = min(length, room.most - len(found), left[queue])
                if few > 0:
                    popped: Any = self.client.rpop(key, few)
                    found += [_Job(raw=raw, place=key) for raw in popped or ()]
                    left[queue] -= len(popped or ())
            if not found and room.wait:
                one: Any = self.client.brpop(list(keys), EMPTY)
                found = [] if one is None else [_Job(raw=one[1], place=one[0].decode())]
        except RedisError as error:  # what was popped is found by its record
            raise BrokerAway(f"the broker does not answer: {error}") from error
        return found

    def delivery(self, message: _Job) -> Delivery | Outcome:
        assert message.raw is not None
        name = message.place.partition(Channel.sep)[0]
        message.message = read_envelope(message.raw)
        try:
            self.gate.admit(message.message, name)
        except Exception as error:  # an InvalidMessage, or a value that nobody thought of
            raise InvalidMessage(f"{error}" or type(error).__name__) from None
        self.jobs.received(message)
        return self.jobs.delivery(message)

    def put_aside(self, message: _Job, why: str) -> bool:
        assert message.raw is not None
        told = shortened(message.raw) if message.message is None else describe(message.message)
        return self.worker.quarantine(told, why, source=message.place.partition(Channel.sep)[0])

    def begun(self, messages: Sequence[_Job]) -> None: ...

    def settle(self, said: Sequence[tuple[_Job, Outcome]]) -> None:
        self.jobs.settle(said)

    def put_back(self, messages: Sequence[_Job]) -> None:
        with suppress(RedisError):
            for message in reversed(messages):
                assert message.raw is not None
                self.client.rpush(message.place, message.raw)  # a doorbell too many is dropped

    def close(self) -> None: ...
