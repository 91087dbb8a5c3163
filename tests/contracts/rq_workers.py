"""How the contracts run RQ's own workers: in this process, whose signals they leave as they were."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from rq.serializers import JSONSerializer

if TYPE_CHECKING:
    import redis
    from rq.worker import BaseWorker


def run_all(connection: redis.Redis, worker_class: type[BaseWorker], queue: str = "q", **options: Any) -> None:
    worker = worker_class([queue], connection=connection, serializer=JSONSerializer, **options)
    worker.subscribe = lambda: None  # type: ignore[method-assign]
    worker.unsubscribe = lambda: None  # type: ignore[method-assign]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        worker.work(burst=True, logging_level="CRITICAL")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
