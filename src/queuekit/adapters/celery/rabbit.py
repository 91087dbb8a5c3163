"""Publishing to RabbitMQ: the broker confirms each message, and gives back what it has no queue for.

kombu's own confirm_publish waits for each message before it sends the next; here a whole batch is on its way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from amqp.exceptions import NotFound
from kombu.exceptions import OperationalError

from queuekit.adapters.celery.broker import _Link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu.entity import Queue

__all__ = ["RabbitLink"]


class RabbitLink(_Link):
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        super().__init__(url, options)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._declared: set[str] = set()
        self._sent = 0  # RabbitMQ counts the messages of a channel, from 1
        self._open: set[int] = set()  # neither confirmed nor refused
        self._refused = False
        self._returned: set[str] = set()  # queues that were not there
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._on_ack)
        self.channel.events["basic_nack"].add(self._on_nack)
        self.channel.events["basic_return"].add(self._on_return)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._open = {one for one in self._open if one > tag} if multiple else self._open - {tag}

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused = True
        self._on_ack(tag, multiple)

    def _on_return(self, error: Any, exchange: str, queue: str, message: Any) -> None:
        self._returned.add(queue)

    def send(self, messages: Sequence[Any], until: float) -> None:
        """Raises OperationalError as well: the broker refused a message."""
        self._send(messages, until)
        if self._returned:
            # Somebody deleted the queue that this connection had declared. What was sent twice is dropped once.
            missing, self._returned = self._returned, set()
            self._declared -= missing
            self._send([one for one in messages if one[0].name in missing], until)
        if self._refused or self._returned:
            raise OperationalError("it refused a message")

    def _send(self, messages: Sequence[Any], until: float) -> None:
        for queue, body, options in messages:
            if queue.name not in self._declared:
                queue(self.channel).declare()
                self._declared.add(queue.name)
            self.producer.publish(body, exchange="", routing_key=queue.name, mandatory=True, **options)
            self._sent += 1
            self._open.add(self._sent)
        while self._open:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"it did not confirm {len(self._open)} of {len(messages)} messages in time")
            self.connection.drain_events(timeout=left)

    def waiting(self, queue: Queue, priority: int) -> int:
        """The messages that wait in the queue, which is that of one level."""
        try:
            count: int = queue(self.channel).queue_declare(passive=True).message_count
        except NotFound:  # which has closed the channel
            self.channel = self.connection.channel()
            self.producer.revive(self.channel)
            self._prepare()
            return 0
        return count
