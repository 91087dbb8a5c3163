"""The rows of the compile report for Dramatiq, with the options of the actor and of a message for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queuekit.adapters import ASYNC
from queuekit.adapters.aio import on_one_loop
from queuekit.adapters.caps import cap_rows
from queuekit.adapters.dramatiq.worker import THREADS
from queuekit.adapters.report import Level, sample
from queuekit.message import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuekit.adapters import Pool
    from queuekit.adapters.dramatiq import DramatiqAdapter
    from queuekit.adapters.report import Row
    from queuekit.task import Task

__all__ = ["compile_rows"]


def compile_rows(
    adapter: DramatiqAdapter, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]
) -> Iterator[Row]:
    sent = adapter._compile(sample(task, adapter.settings, adapter.name))
    actor = adapter.native(task)
    queue = {"actor.queue_name": actor.queue_name, "message.queue_name": sent.queue_name}

    def option(name: str) -> dict[str, Any]:
        return {
            f"{where}.options.{name}": options[name]
            for where, options in (("actor", actor.options), ("message", sent.options))
            if name in options
        }

    yield rows["queue"].native(f"the Dramatiq queue {sent.queue_name}: one for each queue and priority level", queue)
    yield rows["priority"].also(
        "a Dramatiq queue for each level, of which a worker looks into the highest first",
        {**queue, "actor.priority": actor.priority},
    )
    yield rows["id"].also("", {"message.message_id": sent.message_id})
    if rows["arguments"].level is not Level.refused:
        yield rows["arguments"].also("", {"message.args": list(sent.args), "message.kwargs": sent.kwargs})
    if rows["retry"].level is not Level.refused:
        yield rows["retry"].also("", option("max_retries"))
    if "wait" in rows:
        yield rows["wait"].also("Dramatiq is told a Retry, and acknowledges the message", option("eta"))
    yield rows["timeout"].also(
        "Dramatiq's own limit is not armed" if sent.options.get("time_limit") else "", option("time_limit")
    )
    if (adapter.settings.broker_url or "").startswith("amqp"):
        acknowledged = "acknowledged when its attempt is claimed, so that no consumer_timeout cuts it"
    else:
        acknowledged = "Dramatiq acknowledges after the actor, whose outcome is in the record by then"
    yield rows["late_ack"].native(f"{acknowledged}; a message that comes again is dropped", {})
    yield rows["private"].also("", {"message.options.queuekit.private": sent.options[HEADER]["private"]})
    if pool.name == ASYNC:
        yield on_one_loop(rows["concurrency"], adapter.settings)
        return
    threads = adapter.settings.concurrency or THREADS
    yield from cap_rows(task, adapter.settings, kept=adapter.threads_are_ours, at_a_time=threads)
    if adapter.threads_are_ours:
        said = f"a thread of queuekit's for each of {threads} jobs at a time; Dramatiq's own do not run"
        yield replace(rows["concurrency"], level=Level.emulated, becomes=said)
    else:
        yield rows["concurrency"].native("a thread for each job", {"worker.worker_threads": threads})
