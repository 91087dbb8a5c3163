"""Caps: at most so many jobs of one queue, or of one task, at a time in one worker process.

A queue that is at its cap is not fetched from, and its messages stay with the broker. What task a message is of shows
only once it is here: one whose task is at its cap is kept back, and not claimed, while messages behind it pass. So many
of a queue and no more are kept back; then that queue is not fetched from either.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from queuekit.execution.outcomes import Dropped
from queuekit.message import split_route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuekit.execution.outcomes import Delivery
    from queuekit.message import Doorbell

__all__ = ["KEPT_BACK", "Admission", "Caps", "Room"]

K = TypeVar("K")

KEPT_BACK: Final = 32  # messages of one queue: others see none of them until they come back


@dataclass(frozen=True, slots=True)
class Caps:
    """The caps of one worker.

    Attributes:
        served: the queues that it serves.
        queues, tasks: how many jobs at a time, by queue and by task; those that are not there have no cap.
        aliases: the names of these tasks that they had before.
    """

    served: tuple[str, ...] = ()
    queues: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.queues or self.tasks)

    def place(self, bell: Doorbell) -> tuple[str, str] | None:
        """The queue and the task that count for it. None: it says another queue than it can have come by, and the
        claim is to judge it."""
        queue = split_route(bell.route)[1]
        return (queue, self.aliases.get(bell.task, bell.task)) if queue in self.served else None


@dataclass(frozen=True, slots=True)
class Room:
    """What may be fetched.

    Attributes:
        most: messages in all.
        queues: how many at most of these queues, the others have no bound but `most`.
        wait: whether a fetch may wait for the first one. Not while something may start, or a queue be fetched from
            again, as soon as a job ends.
    """

    most: int
    queues: Mapping[str, int] = field(default_factory=dict)
    wait: bool = True

    def of(self, queue: str) -> int:
        return min(self.most, self.queues.get(queue, self.most))


class Admission(Generic[K]):
    """Counts what runs, and keeps back what may not start yet. leave() may be called by any thread, the others by the
    one that fetches."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self._kept: dict[str, tuple[K, Delivery]] = {}  # by the job's id, the first first
        self._kept_of: Counter[str] = Counter()  # by queue
        self._queues: Counter[str] = Counter()  # what runs
        self._tasks: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def kept(self) -> int:
        """How many are kept back."""
        return len(self._kept)

    def admit(self, found: Sequence[tuple[K, Delivery]]) -> tuple[list[tuple[K, Delivery]], list[tuple[K, Dropped]]]:
        """Those that may start now, which count from here on; and those that are dropped, since the record rings again
        for each that it misses. The rest is kept back."""
        if not self.caps.any:
            return list(found), []
        start: list[tuple[K, Delivery]] = []
        dropped: list[tuple[K, Dropped]] = []
        for key, delivery in found:
            bell = delivery.bell
            place = self.caps.place(bell)
            if place is None or (bell.id not in self._kept and self._enter(place)):
                start.append((key, delivery))
            elif bell.id in self._kept:
                dropped.append((key, Dropped("another message of it is kept back here")))
            elif self._kept_of[place[0]] >= KEPT_BACK:  # not if each came by the queue that it names
                dropped.append((key, Dropped("too many messages are kept back here")))
            else:
                self._kept[bell.id] = key, delivery
                self._kept_of[place[0]] += 1
        return start, dropped

    def next(self, places: int) -> list[tuple[K, Delivery]]:
        """Up to so many of those that were kept back, and may start now."""
        start: list[tuple[K, Delivery]] = []
        for id, (key, delivery) in list(self._kept.items()):
            if len(start) >= places:
                break
            place = self.caps.place(delivery.bell)
            assert place is not None
            if self._enter(place):
                del self._kept[id]
                self._kept_of[place[0]] -= 1
                start.append((key, delivery))
        return start

    def give_back(self) -> list[K]:
        """All that is kept back. Nothing is, from here on."""
        left = [key for key, _ in self._kept.values()]
        self._kept.clear()
        self._kept_of.clear()
        return left

    def _enter(self, place: tuple[str, str]) -> bool:
        queue, task = place
        with self._lock:
            if self._queues[queue] >= self.caps.queues.get(queue, self._queues[queue] + 1):
                return False
            if self._tasks[task] >= self.caps.tasks.get(task, self._tasks[task] + 1):
                return False
            self._queues[queue] += 1
            self._tasks[task] += 1
            return True

    def leave(self, bell: Doorbell) -> None:
        """One that was to start has its outcome."""
        place = self.caps.place(bell) if self.caps.any else None
        if place is not None:
            with self._lock:
                self._queues[place[0]] -= 1
                self._tasks[place[1]] -= 1

    def room(self, places: int) -> Room | None:
        """Where so many more may run. None: nothing is to be fetched."""
        most = max(0, places)
        if not self.caps.any:
            return Room(most) if most else None
        with self._lock:
            # All that comes may be of the one task that has the least room.
            least = min((cap - self._tasks[task] for task, cap in self.caps.tasks.items()), default=None)
            bounds: dict[str, int] = {}
            for queue in self.caps.served:
                bound = most
                if queue in self.caps.queues:
                    bound = min(bound, self.caps.queues[queue] - self._queues[queue])
                if least is not None:
                    bound = min(bound, least + KEPT_BACK - self._kept_of[queue])
                bounds[queue] = bound
        if not most or not any(bounds.values()):
            return None
        return Room(most, bounds, wait=not self._kept and all(bounds.values()))
