"""The attempts that run in this process, and how each is told to stop: a cancel, the end of its worker, or that it goes
on over its hard limit."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from queuekit.errors import JobCancelled
from queuekit.limits import Interrupted, can_interrupt, raise_in_thread
from queuekit.processes import BACKSTOP
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from queuekit.execution.outcomes import Held
    from queuekit.store import Store

__all__ = ["Attendant", "Stop"]

log = logging.getLogger("queuekit")

CANCEL_AGAIN: Final = 10.0  # seconds that a cancelled task has to clean up in peace
STRIKE: Final = signal.SIGURG  # takes the main thread out of a blocking call; ignored where nobody handles it


class Said:
    """What an attempt and its job tell each other. The job's context has no more of the attempt than this: what leads
    back to it would be kept, with its arguments, until Python looks for such circles."""

    __slots__ = ("progress", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None  # a cancel was asked for
        self.progress: str | None = None  # what the task says of it, and the store has not heard


class Stop:
    """One attempt that runs here: whether it is to stop, and how to tell it."""

    __slots__ = (
        "_lock", "call", "code", "goes_on", "held", "interrupted", "kill", "limit", "said", "strike", "stuck",
        "thread", "told",
    )  # fmt: skip

    def __init__(self, held: Held) -> None:
        self.held = held
        self.thread = threading.get_ident()
        self.said = Said()
        self.told: float | None = None  # when it was cancelled for that, by time.monotonic()
        self.call: Callable[[], object] | None = None  # cancels an async task, or tells the process that runs it
        self.kill: Callable[[], object] | None = None  # ends that process
        self.strike: Callable[[], object] | None = None  # has its main thread look whether it is to stop
        self.interrupted = False
        self.goes_on = False  # an async task that its thread has stopped to wait for
        self.limit: float | None = None  # the moment of its hard limit, by time.monotonic()
        self.stuck = False  # it went on, and ends with its process
        self.code = threading.Lock()  # held while synchronous user code runs in this thread
        self._lock = threading.RLock()  # a signal handler may interrupt the one who interrupts

    @property
    def reason(self) -> str | None:
        return self.said.reason

    @property
    def over(self) -> bool:
        """Whether it runs over its hard limit."""
        return self.limit is not None and time.monotonic() > self.limit

    @contextmanager
    def in_code(self) -> Iterator[None]:
        """Around the code, and around `code`: takes back what was set and not yet raised."""
        try:
            yield
        finally:
            with self._lock:
                raise_in_thread(self.thread, None)

    @contextmanager
    def in_main_thread(self, late: Callable[[], object] | None, after: float) -> Iterator[None]:
        """Around synchronous code: where it is the main thread that runs it, a cancel raises JobCancelled in it, once,
        and the worker's stop Interrupted, out of a blocking call too. `late` is called so many seconds after a cancel,
        from another thread, if it is not over."""
        if not can_interrupt():
            yield
            return
        main, over = threading.get_ident(), threading.Event()

        def strike() -> None:
            if late is not None and not self.interrupted:
                threading.Thread(target=wait, args=(late,), name="queuekit-cancel", daemon=True).start()
            if not over.is_set():
                signal.pthread_kill(main, STRIKE)

        def wait(late: Callable[[], object]) -> None:
            if not over.wait(after):
                late()

        def struck(_signal: int, _frame: object) -> None:
            if not self.code.locked():  # never after the user's code: the error would strike the engine
                return
            if self.interrupted:
                raise Interrupted("the worker stops")
            if self.reason is not None:
                raise JobCancelled(f"cancelled: {self.reason}" if self.reason else "cancelled")

        before = signal.signal(STRIKE, struck)
        self.strike = strike
        try:
            yield
        finally:
            over.set()
            signal.signal(STRIKE, signal.SIG_DFL if before is None else before)  # None: C code's

    def interrupt(self) -> None:
        strike = self.strike
        if strike is not None:
            self.interrupted = True
            strike()
            return
        with self._lock:  # never after the user's code: the exception would strike the engine
            if self.code.locked():
                raise_in_thread(self.thread, Interrupted)

    def cancel(self, reason: str) -> None:
        if self.reason is None:
            self.said.reason = reason
        call, strike, now = self.call, self.strike, time.monotonic()
        if call is not None and (self.told is None or now - self.told > CANCEL_AGAIN):
            self.told = now
            call()
        elif call is None and strike is not None and self.told is None:
            self.told = now
            strike()

    def let_go(self) -> None:
        """Its code has ended: there is nothing to tell it, and what leads back to it is not kept."""
        self.call = self.strike = None


class Attendant:
    """Asks twice a second which of the jobs that run in this process are to be cancelled, in one call for all; and
    calls `on_stuck`, once, for each that runs on BACKSTOP seconds after its hard limit."""

    EVERY = 0.5

    def __init__(
        self, store: Store, on_stuck: Callable[[Stop], None] | None = None, worker: Callable[[], str] = str
    ) -> None:
        self._store = store
        self._on_stuck = on_stuck
        self._worker = worker  # the name under which all of them were claimed; "": not known
        self._running: dict[str, Stop] = {}  # by fence
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        _attendants.add(self)

    def after_fork(self) -> None:  # neither threads nor what they ran live on
        self._lock = threading.Lock()
        self._running, self._thread = {}, None

    def attend(self, held: Held) -> Stop:
        stop = Stop(held)
        with self._lock:
            self._running[held.token] = stop
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="queuekit-attendant", daemon=True)
                self._thread.start()
        return stop

    def leave(self, held: Held) -> None:
        """Its code has ended."""
        stop = self.forget(held)
        if stop is not None:
            self.tell(stop)

    def forget(self, held: Held) -> Stop | None:
        """leave() for the loop's thread, which is not to wait for the store: somebody has to tell() then."""
        with self._lock:
            stop = self._running.pop(held.token, None)
        if stop is not None:
            stop.let_go()
        return stop

    def running(self) -> list[Stop]:
        """Without the lock: a signal handler may ask while this very thread holds it."""
        return list(self._running.values())

    def _watch(self) -> None:
        while True:
            time.sleep(self.EVERY)
            with self._lock:
                running = {stop.held.message.id: stop for stop in self._running.values()}
                if not running:  # the next attempt starts another
                    self._thread = None
                    return
            try:
                self._end_stuck(running.values())  # first: it waits for nobody
                self._look(running)
            except Exception:
                log.exception("the attempts that run could not be looked after")

    def _end_stuck(self, running: Iterable[Stop]) -> None:
        on_stuck, now = self._on_stuck, time.monotonic()
        if on_stuck is None:
            return
        for stop in running:
            if stop.limit is not None and now > stop.limit + BACKSTOP and not stop.stuck:
                stop.stuck = True
                on_stuck(stop)

    def _look(self, running: dict[str, Stop]) -> None:
        try:
            wanted = self._store.cancel_requested(list(running), self._worker())
        except StoreAway:
            return
        for id, reason in wanted.items():
            running[id].cancel(reason)
        for stop in running.values():
            self.tell(stop)

    def tell(self, stop: Stop) -> None:
        """The store of its progress, as far as it has not heard."""
        said, stop.said.progress = stop.said.progress, None
        if said is not None:
            with suppress(StoreAway):  # the next one is heard
                self._store.progress(stop.held.message.id, stop.held.token, said)


_attendants: weakref.WeakSet[Attendant] = weakref.WeakSet()


def _after_fork() -> None:
    for attendant in list(_attendants):
        attendant.after_fork()


os.register_at_fork(after_in_child=_after_fork)  # once: nobody can take a hook back
