"""Slow is not dead: a job that outlasts whatever the engine knows of its worker, while others come and clean up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench

LONG = 26.0  # seconds: RQ forgets a worker after 17 that has not told it of itself


def test_a_job_that_its_engine_has_forgotten_runs_once(new_bench: Callable[..., WorkerBench]) -> None:
    bench = new_bench()
    bench.start_worker(concurrency=1)
    job = tasks.sleep.enqueue(LONG)
    bench.started(job)
    time.sleep(LONG - 6.0)
    bench.start_worker()  # whose engine looks first for what dead workers have left
    assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
    bench.settle()
    assert len(bench.journal.entries(job.id, "start")) == 1
