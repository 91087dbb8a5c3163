"""How those who follow a job see it change: Job.follow(), afollow() and `queuekit jobs show --follow`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from queuekit.job import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.job import JobInfo
    from queuekit.store import Store

__all__ = ["EVERY", "Changes"]

EVERY: Final = 0.5  # seconds between two looks: as often as a worker says how far a job is


class Changes:
    """`info` reads the record, and raises where there is none. `over`: it was seen that the job has ended."""

    def __init__(self, store: Store, id: str, info: Callable[[], JobInfo]) -> None:
        self._store, self._id, self._info = store, id, info
        self._seen: object = ()
        self.over = False

    def look(self) -> JobInfo | None:
        """The record as it is now, the first time and where it has changed since the last look."""
        now = self._store.glimpse(self._id)
        if now == self._seen and now is not None:
            return None
        self._seen, info = now, self._info()
        self.over = info.status in TERMINAL
        return info
