from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit import JobCancelled
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Task
    from queuekit.testing.bench import Bench, WorkerBench


class TestC11:
    """A cancelled job that has not started never starts; a running one is told. No retry."""

    clause = "C11"

    def test_before_it_starts(self, bench: Bench) -> None:
        job = tasks.add.options(delay=0.5).enqueue(1)
        assert job.cancel("not needed")
        assert job.status() == "cancelled"
        with pytest.raises(JobCancelled, match="not needed"):
            job.result(timeout=0)
        bench.ended(tasks.add.options(delay=1.0).enqueue(1))
        assert not bench.journal.entries(job.id)
        assert not job.cancel()

    def test_while_it_is_in_the_broker(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        job = tasks.add.enqueue(1)
        assert job.cancel()
        bench.start_worker()
        bench.settle()
        assert not bench.journal.entries(job.id)
        assert job.info().attempts == ()

    def test_between_two_attempts(self, bench: Bench) -> None:
        job = tasks.without_policy.enqueue(["retry-after:0.5"])
        bench.until(lambda: job.status() == "retrying", "the job waits")
        assert job.cancel()
        bench.ended(tasks.add.options(delay=1.0).enqueue(1))
        assert [one.outcome for one in job.info().attempts] == ["retried"]

    @pytest.mark.parametrize("task", [tasks.sleep_async, tasks.cooperative], ids=["async", "sync"])
    def test_while_it_runs(self, workers: WorkerBench, task: Task[..., Any, Any]) -> None:
        job = task.enqueue(15.0)
        workers.started(job)
        asked = workers.app.store.now()
        assert job.cancel("changed my mind")
        info = workers.ended(job, within=2 + SLACK + 4)
        assert info.status == "cancelled"
        assert info.finished_at is not None
        assert info.finished_at.timestamp() - asked <= 2 + SLACK
        assert not workers.journal.entries(job.id, "end")
        with pytest.raises(JobCancelled, match="changed my mind"):
            job.result(timeout=0)

    def test_too_late(self, bench: Bench) -> None:
        job = tasks.add.enqueue(1)
        bench.ended(job)
        assert not job.cancel()
        assert job.result(timeout=0) == 2
