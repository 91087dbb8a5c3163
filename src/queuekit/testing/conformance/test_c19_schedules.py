from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from queuekit import Every, schedules
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import Bench, WorkerBench


class TestC19:
    """Each tick of a schedule makes one job, whoever is there to fire it."""

    clause = "C19"

    def test_two_workers_of_which_one_is_killed(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        bench.start_worker()
        killed = bench.worker
        bench.start_worker()
        schedules.add("c19", tasks.tick.bind("c19"), Every(0.5), missed="all")
        bench.until(lambda: len(made(bench, "c19")) >= 2, "two ticks are fired", within=30)
        killed.kill_all()
        before = len(made(bench, "c19"))
        bench.until(lambda: len(made(bench, "c19")) >= before + 4, "four more are fired", within=30)
        assert schedules.remove("c19")
        bench.until(lambda: idle(bench), "what was made has run", within=30)
        # What the killed worker ran has run once more: a tick is one job. None is missing, and none is between two.
        moments = [moment(id) for id in made(bench, "c19")]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
        assert gaps == [0.5] * len(gaps)

    def test_it_stands_still_runs_now_and_goes_on(self, bench: Bench) -> None:
        schedules.add("c19-still", tasks.tick.bind("c19-still"), Every(1))
        schedules.pause("c19-still")
        job = schedules.run_now("c19-still")
        assert bench.ended(job).status == "succeeded"
        bench.ended(tasks.add.options(delay=1.5).enqueue(1))
        others = set(made(bench, "c19-still")) - {job.id}
        assert len(others) <= 1  # a tick that came between the first two calls
        assert schedules.resume("c19-still")
        if not bench.target.real:
            bench.app.advance(1)  # its clock stands still
        bench.until(lambda: set(made(bench, "c19-still")) > {job.id, *others}, "it goes on", within=20)
        assert schedules.remove("c19-still")


def made(bench: Bench, name: str) -> list[str]:
    """The jobs that have run, in the order of their ticks."""
    return sorted({entry.job for entry in bench.journal.entries(event=name)})


def moment(id: str) -> datetime:
    """The tick, as the job's id says it."""
    return datetime.strptime(id.rpartition("-")[2][:-1] + "000", "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)


def idle(bench: WorkerBench) -> bool:
    return all(one.waiting + one.parked + one.running == 0 for one in bench.app.store.counts())
