"""What jobs really did, written down outside of store and broker: neither can hide a side effect from it.

One line of JSON for each event, appended in one write, so that any number of processes can share the file.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from queuekit.events import JobEvent

__all__ = ["VARIABLE", "Entry", "Journal", "note", "note_event"]

VARIABLE = "QUEUEKIT_TEST_JOURNAL"
"""The environment variable that names the file. Without it nothing is written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. `at` is this machine's clock, in epoch seconds."""

    job: str
    attempt: int
    pid: int
    at: float
    event: str
    data: Any = None


def note(event: str, data: Any = None) -> None:
    """Write an event of the job that runs here."""
    from queuekit import current_job

    job = current_job()
    _write([job.id, job.attempt, os.getpid(), time.time(), event, data])


def note_event(event: JobEvent, /) -> None:
    """A hook that writes each event down, as "event:KIND": for the setting hooks, by its name."""
    at = event.at.timestamp()
    _write([event.job_id, event.attempt, os.getpid(), at, f"event:{event.kind}", event.to_dict()])


def _write(entry: list[Any]) -> None:
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps(entry) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Journal:
    """The reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: list[Entry] = []
        self._read = 0
        path.touch()

    def entries(self, job: str | None = None, event: str | None = None) -> list[Entry]:
        """In the order in which they were written."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    self._known.append(Entry(*json.loads(line)))
                    self._read += len(line)
        return [one for one in self._known if job in {None, one.job} and event in {None, one.event}]
