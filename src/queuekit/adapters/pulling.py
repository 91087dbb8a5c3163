"""How the pool `async` takes messages from RabbitMQ: as many as there is room for, whenever there is.

A consumer that stays is pushed to: up to its prefetch, for each queue and level by itself. What is acknowledged at its
claim does not count for that, so that a busy worker would hold messages which it cannot start. Here a consumer is there
for one batch, whose size is its prefetch, and is cancelled when that has come. While nothing waits, a consumer of each
queue waits for the first message; so an idle worker asks the broker for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuekit.execution.caps import Room

__all__ = ["HEARTBEAT", "SLICE", "Tap", "pull"]

K_co = TypeVar("K_co", covariant=True)
K = TypeVar("K")

HEARTBEAT: Final = 30  # seconds: a worker's connection to a machine that is gone
GATHER: Final = 0.05  # seconds for messages that were counted: another worker may have taken them meanwhile
IDLE: Final = 10.0  # seconds that consumers wait before the queues are counted again
POLL: Final = 0.1  # seconds between two looks into empty queues of which not each may bring one
SLICE: Final = 0.25  # seconds between two looks of whoever waits: whether the worker stops, for heartbeats


class Tap(Protocol[K_co]):
    """A connection to the broker. Both raise the errors of its client."""

    def waiting(self, name: str) -> int:
        """How many messages nobody has. The queue is declared where it is not there."""
        ...

    def take(self, names: Sequence[str], each: int, most: int, seconds: float) -> Sequence[K_co]:
        """Up to so many of each of these queues: what has come when there are `most` in all, or after so long, or when
        the worker stops."""
        ...


def pull(tap: Tap[K], queues: Mapping[str, Sequence[str]], room: Room) -> list[K]:
    """See queuekit.adapters.aio.Source.fetch(). `queues`: what each is called in the broker, level by level, the
    highest first."""
    found: list[K] = []
    left = {queue: room.of(queue) for queue in queues}
    for level in zip(*queues.values(), strict=True):
        for queue, name in zip(queues, level, strict=True):
            few = min(room.most - len(found), left[queue])
            if few > 0:
                few = min(few, tap.waiting(name))
            if few > 0:
                taken = tap.take([name], few, few, GATHER)
                left[queue] -= len(taken)
                found += taken
    if found or not room.wait:
        return found
    names = [name for level in queues.values() for name in level]
    if len(names) <= room.most and all(len(levels) <= left[queue] for queue, levels in queues.items()):
        return list(tap.take(names, 1, 1, IDLE))
    return list(tap.take([], 0, 1, POLL))
