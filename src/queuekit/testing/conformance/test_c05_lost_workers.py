from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import LEASE, SLACK
from queuekit.testing.report import NOT_APPLICABLE

if TYPE_CHECKING:
    from queuekit import Task
    from queuekit.testing.bench import WorkerBench


class TestC5:
    """A killed worker's jobs are published again: within 2 s, or within the lease + 2 s where its steward died too."""

    clause = "C5"

    @pytest.mark.parametrize("task", [tasks.sleep, tasks.sleep_async], ids=["sync", "async"])
    def test_the_parent_is_killed(self, workers: WorkerBench, task: Task[..., Any, Any]) -> None:
        job = task.enqueue(1.5)
        workers.started(job)
        killed = workers.app.store.now()
        workers.worker.kill()
        workers.until(lambda: job.info().attempts[0].outcome == "lost", "the attempt is ended", within=2 + SLACK)
        workers.until(lambda: job.status() == "queued", "the job is published again", within=2 + SLACK)
        ended = job.info().attempts[0].ended_at
        assert ended is not None
        assert ended.timestamp() - killed <= 2.0 + SLACK
        workers.ensure_worker()
        assert [one.outcome for one in workers.ended(job).attempts] == ["lost", "succeeded"]
        assert job.result(timeout=0) == "slept"

    def test_all_of_the_worker_is_killed(self, workers: WorkerBench) -> None:
        """As when the machine goes: nobody is left to tell, the lease does."""
        job = tasks.sleep.enqueue(1.5)
        workers.started(job)
        workers.worker.kill_all()
        killed = workers.app.store.now()
        workers.start_worker(ready=False)
        workers.started(job, attempt=2, within=2 * LEASE + 2 + SLACK + 5)
        info = workers.ended(job)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        ended = info.attempts[0].ended_at
        assert ended is not None
        assert ended.timestamp() - killed <= 2 * LEASE + 2.0 + SLACK  # nothing is reaped in the first lease after a gap

    def test_a_child_is_killed(self, workers: WorkerBench) -> None:
        """The parent lives on, and its other jobs do not notice."""
        if not workers.target.pool.processes:
            pytest.skip(NOT_APPLICABLE + f"the pool {workers.target.pool_name!r} has no child processes")
        parent = workers.worker.pid
        job = tasks.sleep.enqueue(1.5)
        os.kill(workers.started(job).pid, signal.SIGKILL)
        workers.until(lambda: job.info().attempts[0].outcome == "lost", "the attempt is ended", within=2 + SLACK)
        assert [one.outcome for one in workers.ended(job).attempts] == ["lost", "succeeded"]
        assert (workers.worker.pid, workers.worker.exit_code) == (parent, None)

    def test_the_steward_is_killed(self, workers: WorkerBench) -> None:
        """Its worker starts another one: a retry needs it."""
        os.kill(workers.worker.stewards()[0], signal.SIGKILL)
        job = tasks.follow.enqueue(["connection"])
        assert [one.outcome for one in workers.ended(job).attempts] == ["retried", "succeeded"]
        assert len(workers.worker.stewards()) == 1
