"""Processes named so that a pid that was used again cannot be taken for the old one: "pid:start time"."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

__all__ = ["die_with_parent", "is_alive", "process_name", "start_time"]


def start_time(pid: int) -> str | None:
    """When the process started, in the kernel's own unit; None where it is gone, "" where the system cannot tell.

    Linux: field 22 of /proc/PID/stat, in clock ticks since boot. A zombie counts as gone: it runs nothing any more.
    """
    if sys.platform != "linux":
        return "" if _exists(pid) else None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else fields[19].decode()


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
