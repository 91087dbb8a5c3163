"""The pool `async` on engines whose workers have no such thing: messages are taken, many at a time, as there is room
for jobs, and all of them run in this process.

The engine carries the messages and is told of outcomes, in its own words, by a Source. It starts nothing.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from queuekit.adapters import BrokerAway
from queuekit.adapters.report import Level
from queuekit.execution.aio import Runner
from queuekit.execution.outcomes import Delivery, Dropped, Unrecorded
from queuekit.message import InvalidMessage
from queuekit.processes import Asked
from queuekit.worker import leave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.adapters.report import Row
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Outcome
    from queuekit.settings import Settings
    from queuekit.worker import Worker

__all__ = ["CONCURRENCY", "EMPTY", "MOST", "Source", "fetch_all", "on_one_loop", "run"]

log = logging.getLogger("queuekit")

K = TypeVar("K")

CONCURRENCY: Final = 250  # jobs at a time where nobody says
MOST: Final = 128  # messages that are taken at a time: the first of them need not wait for the claim of the last
EMPTY: Final = 0.5  # seconds that a source waits in the broker while its queues are empty
AGAIN: Final = 1.0  # seconds between two tries while the broker is away
ROOM: Final = 0.1  # seconds between two looks whether the worker was told to stop, while there is no room
CAPPED: Final = 0.05  # seconds between two looks into empty queues while others wait for a job to end
FETCHED: Final = 2.0  # seconds for what is being taken, once the worker stops
LAST_RESORT: Final = 5.0  # seconds after the grace at which the process ends in any case


class Source(Protocol[K]):
    """Where an engine's messages come from. All but settle() are called by one thread, which may change once."""

    def open(self) -> None:
        """Called before the worker's lease is opened. Raises ConfigError for what cannot be."""
        ...

    def look_around(self) -> None:
        """Called now and then, also while there is no room for more. Does not raise."""
        ...

    def fetch(self, room: Room) -> Sequence[K]:
        """Up to so many messages, of all queues and of each. It waits a moment where there are none and it may. Raises
        BrokerAway."""
        ...

    def delivery(self, message: K) -> Delivery | Outcome:
        """What it is, or what becomes of it without being run. Raises InvalidMessage, for the quarantine."""
        ...

    def put_aside(self, message: K, why: str) -> bool:
        """Into the quarantine. False: the worker stops before it is there, and it is not to be acknowledged."""
        ...

    def begun(self, messages: Sequence[K]) -> None:
        """Attempts of these start now. Does not raise."""
        ...

    def settle(self, said: Sequence[tuple[K, Outcome]]) -> None:
        """Say the outcomes in the engine's words, and acknowledge: by any thread. Does not raise, and while the broker
        is away it keeps what is left to do for the next call."""
        ...

    def put_back(self, messages: Sequence[K]) -> None:
        """They are not begun: for another worker. Does not raise."""
        ...

    def close(self) -> None:
        """The worker has ended in good order. Does not raise."""
        ...


def on_one_loop(row: Row, settings: Settings) -> Row:
    """The row `concurrency` of the compile report."""
    said = f"{settings.concurrency or CONCURRENCY} jobs at a time, async ones on one loop, synchronous ones in threads"
    return replace(row, level=Level.emulated, becomes=said)


def run(worker: Worker, source: Source[K], usual: int = CONCURRENCY) -> int:
    """See Adapter.run_worker(). A first SIGTERM or SIGINT lets the running jobs end, a second one does not wait.

    `usual`: how many jobs at a time where the worker does not say.
    """
    asked = Asked(time.monotonic)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    worker.keeps_caps = True
    source.open()
    runner = Runner(worker.execution, worker.concurrency or usual, source.begun, source.settle, worker.caps)
    worker.start()
    worker.watch_in_thread()
    fetching = threading.Thread(target=fetch_all, args=(worker, source, runner), name="queuekit-fetch", daemon=True)
    fetching.start()
    log.info("worker %s: %d jobs at a time, queues %s", worker.name, runner.limit, ", ".join(worker.queues))
    asked.wait()
    worker.stopping.set()
    log.info("stopping: no new jobs, and %g s for the running ones", worker.settings.grace)
    fetching.join(FETCHED)
    runner.drain(hurry=asked.again)
    # Whatever hangs from here on, a store that is away or a thread that somebody joins: the process ends.
    resort = threading.Timer(LAST_RESORT, leave, [worker.exit_code])
    resort.daemon = True
    resort.start()
    if not runner.end():
        worker.execution.hooks.flush()
        leave(worker.exit_code)
    source.close()
    return worker.exit_code


def fetch_all(worker: Worker, source: Source[K], runner: Runner[K]) -> None:
    """Until the worker stops. What was not begun by then goes back."""
    away = False
    left: list[K] = []
    while not worker.stopping.is_set():
        source.look_around()
        room = runner.room(ROOM)
        if room is None:
            continue
        try:
            found = source.fetch(replace(room, most=min(room.most, MOST)))
            if away:
                log.warning("the broker is back")
            away = False
        except BrokerAway as error:
            if not away:
                log.warning("the broker is away, and asked each %g s until it is back: %s", AGAIN, error)
            away = True
            worker.stopping.wait(AGAIN)
            continue
        except Exception:
            log.exception("no messages could be taken")
            worker.stopping.wait(AGAIN)
            continue
        if worker.stopping.is_set():
            left += found
        elif found:
            _run(source, runner, found)
        elif not room.wait:
            runner.pause(CAPPED)
    left = runner.give_back() + left
    if left:
        source.put_back(left)


def _run(source: Source[K], runner: Runner[K], found: Sequence[K]) -> None:
    deliveries: list[tuple[K, Delivery]] = []
    said: list[tuple[K, Outcome]] = []
    for message in found:
        try:
            got = source.delivery(message)
        except InvalidMessage as error:
            if source.put_aside(message, str(error)):
                said.append((message, Dropped(f"put aside: {error}")))
            else:
                said.append((message, Unrecorded(str(error))))
            continue
        if isinstance(got, Delivery):
            deliveries.append((message, got))
        else:
            said.append((message, got))
    if said:
        source.settle(said)
    runner.take(deliveries)
