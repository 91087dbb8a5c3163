"""Code that swallows its hard limit: where a pool has child processes, the child is ended, by itself or by its engine. The
compile report says so ("Celery kills the child too", "RQ's worker kills the horse too")."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuekit import agent_task
from queuekit.retry import Category
from queuekit.testing import tasks
from queuekit.testing.bench import TASKS, WorkerBench
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from queuekit.testing import plugin

ELSEWHERE = """
import os, time
from pathlib import Path
from queuekit import RetryPolicy, agent_task

@agent_task(name="test_backstop.stubborn", timeout=1, retry=RetryPolicy(max_attempts=1))
def stubborn(said: str) -> None:
    Path(said).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


@agent_task(name="test_backstop.stubborn", timeout=1)
def stubborn(said: str) -> None: ...  # as the worker has it, by the same name


@pytest.mark.parametrize(
    "target", [one for one in find_targets() if one.name in {"celery-prefork", "rq-worker"}], ids=str
)
def test_a_child_that_swallows_its_limit_is_killed(
    target: object, queuekit_broker: plugin.Broker, tmp_path: Path
) -> None:
    module = tmp_path / "elsewhere.py"
    module.write_text(ELSEWHERE)
    said = tmp_path / "pid"
    bench = WorkerBench(target, tmp_path / "bench", broker_url=queuekit_broker.url)  # type: ignore[arg-type]
    try:
        with bench.in_use():
            bench.start_worker(TASKS, str(module))
            job = stubborn.enqueue(str(said))
            assert bench.ended(job).attempts[0].category is Category.time_limit
            child = Path(f"/proc/{said.read_text()}")
            until = time.monotonic() + 30
            while (child / "exe").exists():
                assert time.monotonic() < until, f"the process {child.name} goes on"
                time.sleep(0.1)
            assert bench.worker.exit_code is None, "the worker itself lives"
    finally:
        bench.close()


def test_of_several_rq_workers_the_one_that_leaves_is_started_again(
    queuekit_broker: plugin.Broker, tmp_path: Path
) -> None:
    """docs/reference/limits.md says so."""
    pytest.importorskip("rq")
    (target,) = find_targets(("rq-simple",))
    bench = WorkerBench(target, tmp_path / "bench", broker_url=queuekit_broker.url, concurrency=2)
    try:
        with bench.in_use():
            worker = bench.start_worker()
            neighbour = tasks.sleep.enqueue(9.0)
            bench.started(neighbour)
            job = tasks.overstay.options(timeout=0.5).enqueue("blocks")
            assert [one.category for one in bench.ended(job).attempts] == [Category.time_limit, None]
            assert job.result(timeout=0) == []
            assert [one.outcome for one in bench.ended(neighbour).attempts] == ["succeeded"]
            assert (worker.exit_code, len(worker.children())) == (None, 2)
            worker.terminate()
            assert worker.wait(30) == 0
    finally:
        bench.close()
