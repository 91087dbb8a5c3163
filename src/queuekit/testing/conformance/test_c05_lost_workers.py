from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import LEASE, SLACK
from queuekit.testing.process import send
from queuekit.testing.report import NOT_APPLICABLE
from queuekit.worker import FIRST_LEASE

if TYPE_CHECKING:
    from queuekit import Task
    from queuekit.testing.bench import WorkerBench


STARTS = 4.0  # seconds in which a worker starts on a busy machine


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
        workers.started(job, attempt=2, within=2 * LEASE + 2 + SLACK + STARTS + 2)
        info = workers.ended(job)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        ended = info.attempts[0].ended_at
        assert ended is not None
        # Nothing is reaped in the first lease after a gap, which lasts until the next worker has started.
        assert ended.timestamp() - killed <= 2 * LEASE + 2.0 + SLACK + STARTS

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

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=["segfault", "abort"])
    def test_the_process_that_runs_it_crashes(self, workers: WorkerBench, number: signal.Signals) -> None:
        """A child, or the worker itself where that runs the jobs."""
        job = tasks.sleep.enqueue(1.5)
        entry = workers.started(job)
        os.kill(entry.pid, number)
        workers.until(lambda: job.info().attempts[0].outcome == "lost", "the attempt is ended", within=2 + SLACK)
        if entry.pid == workers.worker.pid:
            workers.worker.wait(10)
        workers.ensure_worker()
        assert [one.outcome for one in workers.ended(job).attempts] == ["lost", "succeeded"]

    def test_a_child_is_killed_while_there_is_no_steward(self, workers: WorkerBench) -> None:
        """The next steward learns from the record which processes ran attempts."""
        if not workers.target.pool.processes:
            pytest.skip(NOT_APPLICABLE + f"the pool {workers.target.pool_name!r} has no child processes")
        job = tasks.sleep.enqueue(1.5)
        entry = workers.started(job)
        send(signal.SIGKILL, *workers.worker.stewards(), entry.pid)
        workers.until(
            lambda: job.info().attempts[0].outcome == "lost", "the attempt is ended", within=LEASE + 2 + SLACK
        )
        assert [one.outcome for one in workers.ended(job).attempts] == ["lost", "succeeded"]
        assert workers.worker.exit_code is None

    def test_a_worker_takes_nothing_while_its_steward_does_not_beat(self, workers: WorkerBench) -> None:
        """What it took would be lost after a lease. It goes on by itself."""
        stewards = workers.worker.stewards()
        send(signal.SIGSTOP, *stewards)
        time.sleep(max(LEASE, FIRST_LEASE) + 0.5)  # on a busy machine it has not beaten yet, and the first lease lasts
        job = tasks.add.enqueue(1)
        time.sleep(1.0)
        assert not workers.journal.entries(job.id)
        send(signal.SIGCONT, *stewards)
        assert [one.outcome for one in workers.ended(job).attempts] == ["succeeded"]

    def test_the_steward_is_killed(self, workers: WorkerBench) -> None:
        """Its worker starts another one: a retry needs it."""
        os.kill(workers.worker.stewards()[0], signal.SIGKILL)
        job = tasks.follow.enqueue(["connection"])
        assert [one.outcome for one in workers.ended(job).attempts] == ["retried", "succeeded"]
        assert len(workers.worker.stewards()) == 1
