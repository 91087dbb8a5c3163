"""How we talk to Redis where nobody may be kept waiting: try once, and within a known time."""

from __future__ import annotations

from typing import Any

__all__ = ["one_try"]


def one_try(timeout: float) -> dict[str, Any]:
    """Options for redis-py, which by default waits 5 s and tries 10 times.

    `timeout`: seconds for connecting, and for an answer each. Protocol 2 has no greeting whose answer would be waited
    for as well.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
