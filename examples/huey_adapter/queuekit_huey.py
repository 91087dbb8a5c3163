"""huey as a backend of queuekit: its Redis lists carry the doorbells, and its consumer runs them in threads.

What huey would decide about a job is turned off: its scheduler, retries, results, revocations and pickle. The record
decides.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from json import dumps, loads
from typing import TYPE_CHECKING, Any, ClassVar

import redis
from huey import Huey, RedisHuey, signals
from huey.api import Task
from huey.consumer import Consumer, Scheduler
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from queuekit import ConfigError
from queuekit.adapters import BrokerAway, Capabilities, Pool
from queuekit.app import current_app
from queuekit.execution import Delivery, Ended, Failed, Held, Released, Retried, Stale, Succeeded, Unrecorded
from queuekit.message import BUCKETS, HEADER, Doorbell, InvalidMessage, shortened, split_route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit import Settings
    from queuekit.message import Publication
    from queuekit.worker import Worker

    Found = tuple[bytes, bytes]  # the key of the list, and the message

logger = logging.getLogger("queuekit_huey")


def install(huey: Huey) -> None:
    """Let those who listen to this Huey's signals hear of queuekit's jobs. To be called where tasks are declared."""
    current_app().hand_in(HueyAdapter.name, huey)


class HueyAdapter:
    """A plugin of queuekit: `QUEUEKIT_BACKEND=huey`."""

    name: ClassVar[str] = "huey"
    capabilities: ClassVar[Capabilities] = Capabilities(
        pools=(Pool("thread", processes=False, interrupts_sync=False, shared_loop=True, concurrent=True),),
        default_pool="thread",
        refused={
            "process": "its children outlive a killed parent, and would go on with jobs that others got",
            "greenlet": "gevent replaces threads and sockets, on which queuekit's loop and leases stand",
        },
    )

    def __init__(self, settings: Settings, *, native: Any = None) -> None:
        scheme = (settings.broker_url or "").partition("://")[0]
        if scheme not in {"redis", "rediss", "unix"}:
            raise ConfigError(f"broker_url: huey is run on redis://, rediss:// or unix:// here, not on {scheme}://")
        if not isinstance(native, Huey | None):
            raise ConfigError(f"native: a Huey, not {native!r}")
        self.settings, self.user = settings, native
        # A share of enqueue_timeout to connect, another to be answered.
        self._storage = Lists(settings, settings.enqueue_timeout * 0.4)

    def publish(self, publications: Sequence[Publication]) -> None:
        try:
            with self._storage.conn.pipeline(transaction=True) as pipe:
                for one in publications:
                    args, kwargs = one.shown
                    message = Message(id=one.native_id, name=one.message.task, args=args, kwargs=kwargs)._asdict()
                    body = {name: value for name, value in message.items() if value is not None}
                    _, queue, level = split_route(one.message.route)
                    pipe.lpush(self._storage.key(queue, level), dumps({**body, HEADER: dict(one.header())}))
                pipe.execute()
        except redis.RedisError as error:
            raise BrokerAway(f"Redis did not take the jobs: {error}") from error

    def depth(self, route: str) -> int | None:
        _, queue, level = split_route(route)
        try:
            return int(self._storage.conn.llen(self._storage.key(queue, level)))
        except redis.RedisError as error:
            raise BrokerAway(f"Redis does not answer: {error}") from error

    def native(self, task: Any) -> Any:
        """The function: a task of huey's would send messages without a record, and cannot be async."""
        return task.fn

    def run_worker(self, worker: Worker) -> int:
        carrier = Carrier(worker, Lists(self.settings, 10.0, worker.queues), self.user)
        Workers(carrier, worker, self.settings.grace).run()
        return 0

    def close(self) -> None:
        self._storage.pool.disconnect()


class Lists(RedisStorage):
    """A list of huey's for each queue and level. It is first in, first out, which its priority queues are not: these
    are sorted by the producers' clocks."""

    def __init__(self, settings: Settings, timeout: float, queues: Sequence[str] = ()) -> None:
        # It tries once: redis-py would try ten times, and enqueue() has promised an end.
        once = Retry(NoBackoff(), 0)
        pool = redis.ConnectionPool.from_url(
            settings.broker_url, socket_connect_timeout=timeout, socket_timeout=timeout, retry=once
        )
        super().__init__(f"queuekit.{settings.namespace}", connection_pool=pool, clean_name=False)
        self.served = [self.key(queue, level) for queue in queues for level in sorted(BUCKETS, reverse=True)]

    def key(self, queue: str, level: int) -> str:
        return f"{self.queue_key}.{queue}.{level}"

    def dequeue(self) -> Found | None:
        return self.conn.brpop(self.served, timeout=self.read_timeout)  # the keys in their order

    def put_back(self, found: Found) -> None:
        try:
            self.conn.rpush(*found)
        except redis.RedisError:
            logger.warning("a message could not be put back: its job is published again")


class Json(Serializer):
    """In the place of pickle, whatever huey may come to read."""

    def _serialize(self, data: Any) -> bytes:
        return dumps(data).encode()

    def _deserialize(self, data: bytes) -> Any:
        return loads(data)


class Ring(Task):
    """A message as huey's worker holds it. Nothing in it is believed yet. `most`: the bytes that one of ours has."""

    def __init__(self, found: Found, most: int) -> None:
        super().__init__()
        self.found, self.most = found, most
        self.source = found[0].decode()

    def read(self) -> Delivery:
        """Raises ValueError (InvalidMessage is one) or RecursionError."""
        if len(self.found[1]) > self.most:
            raise InvalidMessage(f"it takes {len(self.found[1])} bytes, and none of ours more than {self.most}")
        body = loads(self.found[1])
        if not isinstance(body, dict):
            raise InvalidMessage("a message is a JSON object")
        bell = Doorbell.from_header(body.get(HEADER))
        bell.check_native(body.get("id"))
        args, kwargs = body.get("args"), body.get("kwargs")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidMessage("args must be a list and kwargs an object")
        self.id, self.name, self.args, self.kwargs = bell.id, bell.task, args, kwargs  # for those who hear of it
        return Delivery(bell, args, kwargs, self.source)


class Carrier(RedisHuey):
    """huey without its opinions: it takes a message, lets queuekit run it, and signals what became of it."""

    def __init__(self, worker: Worker, storage: Lists, user: Huey | None) -> None:
        self._made = storage
        super().__init__(storage.name, results=False, serializer=Json())
        self.worker = worker
        if user is not None:
            # Who listens to the user's own Huey hears of these jobs too.
            self._signal = user._signal  # noqa: SLF001 - huey has no other way to hand on its receivers

    def get_storage(self, **kwargs: Any) -> Lists:
        return self._made

    def dequeue(self) -> Ring | None:
        found = self.storage.dequeue()
        return None if found is None else Ring(found, self.worker.settings.doorbell_limit)

    def execute(self, task: Ring, timestamp: Any = None) -> None:
        """huey's own asks for revocations (a pickle in Redis) and expiry, keeps results and retries."""
        if self.worker.stopping.is_set():
            self.storage.put_back(task.found)
            return
        try:
            delivery = task.read()
        except (ValueError, RecursionError) as error:
            if not self.worker.quarantine(shortened(task.found[1]), str(error), source=task.source):
                self.storage.put_back(task.found)
            return
        outcome = self.worker.execution.claim(delivery)
        if isinstance(outcome, Held):
            self._emit(signals.SIGNAL_EXECUTING, task)
            outcome = self.worker.execution.run(outcome)
            self.say(task, outcome, private=delivery.bell.private)
        if isinstance(outcome, Unrecorded):
            self.storage.put_back(task.found)

    def say(self, task: Ring, outcome: Any, *, private: bool) -> None:
        """In huey's words. What was not run is not mentioned: a duplicate is no success."""
        match outcome:
            case Succeeded():
                self._emit(signals.SIGNAL_COMPLETE, task)
            case Retried():
                self._emit(signals.SIGNAL_RETRYING, task)
            case Failed(_, error):
                self._emit(signals.SIGNAL_ERROR, task, Exception(type(error).__name__) if private else error)
            case Ended():
                self._emit(signals.SIGNAL_CANCELED, task)
            case Released() | Stale() | Unrecorded():
                self._emit(signals.SIGNAL_INTERRUPTED, task)


class NoSchedule(Scheduler):
    """Waits are held by the record."""

    def loop(self, now: Any = None) -> None:
        self.stop_flag.wait()


class Workers(Consumer):
    """huey's consumer, which ends as queuekit's contract says."""

    scheduler_class = NoSchedule

    def __init__(self, carrier: Carrier, worker: Worker, grace: float) -> None:
        # max_delay: the longest wait after an error of the broker's, in seconds.
        super().__init__(carrier, workers=worker.concurrency or 1, periodic=False, max_delay=1.0)
        self.worker, self.grace, self.asked = worker, grace, 0

    def start(self) -> None:
        self._set_signal_handlers()  # huey sets them after its workers have begun
        self.worker.start()
        self.worker.watch_in_thread()
        super().start()

    def _set_signal_handlers(self) -> None:
        # Not SIGHUP: huey would put another program in the place of a process that a steward watches.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle_signal)

    def _handle_signal(self, signum: int, frame: Any) -> None:
        self._signum = signum
        self.asked += 1

    def stop(self, graceful: bool = False) -> None:
        self.worker.stopping.set()
        self.stop_flag.set()
        if not self.ended_within(self.grace, signals=1):
            self.worker.execution.interrupt_running()
            self.ended_within(1.0)
        if self.alive():
            # Code in a blocking call: it ends with the process.
            self.worker.execution.release_running("the worker stopped")
            os._exit(self.worker.exit_code)

    def ended_within(self, seconds: float, signals: int | None = None) -> bool:
        """Whether all threads have, but for those of a job that nothing ends. It does not go on waiting after more than
        so many signals."""
        until = time.monotonic() + seconds
        while alive := self.alive() > len(self.worker.execution.stuck):
            if time.monotonic() >= until or (signals is not None and self.asked > signals):
                break
            time.sleep(0.02)
        return not alive

    def alive(self) -> int:
        return sum(thread.is_alive() for _, thread in self.worker_threads)
