"""Celery's events, sent while somebody listens: they are half of what Celery's parent process does for a short job, and
most deployments have no monitor. Redis says whether it has a listener."""

from __future__ import annotations

import time
from typing import Any, Final

from celery.events.dispatcher import EventDispatcher, group_from
from kombu.transport.redis import Channel
from redis.exceptions import NoPermissionError

__all__ = ["Dispatcher"]

ASK: Final = 2.0  # seconds between two questions: a monitor that has just come learns of no earlier tasks anyway


class Dispatcher(EventDispatcher):  # type: ignore[misc]  # Celery has no types
    _asked, _heard = -ASK, True
    _forbidden = False

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        if group_from(type) == "task":
            now = time.monotonic()
            if now - self._asked >= ASK and not self._forbidden:
                self._asked, self._heard = now, self._listened_to()
            if not self._heard:
                return None
        return super().send(type, *args, **fields)

    def _listened_to(self) -> bool:
        """By a pattern, as all of Celery's receivers do. True where it cannot be told."""
        try:
            connection: Any = self.connection
            channel = self.channel or connection.default_channel
            return not isinstance(channel, Channel) or _has_pattern(channel)
        except NoPermissionError:  # then as Celery does, and the server's log of refusals is not filled
            self._forbidden = True
            return True
        except Exception:  # the broker is away: what is sent next says so
            return True


def _has_pattern(channel: Any) -> bool:
    """By the connection that publishes. kombu has opened another one, to take messages with, which nobody does here."""
    with channel.conn_or_acquire() as client:
        heard: bool = client.pubsub_numpat() > 0
    channel.async_pool.disconnect(inuse_connections=False)
    return heard
