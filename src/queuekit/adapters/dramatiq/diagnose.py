"""For `queuekit doctor`: the actors of the user's own broker, and how much their workers take ahead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from dramatiq.middleware import TimeLimit

from queuekit.adapters import consumer_timeout
from queuekit.adapters.dramatiq.beside import url_of_broker
from queuekit.adapters.findings import Finding, Severity
from queuekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dramatiq

    from queuekit.settings import Settings

__all__ = ["diagnose"]

PREFETCH: Final = "dramatiq_queue_prefetch"
MOST: Final = 64  # messages; Dramatiq's own is twice its threads, of which it has 8 by default


def diagnose(settings: Settings, user_broker: dramatiq.Broker | None) -> Iterator[Finding]:
    if (settings.broker_url or "").startswith("amqp"):
        yield consumer_timeout.about_ours()
    if user_broker is None:
        yield Finding("prefetch", Severity.ok, "a thread takes a message when it is free for it, and none ahead")
        return
    if any(kind.__module__ == "dramatiq.brokers.rabbitmq" for kind in type(user_broker).__mro__):
        try:
            url = url_of_broker(user_broker)
        except ConfigError:  # several nodes
            url = "amqp://several"
        yield from consumer_timeout.about_native(url, dict(_held(user_broker)))
    yield _prefetch()


def _prefetch() -> Finding:
    said = os.environ.get(PREFETCH, "")
    if said.isdigit() and int(said) > MOST:
        return Finding(
            "prefetch",
            Severity.warning,
            f"{PREFETCH}={said} in the environment: a worker takes so many native messages of a queue ahead",
            "they wait in one worker while others have nothing to do, and when it dies they come back a minute later, "
            "or on RabbitMQ when its connection is seen to be gone; queuekit's jobs are taken one by one",
            f"leave {PREFETCH} out: it is twice the threads then",
        )
    return Finding("prefetch", Severity.ok, "native actors take little ahead, by this environment, and queuekit's none")


def _held(broker: Any) -> Iterator[tuple[str, float | None]]:
    """Dramatiq acknowledges when an actor has run. Its limits are milliseconds, ten minutes by default."""
    usual = next((one.time_limit for one in broker.middleware if isinstance(one, TimeLimit)), None)
    for name, actor in broker.actors.items():
        limit = None if usual is None else actor.options.get("time_limit", usual)
        yield name, limit / 1000 if limit and limit < float("inf") else None
