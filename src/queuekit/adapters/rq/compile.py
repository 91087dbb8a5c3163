"""The rows of the compile report for RQ, with the fields of the RQ job that a publication is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queuekit.adapters import ASYNC
from queuekit.adapters.aio import on_one_loop
from queuekit.adapters.report import Level, sample
from queuekit.message import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuekit.adapters import Pool
    from queuekit.adapters.report import Row
    from queuekit.adapters.rq import RqAdapter
    from queuekit.task import Task

__all__ = ["compile_rows"]


def compile_rows(adapter: RqAdapter, task: Task[..., Any, Any], pool: Pool, rows: Mapping[str, Row]) -> Iterator[Row]:
    publication = sample(task, adapter.settings, adapter.name)
    job = adapter._job(publication, adapter.client)
    queue = adapter._queue(publication.message.route, adapter.client)
    name = {"queue.name": queue.name}

    def option(*names: str) -> dict[str, Any]:
        return {f"job.{name}": getattr(job, name) for name in names}

    yield rows["queue"].native(f"the RQ queue {queue.name}: one for each queue and priority level", name)
    yield rows["priority"].also("an RQ queue for each level, of which a worker serves the highest first", name)
    yield rows["id"].also("", option("id"))
    if rows["arguments"].level is not Level.refused:
        serializer = getattr(job.serializer, "__name__", str(job.serializer))
        yield rows["arguments"].also("", {**option("args", "kwargs", "description"), "job.serializer": serializer})
    if rows["retry"].level is not Level.refused:
        yield rows["retry"].also("", option("retries_left"))
    if "wait" in rows:
        yield rows["wait"].also("RQ is told of a failure with its traceback, and of a new job when it is due", {})
    limit = rows["timeout"]
    if task.timeout is not None:
        if not pool.processes:
            limit = limit.also("RQ's own limit is not armed", {})
        else:
            yield rows["overrun"].also("RQ's worker kills the horse too", {})
    yield limit.also("", option("timeout"))
    carried = (
        "RQ pops a message when it takes it; the record carries the job, and a message that comes again is dropped"
    )
    yield replace(rows["late_ack"], becomes=carried)
    yield rows["result"].also("RQ keeps a copy for its monitors", option("result_ttl"))
    yield rows["private"].also("", {"job.meta.queuekit.private": job.meta[HEADER]["private"]})
    if pool.name == ASYNC:
        yield on_one_loop(rows["concurrency"], adapter.settings)
        return
    each = "a process is forked for each job" if pool.processes else "a job runs in the worker's own process"
    many = adapter.settings.concurrency or 1
    workers = "one RQ worker" if many == 1 else f"{many} RQ workers, each a process, started and watched by queuekit"
    yield replace(rows["concurrency"], level=Level.emulated, becomes=f"{workers}; {each}", remedy="")
