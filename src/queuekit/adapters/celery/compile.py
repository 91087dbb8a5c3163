"""The rows of the compile report for Celery, with the options of the Celery task and of a message for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from queuekit.adapters import ASYNC
from queuekit.adapters.aio import on_one_loop
from queuekit.adapters.caps import cap_rows
from queuekit.adapters.celery.check import check
from queuekit.adapters.report import Level, Row, sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuekit.adapters import Pool
    from queuekit.adapters.celery import CeleryAdapter
    from queuekit.task import Task

__all__ = ["compile_rows"]


def compile_rows(
    adapter: CeleryAdapter, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]
) -> Iterator[Row]:
    broker = adapter.broker
    queue: Any  # kombu has no types
    queue, _, sent = broker._native(sample(task, adapter.settings, adapter.name))
    native = adapter.native(task)

    def message(*names: str) -> dict[str, Any]:
        return {f"message.{name}": _find(sent, name) for name in names}

    def option(*names: str) -> dict[str, Any]:
        return {f"task.{name}": getattr(native, name) for name in names}

    place = {"queue.name": queue.name}
    if queue.queue_arguments:
        place["queue.queue_arguments"] = queue.queue_arguments
    yield rows["queue"].native(f"the Celery queue {queue.name}", place)
    if broker.queue_per_level:
        priority = rows["priority"].also("a Celery queue for each level", {})
    else:
        priority = rows["priority"].native(rows["priority"].becomes, {}).also("kombu's own 0 is the highest", {})
    yield priority.also("", {**place, **message("priority")})
    yield rows["id"].also("", message("headers.id", "headers.root_id", "correlation_id"))
    if rows["arguments"].level is not Level.refused:
        yield rows["arguments"].also("", message("content_type", "headers.argsrepr", "headers.kwargsrepr"))
    if rows["retry"].level is not Level.refused:
        yield rows["retry"].also("", {**option("max_retries"), **message("headers.retries")})
    if "wait" in rows:
        yield rows["wait"].also(
            "Celery is told a retry by its state RETRY, and sends nothing", message("headers.eta", "headers.expires")
        )
    limit = rows["timeout"]
    if task.timeout is not None and pool.processes:
        yield rows["overrun"].also("Celery kills the child too", {})
    yield limit.also("", {**option("time_limit"), **message("headers.timelimit")})
    yield rows["soft_timeout"].also("", option("soft_time_limit"))
    if broker.queue_per_level and pool.name == ASYNC:
        acknowledged = "when its attempt is claimed; the record carries the job from there on"
    elif broker.queue_per_level:
        acknowledged = "when a process or thread takes the message up; the record carries the job from there on"
    elif pool.name == ASYNC and not adapter.async_by_link:
        acknowledged = "when it is taken: many are popped at a time, and the record carries the jobs from there on"
    elif not broker.keeps_books:
        acknowledged = "when it is taken: the record carries the job from there on"
    else:
        acknowledged = "after the task, whose outcome is in the record by then; a message that comes again is dropped"
    yield rows["late_ack"].native(
        acknowledged,
        option("acks_late", "acks_on_failure_or_timeout", "reject_on_worker_lost"),
    )
    yield rows["result"].also(
        "Celery's result backend gets it too, under the job's id"
        if adapter.settings.celery_result
        else "Celery's own result backend gets none",
        option("ignore_result"),
    )
    yield rows["private"].also("", message("headers.queuekit.private"))
    if pool.name == ASYNC:
        yield on_one_loop(rows["concurrency"], adapter.settings)
    elif rows["concurrency"].level is not Level.degraded:
        each = "a process" if pool.processes else "a thread"
        how = f"{each} for each job" if pool.concurrent else "one job at a time"
        yield rows["concurrency"].native(
            f"the pool {pool.name}: {how}"
            + ("" if adapter.settings.concurrency or not pool.concurrent else ", one a CPU"),
            {"worker.pool": pool.name},
        )
    if pool.name == ASYNC and adapter.async_by_link:
        yield from cap_rows(task, adapter.settings, kept=False, at_a_time=None)
    elif pool.name == "solo":
        yield from cap_rows(task, adapter.settings, kept=False, at_a_time=1)
    if not adapter.own:
        for one in check(adapter.app):
            level = Level.refused if one.fatal else Level.degraded
            yield Row(f"app.{one.setting}", repr(one.value), level, one.why, "", one.line)


def _find(sent: Any, name: str) -> Any:
    for part in name.split("."):
        sent = sent[part]
    return sent
