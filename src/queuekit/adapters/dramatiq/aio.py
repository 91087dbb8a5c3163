"""Messages are taken from Dramatiq's queues without its threads: in the pool `async`, and on Redis in `threads`, where
no middleware of the user's counts on them, since several at a time cost far less than one by one.

Middleware of the user's sees each message, before it is claimed and once its outcome is there, though in threads that
run nothing of the job.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from dramatiq.middleware import SkipMessage

from queuekit.adapters import BrokerAway
from queuekit.adapters.aio import EMPTY, run
from queuekit.adapters.dramatiq.broker import Broker, base_queue, level_queue
from queuekit.adapters.dramatiq.redis import RedisBroker
from queuekit.adapters.dramatiq.worker import POLL, SOCKET_TIMEOUT, Deliver
from queuekit.execution.outcomes import Dropped, Unrecorded
from queuekit.message import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.adapters.dramatiq.broker import Fetched
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Delivery, Outcome
    from queuekit.worker import Worker

__all__ = ["Taking", "run_async"]

log = logging.getLogger("queuekit.dramatiq")


B = TypeVar("B", bound=Broker)


class Taking(Generic[B]):
    """What sources share, whatever carries the messages: see queuekit.adapters.aio.Source."""

    def __init__(self, worker: Worker, broker: B) -> None:
        self.worker, self.broker = worker, broker
        self._deliver = Deliver(worker)
        self._bases = {name: base_queue(worker.settings, name) for name in worker.queues}

    def open(self) -> None:
        for name in self._bases.values():
            self.broker.declare_queue(name)
        self.broker.emit_after("process_boot")

    def delivery(self, message: Fetched) -> Delivery | Outcome:
        try:
            self.broker.emit_before("process_message", message)
        except SkipMessage as error:
            return Dropped(str(error) or "the user's middleware skips it")
        found = self._deliver.delivery(message)
        if not isinstance(found, Unrecorded):
            message.bell = found.bell
        return found

    def put_aside(self, message: Fetched, why: str) -> bool:
        source = level_queue(message.queue_name, message.level)
        return self.worker.quarantine(shortened(message.raw), why, source=source)

    def tell(self, message: Fetched, outcome: Outcome) -> None:
        """Whoever listens."""
        if not self.broker.middleware:
            return
        try:
            self._deliver.say(message, outcome)
        except SkipMessage:
            self.broker.emit_after("skip_message", message)
        except BaseException as error:
            self.broker.emit_after("process_message", message, exception=error)
        else:
            self.broker.emit_after("process_message", message, result=None)


class _Source(Taking[RedisBroker]):
    def __init__(self, worker: Worker, broker: RedisBroker) -> None:
        super().__init__(worker, broker)
        self._queues = list(worker.queues)
        self._left: list[Fetched] = []  # to be acknowledged
        self._lock = threading.Lock()

    def look_around(self) -> None: ...

    def begun(self, messages: Sequence[Fetched]) -> None: ...

    def fetch(self, room: Room) -> Sequence[Fetched]:
        if self._left:
            self._acknowledge(())
        self._queues.append(self._queues.pop(0))  # none is always the first
        found = self.broker.fetch_many({self._bases[one]: room.of(one) for one in self._queues}, room.most)
        if not found and room.wait:
            if self.worker.settings.adopt:  # a native message has no record to be found by
                time.sleep(POLL / 1000)
            else:
                self.broker.wait(self._bases.values(), EMPTY)
        return found

    def settle(self, said: Sequence[tuple[Fetched, Outcome]]) -> None:
        for message, outcome in said:
            message.keep = isinstance(outcome, Unrecorded)
            self.tell(message, outcome)
        self._acknowledge([message for message, _ in said])

    def _acknowledge(self, messages: Sequence[Fetched]) -> None:
        with self._lock:
            self._left += messages
            try:
                self.broker.settle_many(self._left)
            except BrokerAway as error:
                log.warning("acknowledged when the broker is back: %s", error)
            else:
                self._left.clear()

    def put_back(self, messages: Sequence[Fetched]) -> None:
        for message in messages:
            message.keep = True
        self._acknowledge(messages)

    def close(self) -> None:
        if self._left:
            self._acknowledge(())
        self.broker.leave()
        self.broker.close()


def run_async(worker: Worker, make: Callable[..., Broker], usual: int) -> int:
    broker = make(timeout=SOCKET_TIMEOUT, threads=0, stopping=worker.stopping)
    if isinstance(broker, RedisBroker):
        return run(worker, _Source(worker, broker), usual)
    from queuekit.adapters.dramatiq.aio_rabbitmq import RabbitSource
    from queuekit.adapters.dramatiq.rabbitmq import RabbitBroker

    assert isinstance(broker, RabbitBroker)
    return run(worker, RabbitSource(worker, broker), usual)
