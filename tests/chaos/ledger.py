"""What jobs of a chaos run really did: a file outside of broker and store, and a lock for each job.

The lock is the kernel's (flock): it ends with the process that holds it, at that very moment. So a second execution
that finds it taken overlaps one that is alive, whatever anybody's clock says. Queuekit's tasks and those of the bare
engines write the same ledger.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "CHAOS_LEDGER"


@dataclass(frozen=True)
class Line:
    """`event`: start, end or failed. `beside`: the process that was running the same job when this one started."""

    job: str
    event: str
    pid: int
    at: float
    beside: int = 0


@contextmanager
def execution(job: str) -> Iterator[None]:
    """One execution of the job, from its first to its last side effect."""
    path = os.environ[VARIABLE]
    held = os.open(f"{path}.locks/{job}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        beside = 0
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(held, f"{os.getpid():<10}".encode(), 0)
        except BlockingIOError:
            beside = int(os.pread(held, 10, 0) or b"-1")
        _write(job, "start", beside)
        try:
            yield
        except BaseException:
            _write(job, "failed")
            raise
        _write(job, "end")
    finally:
        os.close(held)


def _write(job: str, event: str, beside: int = 0) -> None:
    line = json.dumps([job, event, os.getpid(), time.time(), beside]) + "\n"
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Ledger:
    """The reader."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"
        self.path.touch()
        Path(f"{self.path}.locks").mkdir()
        self._known: list[Line] = []
        self._read = 0

    def lines(self) -> list[Line]:
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._known.append(Line(*json.loads(line)))
                self._read += len(line)
        return self._known

    def running(self, pids: set[int]) -> list[Line]:
        """The starts in these processes that no end has followed."""
        open_: dict[tuple[str, int], Line] = {}
        for line in self.lines():
            if line.event == "start":
                open_[line.job, line.pid] = line
            else:
                open_.pop((line.job, line.pid), None)
        return [line for (_, pid), line in open_.items() if pid in pids]
