"""The attempts that run in this process, and how each is told to stop: a cancel, or the end of its worker."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from queuekit.limits import Interrupted, raise_in_thread
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.execution.outcomes import Held
    from queuekit.store import Store

__all__ = ["Attendant", "Stop"]

log = logging.getLogger("queuekit")

CANCEL_AGAIN: Final = 10.0  # seconds that a cancelled task has to clean up in peace


class Stop:
    """One attempt that runs here: whether it is to stop, and how to tell it."""

    __slots__ = ("_lock", "call", "code", "goes_on", "held", "kill", "reason", "thread", "told")

    def __init__(self, held: Held) -> None:
        self.held = held
        self.thread = threading.get_ident()
        self.reason: str | None = None  # a cancel was asked for
        self.told: float | None = None  # when it was cancelled for that, by time.monotonic()
        self.call: Callable[[], object] | None = None  # cancels an async task, or tells the process that runs it
        self.kill: Callable[[], object] | None = None  # ends that process
        self.goes_on = False  # an async task that its thread has stopped to wait for
        self.code = threading.Lock()  # held while synchronous user code runs in this thread
        self._lock = threading.RLock()  # a signal handler may interrupt the one who interrupts

    @contextmanager
    def in_code(self) -> Iterator[None]:
        """Around the code, and around `code`: takes back what was set and not yet raised."""
        try:
            yield
        finally:
            with self._lock:
                raise_in_thread(self.thread, None)

    def interrupt(self) -> None:
        with self._lock:  # never after the user's code: the exception would strike the engine
            if self.code.locked():
                raise_in_thread(self.thread, Interrupted)

    def cancel(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        now = time.monotonic()
        if self.call is not None and (self.told is None or now - self.told > CANCEL_AGAIN):
            self.told = now
            self.call()


class Attendant:
    """Asks once a second which of the jobs that run in this process are to be cancelled, in one call for all."""

    EVERY = 1.0

    def __init__(self, store: Store) -> None:
        self._store = store
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
        with self._lock:
            self._running.pop(held.token, None)

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
                self._look(running)
            except Exception:
                log.exception("the cancels could not be looked up")

    def _look(self, running: dict[str, Stop]) -> None:
        try:
            wanted = self._store.cancel_requested(list(running))
        except StoreAway:
            return
        for id, reason in wanted.items():
            running[id].cancel(reason)


_attendants: weakref.WeakSet[Attendant] = weakref.WeakSet()


def _after_fork() -> None:
    for attendant in list(_attendants):
        attendant.after_fork()


os.register_at_fork(after_in_child=_after_fork)  # once: nobody can take a hook back
