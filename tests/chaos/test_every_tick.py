"""Five workers that are killed and started anew at random fire each tick of a schedule once."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from queuekit import Every, schedules
from queuekit.testing import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench

TICKS = int(os.environ.get("CHAOS_TICKS", "40"))  # 200 in `nox -s chaos`
EVERY = 0.25
WORKERS = 5
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.mark.timeout(600)
def test_each_tick_is_fired_once(new_bench: Callable[..., WorkerBench]) -> None:
    dice = random.Random(SEED)
    bench = new_bench(concurrency=1, hooks="queuekit.testing.journal:note_event")
    for _ in range(WORKERS):
        bench.start_worker(ready=False)
    workers = list(bench.workers)
    bench.until(lambda: len(bench.app.store.consumers()) == WORKERS, "five workers are up", within=120)
    first = bench.app.store.now()
    schedules.add("chaos", tasks.tick.bind("fired"), Every(EVERY), missed="all")
    added = bench.app.store.now()
    while bench.app.store.now() < first + TICKS * EVERY:
        time.sleep(dice.uniform(0.3, 1.5))
        which = dice.randrange(WORKERS)
        # With its steward, or without: then that one leaves by itself.
        workers[which].kill_all() if dice.random() < 0.5 else workers[which].kill()
        workers[which] = bench.start_worker(ready=False)
    last = bench.app.store.now()
    bench.until(lambda: _after(bench, last), "the ticks up to the last are fired", within=120)
    assert schedules.remove("chaos")
    bench.until(lambda: _idle(bench), "all of it has run", within=240)

    made = sorted({entry.job for entry in bench.journal.entries(event="fired")})
    moments = [_moment(id) for id in made]
    assert len(moments) >= TICKS
    assert moments == [moments[0] + timedelta(seconds=EVERY) * n for n in range(len(moments))]  # none is missing
    assert first <= moments[0].timestamp() <= added + EVERY
    told = Counter(entry.job for entry in bench.journal.entries(event="event:enqueued"))
    assert set(told.values()) <= {1}  # by whoever fired it, unless it was killed on the way from there
    assert len(told) > len(made) / 2
    for id in made:
        outcomes = [one.outcome for one in tasks.tick.job(id).info().attempts]
        assert outcomes.count("succeeded") == 1
        assert set(outcomes) <= {"lost", "released", "succeeded"}


def _moment(id: str) -> datetime:
    return datetime.strptime(id.rpartition("-")[2][:-1] + "000", "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)


def _after(bench: WorkerBench, moment: float) -> bool:
    found = schedules.find("chaos")
    return found is not None and found.next_at is not None and found.next_at.timestamp() > moment


def _idle(bench: WorkerBench) -> bool:
    return all(one.waiting + one.parked + one.running == 0 for one in bench.app.store.counts())
