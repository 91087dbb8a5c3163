"""RabbitMQ: a durable queue for each priority level, confirmed publishes, and a consumer of ours that takes messages
one by one.

    queuekit.NAMESPACE.QUEUE.pLEVEL      through the default exchange; persistent messages

A level is a queue of its own, as on Redis: quorum queues know no x-max-priority. A classic queue has the arguments with
which Dramatiq would declare it, so that a native producer finds it as it expects.

A consumer takes a message by basic.get, when a thread is free for it: with basic.consume the broker would push at least
one message of each level into a worker that is busy. See docs/decisions/0007-dramatiq-on-rabbitmq-by-basic-get.md.

A message is acknowledged as soon as its attempt is claimed. From there on the record has the job, and nothing is left
for RabbitMQ to cut at its consumer_timeout, however long the job runs.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlsplit

import dramatiq
import pika
from dramatiq.brokers import rabbitmq as engine
from pika.exceptions import AMQPError

from queuekit.adapters import BrokerAway
from queuekit.adapters.dramatiq.broker import LEVELS, Broker, Consumer, Fetched, encode, level_queue
from queuekit.adapters.dramatiq.link import Away, Link, describe
from queuekit.adapters.pulling import HEARTBEAT
from queuekit.errors import ConfigError
from queuekit.settings import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.settings import Settings

__all__ = ["RabbitBroker", "RabbitFetched", "url_of"]

log = logging.getLogger("queuekit.dramatiq")

LONGEST_PAUSE: Final = 0.25  # seconds between two looks of a consumer that has found nothing for a while


# ---- the broker ----------------------------------------------------------------------------------------------------


class RabbitBroker(Broker, engine.RabbitmqBroker):
    """`timeout`: seconds for a whole publication, from connecting to the confirmation; for each look of a consumer."""

    def __init__(self, settings: Settings, *, timeout: float, **others: Any) -> None:
        super().__init__(settings, timeout=timeout, url=_plain(cast("str", settings.broker_url)), **others)
        self._parameters = cast("pika.URLParameters", self.parameters)
        self._parameters.connection_attempts, self._parameters.retry_delay = 1, 0
        self._parameters.socket_timeout = self._parameters.stack_timeout = timeout
        self._link: Link | None = None
        self._lock = threading.Lock()
        _brokers.add(self)

    def after_fork(self) -> None:
        """In the child: a lock that another thread held is held for ever, and the connection is the parent's."""
        self._lock = threading.Lock()
        if self._link is not None:
            _inherited.append(self._link)
            self._link = None

    @classmethod
    def publish_timeout(cls, settings: Settings) -> float:
        return settings.enqueue_timeout * 0.9

    def arguments(self, queue: str) -> dict[str, Any]:
        if self.settings.amqp_queues == "quorum":
            return {"x-queue-type": "quorum"}
        return cast("dict[str, Any]", self._build_queue_arguments(queue))

    def open_link(self, until: float, *, confirm: bool, heartbeat: int) -> Link:
        """Raises Away."""
        parameters = copy.copy(self._parameters)
        parameters.heartbeat = heartbeat
        try:
            return Link(parameters, confirm=confirm, until=until)
        except AMQPError as error:
            raise Away(describe(error)) from None

    def close(self) -> None:
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    # ---- publishing -------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[dramatiq.Message[Any]]) -> None:
        for message in messages:
            self.emit_before("enqueue", message, None)
        bodies = [(message.queue_name, encode(message)) for message in messages]
        self._on_link(partial(self._send, bodies), f"did not take {len(bodies)} messages")
        for message in messages:
            self.emit_after("enqueue", message, None)

    def _send(self, bodies: list[tuple[str, bytes]], link: Link, until: float) -> None:
        left = bodies
        while left:  # until `until`, where somebody deletes its queues again and again
            for queue in dict.fromkeys(queue for queue, _ in left):
                link.declare(queue, self.arguments(queue), until)
            missing = link.publish(left, until)
            link.declared.difference_update(missing)  # they were deleted under us
            left = [one for one in left if one[0] in missing]

    def waiting(self, queue: str) -> int:
        count = self._on_link(lambda link, until: link.count(queue, until), "did not answer")
        return cast("int | None", count) or 0  # where there is no such queue yet, nothing waits

    def _on_link(self, use: Callable[[Link, float], Any], otherwise: str) -> Any:
        """By the one connection that publishes. Raises BrokerAway within the timeout."""
        until = time.monotonic() + self.timeout
        if not self._lock.acquire(timeout=self.timeout):
            raise BrokerAway(f"the broker {otherwise}: others wait for it since {self.timeout:g} s")
        try:
            while True:
                fresh = self._link is None or not self._link.usable
                try:
                    if fresh:
                        self._drop()
                        # Nobody reads from it between two publications, so that it could keep no heartbeat.
                        self._link = self.open_link(until, confirm=True, heartbeat=0)
                    return use(cast("Link", self._link), until)
                except (Away, AMQPError) as error:
                    self._drop()
                    if fresh or time.monotonic() >= until:
                        raise BrokerAway(f"the broker {otherwise}: {error}") from error
                    # It was open since the last time, and may have been cut meanwhile: once more, on a new one.
                except BaseException:  # what is asked for on it is not read any more
                    self._drop()
                    raise
        finally:
            self._lock.release()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abandon()

    # ---- consuming --------------------------------------------------------------------------------------------------

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 50) -> dramatiq.Consumer:
        return _Consumer(self, queue_name, timeout / 1000)


_brokers: weakref.WeakSet[RabbitBroker] = weakref.WeakSet()
_inherited: list[Link] = []  # never let go of, which would close what the parent uses


def _after_fork() -> None:
    for broker in list(_brokers):
        broker.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class RabbitFetched(Fetched):
    """`tag` is its delivery's, on the channel that `link` had then. `settled`: whether RabbitMQ was told of its end."""

    def __init__(
        self,
        base: str,
        level: int,
        raw: bytes,
        slot: threading.Semaphore,
        most: int,
        *,
        link: Link,
        channel: Any,
        tag: int,
    ) -> None:
        super().__init__(base, level, raw, slot, most)
        self.link, self.channel, self.tag = link, channel, tag
        self.settled = False

    def claimed(self) -> None:
        self.settle(keep=False)

    def settle(self, *, keep: bool) -> None:
        """Once. Where the connection is gone there is nothing to say: RabbitMQ delivers it again."""
        if self.settled:
            return
        self.settled = True

        def say() -> None:
            if self.channel.is_open:
                if keep:
                    self.channel.basic_nack(self.tag, requeue=True)
                else:
                    self.channel.basic_ack(self.tag)

        self.link.later(say)


class _Consumer(Consumer):
    """Its link is used by Dramatiq's consumer thread alone, and by whoever closes it once that has ended."""

    def __init__(self, broker: RabbitBroker, base: str, pause: float) -> None:
        super().__init__(broker, base, pause)
        self.broker = broker
        self.queues = {level: level_queue(base, level) for level in LEVELS}
        self._nothing = 0  # looks in a row that found nothing
        until = time.monotonic() + broker.timeout
        try:
            self.link = broker.open_link(until, confirm=False, heartbeat=HEARTBEAT)
        except Away as error:
            raise dramatiq.ConnectionClosed(str(error)) from None
        try:
            self._declare(until)
        except (Away, AMQPError) as error:
            self.link.abandon()
            raise dramatiq.ConnectionClosed(describe(error)) from None

    def _declare(self, until: float) -> None:
        for queue in self.queues.values():
            self.link.declare(queue, self.broker.arguments(queue), until)

    def fetch(self) -> Fetched | None:
        until = time.monotonic() + self.broker.timeout
        try:
            for level, queue in self.queues.items():
                found = self._take(queue, until)
                if found is not None:
                    self._nothing = 0
                    tag, raw = found
                    slots, most, link = self.broker.slots, self.broker.settings.doorbell_limit, self.link
                    return RabbitFetched(self.base, level, raw, slots, most, link=link, channel=link.channel, tag=tag)
        except (Away, AMQPError) as error:
            raise dramatiq.ConnectionClosed(describe(error)) from None
        self._nothing += 1
        return None

    def _take(self, queue: str, until: float) -> tuple[int, bytes] | None:
        # To get nothing out of a quorum queue is an entry in its log; to ask how much there is, is not.
        if self._nothing:
            waiting = self.link.count(queue, until)
            if waiting is None:  # somebody has deleted it
                self.link.declared.discard(queue)
                self._declare(until)
            if not waiting:
                return None
        return self.link.get(queue, until)

    def rest(self, seconds: float) -> None:
        pause = min(seconds * max(1, self._nothing // 4), max(seconds, LONGEST_PAUSE))
        until = time.monotonic() + pause
        while True:
            self.link.run(max(0.0, until - time.monotonic()))
            if not self.link.usable:
                raise dramatiq.ConnectionClosed(describe(self.link.error or self.link.why))
            if time.monotonic() >= until:
                return

    def settle(self, message: Fetched) -> None:
        assert isinstance(message, RabbitFetched)
        message.settle(keep=message.keep)

    def close(self) -> None:
        self.link.close()


def _plain(url: str) -> str:
    """pika reads an empty virtual host where kombu and RabbitMQ's own tools mean "/"."""
    try:
        parts = urlsplit(url)
        if parts.path in {"", "/", "//"}:
            parts = parts._replace(path="/%2F")
        pika.URLParameters(parts.geturl())
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"broker_url={redact(url)!r} cannot be read: {error}; give amqp://USER:PASSWORD@HOST:PORT/VHOST"
        ) from None
    return parts.geturl()


# ---- the user's own ------------------------------------------------------------------------------------------------


def url_of(broker: engine.RabbitmqBroker) -> str | None:
    """Where the user's broker connects to, as a URL; None where one URL cannot say it (several nodes, a TLS context of
    its own, credentials that are no password). Makes no connection."""
    asked = broker.parameters
    if isinstance(asked, list):
        if len(asked) != 1:
            return None
        asked = asked[0]
    credentials = asked.credentials
    if not isinstance(credentials, pika.PlainCredentials):
        return None
    if asked.ssl_options is not None and not isinstance(asked, pika.URLParameters):
        return None
    scheme = "amqp" if asked.ssl_options is None else "amqps"
    login = f"{quote(credentials.username, safe='')}:{quote(credentials.password, safe='')}"
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    return f"{scheme}://{login}@{host}:{asked.port}/{quote(asked.virtual_host, safe='')}"
