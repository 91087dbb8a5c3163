"""Dramatiq's own worker in this process: its threads, with our consumers and one actor for all messages."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import dramatiq
from dramatiq.middleware import SkipMessage

from queuekit.adapters.dramatiq.broker import CATCH_ALL, base_queue, level_queue
from queuekit.execution import (
    Delivery,
    Dropped,
    Ended,
    Failed,
    Held,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.message import InvalidMessage, shortened
from queuekit.processes import Asked
from queuekit.worker import leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.adapters.dramatiq.broker import Broker, Fetched
    from queuekit.execution import Outcome
    from queuekit.worker import Worker

__all__ = ["Deliver", "Engine", "run"]

log = logging.getLogger("queuekit.dramatiq")

THREADS: Final = 8  # Dramatiq's own default
POLL: Final = 50  # milliseconds between two looks into an empty queue
SOCKET_TIMEOUT: Final = 10.0  # seconds: a shorter stall of the broker loses no reply
LAST_ACKS: Final = 1.0  # seconds for acknowledgements once all is done
INTERRUPTED: Final = 1.0  # seconds for attempts to end that were interrupted
LAST_RESORT: Final = 4.0  # seconds after the grace at which the process ends in any case


class Deliver(dramatiq.Middleware):
    """Hands the message of this thread to execution, and says what came of it in Dramatiq's words."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._here = threading.local()

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        self._here.message = message

    def act(self, *_args: Any, **_kwargs: Any) -> None:
        """The actor's function. What it raises is for Dramatiq's log and the user's middleware; the ack follows."""
        message: Fetched = self._here.message
        try:
            if self.worker.stopping.is_set():
                message.keep = True
                raise SkipMessage("the worker stops")
            outcome = self._execute(message)
        finally:
            message.over = True
            self._here.message = None
        self.say(message, outcome)

    def _execute(self, message: Fetched) -> Outcome:
        execution = self.worker.execution
        try:
            delivery = self.delivery(message)
        except InvalidMessage as error:
            source = self._source(message)
            message.keep = not self.worker.quarantine(shortened(message.raw), str(error), source=source)
            raise SkipMessage(str(error)) from None
        if isinstance(delivery, Unrecorded):
            return delivery
        message.bell = delivery.bell
        held = execution.claim(delivery)
        if not isinstance(held, Held):
            return held
        message.claimed()
        return execution.run(held)

    def delivery(self, message: Fetched) -> Delivery | Unrecorded:
        """Raises InvalidMessage where it is none of ours."""
        if message.bell is not None:
            return Delivery(message.bell, list(message.args), message.kwargs, self._source(message))
        if message.native is not None:
            return self.worker.execution.adopt(**message.native, queue=message.queue, priority=message.level)
        raise InvalidMessage(message.invalid)

    @staticmethod
    def _source(message: Fetched) -> str:
        return level_queue(message.queue_name, message.level)

    def say(self, message: Fetched, outcome: Outcome) -> None:
        match outcome:
            case Succeeded():
                return
            case Retried(delay=delay, reason=reason):
                raise dramatiq.Retry(reason, delay=round(delay * 1000))
            case Failed(reason=reason, error=error):
                if message.bell is not None and message.bell.private:
                    raise RuntimeError(f"{type(error).__qualname__} (private)")
                raise error
            case Dropped(reason=reason) | Released(reason=reason) | Ended(reason=reason):
                raise SkipMessage(reason)
            case Stale():
                raise SkipMessage("its attempt was ended by somebody else")
            case Unrecorded(reason=reason):
                message.keep = True
                raise SkipMessage(reason)


class Engine:
    """The threads of one worker, on a broker of their own, which `make` gives: in a process of ours, or beside the
    worker of the user's broker.

    Args:
        threads: how many jobs at a time.
    """

    def __init__(self, worker: Worker, make: Callable[..., Broker], *, threads: int, beside: bool = False) -> None:
        self.worker, self.threads = worker, threads
        worker.at_a_time = threads
        deliver = Deliver(worker)
        self.broker = make(
            timeout=SOCKET_TIMEOUT, middleware=[deliver], threads=threads, stopping=worker.stopping, beside=beside
        )
        queues = [base_queue(worker.settings, name) for name in worker.queues]
        dramatiq.Actor(
            deliver.act, broker=self.broker, actor_name=CATCH_ALL, queue_name=queues[0], priority=0, options={}
        )
        for name in queues:
            self.broker.declare_queue(name)
        self._native = dramatiq.Worker(self.broker, worker_timeout=POLL, worker_threads=threads)

    def start(self) -> None:
        self.worker.start()
        self.worker.watch_in_thread()
        self.broker.emit_after("process_boot")
        self._native.start()
        queues = ", ".join(self.worker.queues)
        log.info("worker %s: %d threads for the queues %s", self.worker.name, self.threads, queues)

    def open(self) -> None:
        """Beside: take jobs, which until then its consumers have no slot for."""
        self.broker.slots.release(self.threads)

    @property
    def busy(self) -> bool:
        """Whether a job runs that may still end, before the process does."""
        stuck = self.worker.execution.stuck
        return any(not (one.over or (one.bell and one.bell.id in stuck)) for one in tuple(self.broker.held))

    def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take nothing more, and wait until all that runs has ended: for the grace, or until `hurry` says so."""
        self.worker.stopping.set()
        until = time.monotonic() + self.worker.settings.grace
        while self.busy and time.monotonic() < until and not hurry():
            time.sleep(0.05)

    def end(self) -> bool:
        """Stop what still runs. False: some of it could not be stopped; it was released, and ends with the process."""
        if self.busy:
            self.worker.execution.interrupt_running()
            until = time.monotonic() + INTERRUPTED
            while self.busy and time.monotonic() < until:
                time.sleep(0.01)
        if self.broker.busy:  # what sits in a blocking call
            self.release()
            until = time.monotonic() + LAST_ACKS
            while any(one.over for one in tuple(self.broker.held)) and time.monotonic() < until:
                time.sleep(0.01)
            return False
        self._native.stop(timeout=round(LAST_ACKS * 1000))
        self.broker.leave()
        self.broker.close()
        return True

    def release(self) -> None:
        """Hand back what still runs, before the process ends under it."""
        left = self.worker.execution.release_running("the worker stopped")
        log.warning("%d attempts end with this process", left)


def run(worker: Worker, make: Callable[..., Broker]) -> int:
    """See Adapter.run_worker(). A first SIGTERM or SIGINT lets the running jobs end, a second one does not wait."""
    asked = Asked(time.monotonic)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    engine = Engine(worker, make, threads=worker.concurrency or THREADS)
    engine.start()
    asked.wait()
    engine.drain(hurry=asked.again)
    # Whatever hangs from here on, a store that is away or a thread that somebody joins: the process ends.
    resort = threading.Timer(LAST_RESORT, leave, [worker.exit_code])
    resort.daemon = True
    resort.start()
    if not engine.end():
        leave(worker.exit_code)
    return worker.exit_code
