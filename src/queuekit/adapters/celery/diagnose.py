"""For `queuekit doctor`: the user's Celery app, and what RabbitMQ does to its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from queuekit.adapters import consumer_timeout
from queuekit.adapters.celery.check import check
from queuekit.adapters.celery.tasks import DoorbellTask
from queuekit.adapters.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.adapters.celery import CeleryAdapter

__all__ = ["diagnose"]

PREFETCH: Final = "worker_prefetch_multiplier"


def diagnose(adapter: CeleryAdapter) -> Iterator[Finding]:
    if not adapter.broker.is_redis:
        yield consumer_timeout.about_ours()
    if adapter.own:
        yield Finding("prefetch", Severity.ok, "Celery takes one message for each process or thread")
        return
    app = adapter.app
    url = _broker_of(app)
    if url.startswith(("amqp", "pyamqp")):
        app.loader.import_default_modules()  # as its worker does: only then all of its tasks are known
        yield from consumer_timeout.about_native(url, dict(_held(app)))
    found = check(app)
    if not any(one.setting == PREFETCH for one in found):
        yield Finding(
            "prefetch", Severity.ok, f"the Celery app takes one message for each process or thread ({PREFETCH}=1)"
        )
    if all(one.setting == PREFETCH for one in found):
        yield Finding("app-settings", Severity.ok, "no setting of the Celery app stands against a promise")
    for one in found:
        yield Finding(
            "prefetch" if one.setting == PREFETCH else "app-settings",
            Severity.error if one.fatal else Severity.warning,
            f"the Celery app has {one.setting}={one.value!r}",
            one.why,
            one.line,
        )


def _broker_of(app: Any) -> str:
    found = app.conf.broker_read_url or app.conf.broker_url or "amqp://"  # which is Celery's default
    return found if isinstance(found, str) else str(next(iter(found), ""))


def _held(app: Any) -> Iterator[tuple[str, float | None]]:
    """Native tasks that are acknowledged when they have run, with their hard limits."""
    for name, task in app.tasks.items():
        if name.startswith("celery.") or isinstance(task, DoorbellTask) or not task.acks_late:
            continue
        limit = task.time_limit or app.conf.task_time_limit
        yield name, None if limit is None else float(limit)
