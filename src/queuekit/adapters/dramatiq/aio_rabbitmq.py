"""The pool `async` on RabbitMQ: messages are pulled in batches, on one connection of the thread that fetches.

A message is acknowledged as soon as its attempt is claimed, as in the pool `threads`: the record has the job from there
on, and consumer_timeout cuts nothing off. One that is void, since its connection broke, is delivered again, and decided
by the record.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pika.exceptions import AMQPError

from queuekit.adapters import BrokerAway
from queuekit.adapters.dramatiq.aio import Taking
from queuekit.adapters.dramatiq.broker import LEVELS, level_queue
from queuekit.adapters.dramatiq.link import Away, describe
from queuekit.adapters.dramatiq.rabbitmq import RabbitBroker, RabbitFetched
from queuekit.adapters.pulling import HEARTBEAT, SLICE, pull
from queuekit.execution.outcomes import Unrecorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.adapters.dramatiq.link import Link
    from queuekit.execution.caps import Room
    from queuekit.execution.outcomes import Outcome
    from queuekit.worker import Worker

__all__ = ["RabbitSource"]


class RabbitSource(Taking[RabbitBroker]):
    """The thread that fetches uses the link; whoever closes the source, after it."""

    def __init__(self, worker: Worker, broker: RabbitBroker) -> None:
        super().__init__(worker, broker)
        self._turn = list(worker.queues)
        self._levels = {name: [level_queue(base, level) for level in LEVELS] for name, base in self._bases.items()}
        self._places = {level_queue(base, level): (base, level) for base in self._bases.values() for level in LEVELS}
        self._link: Link | None = None

    # ---- the connection ---------------------------------------------------------------------------------------------

    def look_around(self) -> None:
        try:
            if self._link is not None:
                self._link.flush()
        except Exception:
            self._drop()  # it is opened again by the next fetch, which says so if it cannot be

    def _open(self) -> Link:
        if self._link is None or not self._link.usable:
            self._drop()
            until = time.monotonic() + self.broker.timeout
            self._link = self.broker.open_link(until, confirm=False, heartbeat=HEARTBEAT)
        return self._link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abandon()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self.broker.leave()
        self.broker.close()

    # ---- messages ---------------------------------------------------------------------------------------------------

    def fetch(self, room: Room) -> Sequence[RabbitFetched]:
        self._turn.append(self._turn.pop(0))  # none is always the first
        try:
            self._open()
            return pull(self, {name: self._levels[name] for name in self._turn}, room)
        except BaseException as error:
            self._drop()  # whatever was under way on it
            if isinstance(error, (Away, AMQPError)):
                raise BrokerAway(f"the broker does not answer: {describe(error)}") from error
            raise

    def waiting(self, name: str) -> int:
        link, until = self._open(), time.monotonic() + self.broker.timeout
        link.declare(name, self.broker.arguments(name), until)
        found = link.count(name, until)
        if found is None:  # somebody has deleted it
            link.declared.discard(name)
        return found or 0

    def take(self, names: Sequence[str], each: int, most: int, seconds: float) -> Sequence[RabbitFetched]:
        link, until = self._open(), time.monotonic() + seconds

        def going(arrived: int) -> float:
            if arrived >= most or self.worker.stopping.is_set():
                return 0.0
            return min(SLICE, until - time.monotonic())

        found = []
        for name, tag, raw in link.take(names, each, going, self.broker.timeout):
            base, level = self._places[name]
            slots, limit = self.broker.slots, self.broker.settings.doorbell_limit
            found.append(RabbitFetched(base, level, raw, slots, limit, link=link, channel=link.channel, tag=tag))
        return found

    def begun(self, messages: Sequence[RabbitFetched]) -> None:
        for message in messages:
            message.claimed()
        self.look_around()  # the acknowledgements leave now

    def settle(self, said: Sequence[tuple[RabbitFetched, Outcome]]) -> None:
        for message, outcome in said:
            self.tell(message, outcome)
            message.settle(keep=isinstance(outcome, Unrecorded))

    def put_back(self, messages: Sequence[RabbitFetched]) -> None:
        for message in messages:
            message.settle(keep=True)
        self.look_around()
