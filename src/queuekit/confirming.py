"""What the broker has, to be told to the store: collected, and told together by a thread, so that no enqueue waits.

All that hangs on it is whether a steward publishes the same once more, 5 s later, which a claim finds and drops. So
what cannot be told is let go.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuekit.store import Store

__all__ = ["Confirmations", "flush"]

log = logging.getLogger("queuekit")

WAIT: Final = 0.05  # seconds that the first one waits for others
IDLE: Final = 5.0  # seconds after which the thread ends: another one is started at need
LATE: Final = 1.0  # seconds after which whoever brings another one tells them all: some servers let no thread run
PATIENCE: Final = 1.0  # seconds that a process which ends, or forks, waits at most
MOST: Final = 500  # in one step of the store, which keeps all others waiting


class Confirmations:
    """Those for one store. Any thread may use it, and a forked child starts with none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.start_anew()
        _every.add(self)

    def start_anew(self) -> None:
        """In a forked child: its parent tells what it has collected, and has the thread."""
        self._changed = threading.Condition()
        self._collected: dict[str, list[tuple[str, int]]] = {}
        self._since = 0.0  # time.monotonic() of the first of them
        self._ending = False
        self._thread: threading.Thread | None = None

    def add(self, route: str, publications: Sequence[tuple[str, int]]) -> None:
        """The broker has these: id and pseq of each. Returns at once, and raises nothing."""
        with self._changed:
            if not self._collected:
                self._since = time.monotonic()
                self._changed.notify_all()
            self._collected.setdefault(route, []).extend(publications)
            if self._has_thread() and time.monotonic() - self._since < LATE:
                return
            collected = self._taken()
        self._tell(collected)

    def flush(self) -> None:
        """Tell what is collected now, and let the thread end. Waits for a second at most."""
        with self._changed:
            thread = self._thread
            if thread is None or thread is threading.current_thread():
                return
            self._ending = True
            self._changed.notify_all()
        thread.join(PATIENCE)

    def _has_thread(self) -> bool:
        """There is none where the interpreter ends, or the system has no more."""
        if _at_exit:
            return False
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="queuekit-confirming", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _taken(self) -> dict[str, list[tuple[str, int]]]:
        collected, self._collected = self._collected, {}
        return collected

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._collected or self._ending, IDLE)
                if self._collected:
                    self._changed.wait_for(lambda: self._ending, WAIT)
                collected = self._taken()
                if not collected:
                    self._thread, self._ending = None, False
                    return
            self._tell(collected)

    def _tell(self, collected: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        calls = [
            partial(self._store.published, route, some[start : start + MOST])
            for route, some in collected.items()
            for start in range(0, len(some), MOST)
        ]
        try:
            answers = self._store.together(calls)
        except Exception:
            log.exception("what was published could not be noted: some of it may be published again")
            return
        if away := next((one for one in answers if isinstance(one, ConnectionError)), None):
            log.debug("what was published could not be noted, and may be published again: %s", away)


def flush() -> None:
    """Tell all that is collected in this process, before it ends or forks: a fork with other threads is warned of."""
    for one in list(_every):
        one.flush()


def _flush_at_exit() -> None:
    global _at_exit
    _at_exit = True  # what exit handlers of the user's enqueue is told in their own time
    flush()


def _start_anew() -> None:
    for one in list(_every):
        one.start_anew()


_every: weakref.WeakSet[Confirmations] = weakref.WeakSet()
_at_exit = False
atexit.register(_flush_at_exit)
os.register_at_fork(before=flush, after_in_child=_start_anew)
