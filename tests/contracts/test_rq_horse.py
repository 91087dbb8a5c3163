"""RQ's pool `worker` forks a process for each job. What that imports it imports each time, and the job waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit import agent_task
from queuekit.testing.bench import TASKS, WorkerBench
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from pathlib import Path

    from queuekit.testing import plugin

ELSEWHERE = """
import os, sys
from queuekit import agent_task

known = set()
os.register_at_fork(after_in_child=lambda: known.update(sys.modules))

@agent_task(name="test_rq_horse.imported")
def imported() -> list[str]:
    return sorted(set(sys.modules) - known)
"""


@agent_task(name="test_rq_horse.imported")
def imported() -> list[str]: ...  # as the worker has it, by the same name


def test_it_imports_nothing_before_its_job(queuekit_broker: plugin.Broker, tmp_path: Path) -> None:
    pytest.importorskip("rq")
    (target,) = find_targets(("rq-worker",))
    module = tmp_path / "elsewhere.py"
    module.write_text(ELSEWHERE)
    bench = WorkerBench(target, tmp_path / "bench", broker_url=queuekit_broker.url)
    try:
        with bench.in_use():
            bench.start_worker(TASKS, str(module))
            assert imported.enqueue().result(timeout=30) == []
    finally:
        bench.close()
