from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import JobCancelled
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK
from queuekit.testing.model import SilentModel
from queuekit.testing.process import living

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

    def test_the_endpoint_sees_its_call_closed(self, workers: WorkerBench) -> None:
        """That of a running async job, and of a blocking one where a pool can interrupt it. It is not asked again."""
        calls: list[Task[..., Any, Any]] = [tasks.ask_model_async]
        if workers.target.pool.interrupts_sync:
            calls.append(tasks.ask_model)
        with SilentModel() as model:
            for task in calls:
                took: list[float] = []
                while not took or (took[-1] > 2.0 and len(took) < 3):  # a busy machine may be late, and not each time
                    took.append(self._cancel_call(workers, model, task))
                assert took[-1] <= 2.0, f"{task.name}: {took} s"

    def _cancel_call(self, workers: WorkerBench, model: SilentModel, task: Task[..., Any, Any]) -> float:
        """How many seconds after the cancel the endpoint sees the end of the connection."""
        job = task.enqueue(model.port)
        workers.until(lambda: job.id in model.asked, "the model was asked")
        at = time.monotonic()
        assert job.cancel("too dear")
        workers.until(lambda: job.id in model.closed, "its connection is closed")
        info = workers.ended(job)
        assert (info.status, [one.outcome for one in info.attempts]) == ("cancelled", ["cancelled"])
        with pytest.raises(JobCancelled, match="too dear"):
            job.result(timeout=0)
        return model.closed[job.id] - at

    def test_what_does_not_listen(self, workers: WorkerBench) -> None:
        """Synchronous code is ended with its child process. Where there is none it goes on, and its result counts."""
        if not workers.target.pool.processes:
            job = tasks.deaf.enqueue(2.0)
            workers.started(job)
            assert job.cancel("enough")
            assert workers.ended(job).status == "succeeded"
            return
        job = tasks.deaf.enqueue(60.0)
        pid = workers.started(job).pid
        assert job.cancel("enough")
        info = workers.ended(job, within=2 + 3 + SLACK)
        assert (info.status, [one.outcome for one in info.attempts]) == ("cancelled", ["cancelled"])
        workers.until(lambda: not living([pid]), "its process is gone")
        with pytest.raises(JobCancelled, match="enough"):
            job.result(timeout=0)
        assert tasks.add.enqueue(1).result(timeout=20) == 2
        assert [entry.event for entry in workers.journal.entries(job.id)] == ["start", "swallowed"]

    def test_too_late(self, bench: Bench) -> None:
        job = tasks.add.enqueue(1)
        bench.ended(job)
        assert not job.cancel()
        assert job.result(timeout=0) == 2
