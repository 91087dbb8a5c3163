"""RQ's pool `worker` has a process for each job. It is forked while the worker has nothing to do, where there is time for
that: then a job does not wait for it. What it imports it imports each time, so that there is to be nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuekit import agent_task
from queuekit.testing import tasks
from queuekit.testing.bench import TASKS, WorkerBench
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.testing import plugin
    from queuekit.testing.process import WorkerProcess

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


@pytest.fixture
def bench(queuekit_broker: plugin.Broker, tmp_path: Path) -> Iterator[WorkerBench]:
    pytest.importorskip("rq")
    (target,) = find_targets(("rq-worker",))
    bench = WorkerBench(target, tmp_path / "bench", broker_url=queuekit_broker.url)
    try:
        with bench.in_use():
            yield bench
    finally:
        bench.close()


def spare(bench: WorkerBench, worker: WorkerProcess, other_than: int = 0) -> int:
    """The process that waits for a job."""

    def look() -> list[int]:
        return [pid for pid in worker.children() if pid != other_than and _sleeps(pid)]

    found: list[int] = bench.until(look, "one waits for the next job")
    assert len(found) == 1
    return found[0]


def _sleeps(pid: int) -> bool:
    """In pipe_read(), that is: what it does before takes milliseconds."""
    try:
        first = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        time.sleep(0.05)
        then = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    return first[0] == then[0] == "S" and first[11:13] == then[11:13]


def test_it_imports_nothing_before_its_job(bench: WorkerBench, tmp_path: Path) -> None:
    module = tmp_path / "elsewhere.py"
    module.write_text(ELSEWHERE)
    worker = bench.start_worker(TASKS, str(module))
    assert imported.options(delay=0).enqueue().result(timeout=30) == []
    spare(bench, worker)
    assert imported.enqueue().result(timeout=30) == [], "nor one that was there before its job"


def test_each_job_finds_a_process_that_waits_for_it(bench: WorkerBench) -> None:
    worker = bench.start_worker()
    last = 0
    for _ in range(3):
        waits = spare(bench, worker, last)
        job = tasks.sleep.enqueue(0.01)
        bench.ended(job)
        assert bench.started(job).pid == waits != last
        last = waits


LARGE = """
import os
from queuekit.adapters.rq.spare import Spare

spare = Spare.fork(lambda: None, lambda first, next: os._exit(len(first) // 1_000_000 + next()))
assert spare.tell(b"x" * 7_000_000)
assert spare.tell(4)
print(os.waitstatus_to_exitcode(os.waitpid(spare.pid, 0)[1]))
"""


def test_what_is_handed_over_may_be_larger_than_a_pipe() -> None:
    pytest.importorskip("rq")
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("11\n", "")


def test_of_jobs_that_wait_each_has_a_process_too(bench: WorkerBench) -> None:
    worker = bench.start_worker()
    waits = spare(bench, worker)
    jobs = [tasks.sleep.enqueue(0.05) for _ in range(4)]
    for job in jobs:
        bench.ended(job)
    pids = [bench.started(job).pid for job in jobs]
    assert pids[0] == waits
    assert len(set(pids)) == 4


def test_one_that_was_killed_while_it_waited_costs_nothing(bench: WorkerBench) -> None:
    worker = bench.start_worker()
    waits = spare(bench, worker)
    os.kill(waits, signal.SIGKILL)
    bench.until(lambda: waits not in worker.children(), "it is gone")
    job = tasks.sleep.enqueue(0.01)
    assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
    assert not Path(f"/proc/{waits}").exists(), "nor is it left as a zombie"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_worker(bench: WorkerBench, number: signal.Signals) -> None:
    worker = bench.start_worker()
    waits = spare(bench, worker)
    os.kill(waits, signal.SIGTERM)  # as a service manager sends it to all: its worker says when
    os.kill(worker.pid, number)
    assert worker.wait(10) == (0 if number == signal.SIGTERM else -number)
    bench.until(lambda: not Path(f"/proc/{waits}").exists(), "it has gone too")
