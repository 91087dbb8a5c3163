"""Processes named so that a pid that was used again cannot be taken for the old one: "pid:start time"."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BACKSTOP", "ENDING", "OVER", "SAME", "Asked", "die_with_parent", "is_alive", "process_name", "start_time"]

ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""The signals that ask a process to end; a terminal or a supervisor sends them to the whole group."""

BACKSTOP: Final = 5.0
"""Seconds after its hard limit at which code that goes on is ended with its process, by that process itself."""

OVER: Final = (15.0, 20.0)
"""Seconds after a hard limit at which the steward kills a child that has not, and a worker's own process."""


SAME: Final = 0.5
"""Seconds in which a second signal is the first one: to the whole group, where a parent passes it on as well."""

WAKE: Final = 0.5  # seconds


class Asked:
    """A handler for the signals that ask a worker to stop. `clock`: such as time.monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._came: queue.SimpleQueue[float] = queue.SimpleQueue()  # its put() may interrupt its get()
        self._first = 0.0
        self._again = False

    def __call__(self, signum: int, frame: object) -> None:
        self._came.put(self._clock())

    def wait(self) -> None:
        """For the first one. A signal may be given to any thread, and its handler runs when the main thread next
        wakes."""
        while True:
            with suppress(queue.Empty):
                self._first = self._came.get(timeout=WAKE)
                return

    def again(self) -> bool:
        """Whether another one has come since: the grace is not waited for. Call it after wait()."""
        while not self._came.empty():
            self._again = self._came.get() - self._first > SAME or self._again
        return self._again


def start_time(pid: int) -> str | None:
    """When the process started, in the kernel's own unit; None where it is gone, "" where the system cannot tell.

    Linux: field 22 of /proc/PID/stat, in clock ticks since boot. A zombie counts as gone once it runs nothing: of a
    killed process the first thread may be one while others are on their way out, with files and locks in their hands.
    """
    if sys.platform != "linux":
        return "" if _exists(pid) else None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"} and not _other_threads(pid):
        return None
    return fields[19].decode()


def _other_threads(pid: int) -> bool:
    try:
        return any(thread != str(pid) for thread in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208  # of /proc
    except (FileNotFoundError, ProcessLookupError):
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _own_name(pid: int) -> str:
    return f"{pid}:{start_time(pid) or ''}"


def process_name() -> str:
    """This process. A forked child has a name of its own."""
    return _own_name(os.getpid())


def is_alive(name: str) -> bool:
    pid, _, started = name.partition(":")
    now = start_time(int(pid))
    return now is not None and (not started or not now or now == started)


def die_with_parent(parent: int, signal: int) -> None:
    """Have the kernel send this process the signal when its parent dies. `parent` is the pid that forked it.

    Linux only (PR_SET_PDEATHSIG). Call it right after a fork that the parent's main thread made: the kernel means the
    thread, not the process.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal)
