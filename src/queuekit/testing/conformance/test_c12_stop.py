from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import SLACK
from queuekit.testing.process import living

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Task
    from queuekit.testing.bench import WorkerBench

GRACE = 2.0


class TestC12:
    """SIGTERM: no new jobs; running ones end within the grace period, or are stopped and handed back."""

    clause = "C12"

    def test_an_idle_worker_ends(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(grace=GRACE)
        worker = bench.start_worker()
        worker.terminate()
        assert worker.wait(GRACE + 5 + SLACK) == 0
        bench.until(lambda: not worker.family(), "all its processes have ended", within=10)

    def test_running_jobs_end_and_waiting_ones_stay(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(grace=10.0, concurrency=1)
        worker = bench.start_worker()
        running = tasks.sleep.enqueue(1.5)
        bench.started(running)
        waiting = [tasks.add.enqueue(n) for n in range(3)]
        worker.terminate()
        assert worker.wait(10 + 5 + SLACK) == 0
        assert [one.outcome for one in running.info().attempts] == ["succeeded"]
        assert [job.status() for job in waiting] == ["queued"] * 3
        bench.start_worker()
        assert [job.result(timeout=20) for job in waiting] == [1, 2, 3]
        assert [len(job.info().attempts) for job in waiting] == [1, 1, 1]

    @pytest.mark.parametrize("task", [tasks.spin, tasks.sleep_async], ids=["sync", "async"])
    def test_what_does_not_end_is_handed_back(
        self, new_bench: Callable[..., WorkerBench], task: Task[..., Any, Any]
    ) -> None:
        """The attempt does not count."""
        bench = new_bench(grace=1.0)
        worker = bench.start_worker()
        job = task.enqueue(4.0)
        bench.started(job)
        worker.terminate()
        assert worker.wait(1 + 5 + SLACK) == 0
        info = job.info()
        assert (info.status, [one.outcome for one in info.attempts]) == ("queued", ["released"])
        bench.start_worker()
        info = bench.ended(job)
        assert [(one.number, one.outcome) for one in info.attempts] == [(1, "released"), (1, "succeeded")]

    @pytest.mark.parametrize("task", [tasks.sleep, tasks.stubborn], ids=["blocking", "stubborn"])
    def test_three_signals_in_a_row(self, new_bench: Callable[..., WorkerBench], task: Task[..., Any, Any]) -> None:
        """They are no crash, whatever runs: the attempt is handed back, and nothing is left of the worker."""
        bench = new_bench(grace=GRACE)
        worker = bench.start_worker()
        job = task.enqueue(60.0)
        bench.started(job)
        family = worker.family()
        worker.terminate(times=3)
        assert worker.wait(GRACE + 5 + SLACK) == 0
        info = job.info()
        assert (info.status, [one.outcome for one in info.attempts]) == ("queued", ["released"])
        assert not bench.journal.entries(job.id, "end")
        bench.until(lambda: not worker.family(), "all its processes have ended", within=5)
        bench.until(lambda: not living(family), "none of them is left", within=5)

    def test_a_signal_to_all_processes_leaves_the_grace(self, new_bench: Callable[..., WorkerBench]) -> None:
        """systemd's default, and Ctrl-C in a terminal: children get what is meant for the worker."""
        bench = new_bench(grace=10.0)
        worker = bench.start_worker()
        job = tasks.sleep.enqueue(1.5)
        bench.started(job)
        worker.terminate_all()
        assert worker.wait(10 + 5 + SLACK) == 0
        assert [one.outcome for one in job.info().attempts] == ["succeeded"]
        bench.until(lambda: not worker.family(), "all its processes have ended", within=5)
