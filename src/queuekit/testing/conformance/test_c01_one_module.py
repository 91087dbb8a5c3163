from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import WorkerBench

if TYPE_CHECKING:
    from queuekit import Task
    from queuekit.testing.bench import Bench


class TestC1:
    """One task module runs unchanged on every backend; a setting alone names it."""

    clause = "C1"

    @pytest.mark.parametrize("task", [tasks.add, tasks.add_async], ids=["sync", "async"])
    def test_a_task_runs(self, bench: Bench, task: Task[..., Any, Any]) -> None:
        job = task.enqueue(2, b=3)
        assert job.result(timeout=20) == 5
        info = job.info()
        assert (info.status, info.task, info.backend) == ("succeeded", task.name, bench.target.backend)

    def test_it_ran_where_the_backend_runs_things(self, bench: Bench) -> None:
        job = tasks.look_at_own_record.enqueue()
        pid = job.result(timeout=20)["pid"]
        if isinstance(bench, WorkerBench):
            assert pid != os.getpid()
            assert pid != bench.worker.pid or not bench.target.pool.processes
        else:
            assert pid == os.getpid()

    def test_from_a_loop(self, bench: Bench) -> None:
        async def enqueue_and_wait() -> int:
            job = await tasks.add_async.aenqueue(20, 22)
            return await job.aresult(timeout=20)

        assert asyncio.run(enqueue_and_wait()) == 42

    def test_a_plain_call_runs_here(self, bench: Bench) -> None:
        assert tasks.add(2, 2) == 4
        last = bench.journal.entries()[-1]
        assert (last.job, last.attempt, last.pid) == ("", 0, os.getpid())

    def test_many_at_once(self, bench: Bench) -> None:
        jobs = tasks.add.enqueue_many([(n, n) for n in range(20)])
        assert [job.result(timeout=30) for job in jobs] == [2 * n for n in range(20)]

    def test_another_queue(self, bench: Bench) -> None:
        job = tasks.elsewhere.enqueue()
        assert job.result(timeout=20) == "other queue"
        assert job.info().queue == "conformance-other"

    @pytest.mark.parametrize("priority", [0, 4, 9])
    def test_each_priority_is_served(self, bench: Bench, priority: int) -> None:
        job = tasks.add.options(priority=priority).enqueue(1)
        assert job.result(timeout=20) == 2

    def test_the_native_task_can_be_had_more_than_once(self, bench: Bench) -> None:
        assert tasks.add.native is not None
        assert tasks.add.native is not None
        assert tasks.add_async.native is not None
