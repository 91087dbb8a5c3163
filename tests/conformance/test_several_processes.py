"""`queuekit worker --processes N` on every backend and pool: real processes and signals."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuekit.testing import tasks
from queuekit.testing.bench import SLACK, TASKS
from queuekit.testing.process import living
from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Task
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.process import WorkerProcess

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc, to see the processes")

GRACE = 5.0


def workers_of(parent: WorkerProcess) -> list[int]:
    """The processes that the parent has started, the oldest first."""
    found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def start(bench: WorkerBench, **settings: object) -> WorkerProcess:
    parent = bench.start_worker("--processes=2", TASKS, **settings)
    bench.until(lambda: len(workers_of(parent)) == 2 and len(parent.stewards()) == 2, "two, each with its steward", 30)

    def have_worked() -> bool:
        jobs = [tasks.sleep.enqueue(0.05) for _ in range(4)]
        names.update(bench.ended(job).attempts[-1].worker for job in jobs)
        return len(names) == 2

    names: set[str] = set()
    bench.until(have_worked, "both have done a job", within=60)
    return parent


def quiet(bench: WorkerBench, parent: WorkerProcess) -> None:
    bench.until(lambda: not parent.family(), "none of its processes is left", within=15)


class TestEverywhere:
    def test_both_work_and_both_stop(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(grace=GRACE, concurrency=1)
        parent = start(bench)
        first, second = tasks.sleep.enqueue(1.5), tasks.sleep.enqueue(1.5)
        bench.started(first)
        bench.started(second)  # with room for one job each
        waiting = tasks.add.enqueue(1)
        parent.terminate()
        assert parent.wait(GRACE + 5 + SLACK) == 0
        names = set()
        for job in (first, second):
            (attempt,) = job.info().attempts
            assert attempt.outcome == "succeeded"
            names.add(attempt.worker)
        assert len(names) == 2
        assert waiting.status() == "queued"
        quiet(bench, parent)

    def test_a_signal_to_all_processes_leaves_the_grace(self, new_bench: Callable[..., WorkerBench]) -> None:
        """A worker hears it twice then: from whoever sent it, and from its parent."""
        bench = new_bench(grace=10.0)
        parent = start(bench)
        job = tasks.sleep.enqueue(1.5)
        bench.started(job)
        parent.terminate_all()
        assert parent.wait(10 + 5 + SLACK) == 0
        assert [one.outcome for one in job.info().attempts] == ["succeeded"]
        quiet(bench, parent)

    def test_another_one_is_started_for_one_that_dies(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(concurrency=1)
        parent = start(bench)
        job = tasks.sleep.enqueue(1.5)
        pid = bench.started(job).pid
        before = workers_of(parent)
        victim = pid if pid in before else parent_of(pid)  # of a child that the engine has forked
        assert victim in before
        os.kill(victim, signal.SIGKILL)
        assert [one.outcome for one in bench.ended(job).attempts][-1] == "succeeded"
        bench.until(lambda: len(workers_of(parent)) == 2, "there are two again")
        assert victim not in workers_of(parent)
        assert set(before) & set(workers_of(parent)), "the other one has stayed"
        assert parent.exit_code is None
        bench.until(lambda: not living([victim, pid]), "nothing is left of the one that died")

    def test_when_the_parent_is_killed_none_is_left(self, new_bench: Callable[..., WorkerBench]) -> None:
        if sys.platform != "linux":
            pytest.skip("by the kernel's word to the children of a parent that dies")
        bench = new_bench(grace=GRACE)
        parent = start(bench)
        job = tasks.sleep.enqueue(1.5)
        bench.started(job)
        parent.kill()
        assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"], "they stop as if told to"
        quiet(bench, parent)


@pytest.fixture
def once(target: object) -> None:
    """What does not depend on the engine is run on one."""
    if str(target) != "dramatiq":
        pytest.skip("run on dramatiq alone")


@pytest.mark.usefixtures("once")
class TestOnOne:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_what_still_runs_after_the_grace_goes_back(
        self, new_bench: Callable[..., WorkerBench], number: signal.Signals
    ) -> None:
        bench = new_bench(grace=1.0)
        parent = start(bench)
        job = tasks.spin.enqueue(30.0)
        bench.started(job)
        os.kill(parent.pid, number)
        assert parent.wait(1 + 5 + SLACK) == 0
        assert [one.outcome for one in job.info().attempts] == ["released"]
        quiet(bench, parent)

    @pytest.mark.parametrize("task", [tasks.spin, tasks.sleep_async], ids=["sync", "async"])
    def test_sigquit_and_a_second_sigterm_do_not_wait_for_the_grace(
        self, new_bench: Callable[..., WorkerBench], task: Task[..., str, object]
    ) -> None:
        bench = new_bench(grace=120.0)
        parent = start(bench)
        job = task.enqueue(200.0)
        bench.started(job)
        if task.is_async:
            os.kill(parent.pid, signal.SIGQUIT)
        else:
            parent.terminate(times=2, pause=1.0)
        assert parent.wait(20) == 0
        assert [one.outcome for one in job.info().attempts] == ["released"]
        quiet(bench, parent)

    def test_an_error_of_configuration_ends_all(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        parent = bench.start_worker("--processes=3", TASKS, ready=False, pool="prefork")
        assert parent.wait(40) == 2
        assert "the backend dramatiq has threads, async" in parent.said()
        assert "cannot work as it is configured" in parent.said()
        quiet(bench, parent)

    def test_a_setting_that_cannot_be_is_said_once(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        parent = bench.start_worker("--processes=3", TASKS, ready=False, lease="soon")
        assert parent.wait(20) == 2
        assert parent.said().count("lease='soon'") == 1

    def test_one_that_cannot_start_does_not_spin(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        (bench.folder / "broken.py").write_text("import os\nos.write(2, b'TRIED ')\nraise RuntimeError('broken')\n")
        parent = bench.start_worker("--processes=1", "broken", ready=False)
        bench.until(lambda: parent.said().count("TRIED") >= 3, "it was started three times", within=60)
        assert "starting another in 0.5 s" in parent.said()
        assert "starting another in 1 s" in parent.said()
        parent.terminate()
        assert parent.wait(15) == 0
        quiet(bench, parent)

    def test_one_that_was_drained_is_replaced(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(grace=2.0)
        parent = start(bench)
        before = workers_of(parent)
        job = tasks.sleep.options(timeout=0.5).enqueue(60.0)
        bench.started(job)
        bench.until(lambda: "was drained, and has left" in parent.said(), "it has left with 75", within=30)
        bench.until(lambda: len(workers_of(parent)) == 2, "there are two again")
        assert len(set(before) & set(workers_of(parent))) == 1
        assert [one.category for one in bench.ended(job).attempts][0] == "time_limit"
        parent.terminate()
        assert parent.wait(2 + 5 + SLACK) == 0
        quiet(bench, parent)

    def test_all_have_one_page_of_metrics(self, new_bench: Callable[..., WorkerBench]) -> None:
        import urllib.request

        pytest.importorskip("prometheus_client")
        bench = new_bench(concurrency=1)
        port = free_port()
        parent = start(bench, metrics_port=port)
        both = [tasks.sleep.enqueue(0.8), tasks.sleep.enqueue(0.8)]
        assert len({bench.ended(job).attempts[0].worker for job in both}) == 2

        def counted() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
            found = [one for one in lines if "succeeded" in one and tasks.sleep.name in one and "_total{" in one]
            return sum(float(one.rpartition(" ")[2]) for one in found) == len(bench.journal.entries(event="end"))

        bench.until(counted, "the page counts the jobs of both")
        parent.terminate()
        assert parent.wait(5 + 5 + SLACK) == 0
        quiet(bench, parent)
