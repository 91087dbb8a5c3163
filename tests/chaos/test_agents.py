"""A research agent whose workers are killed every two seconds: 22 jobs of five steps each. By default one run of it on
each engine's default pool on Redis; fifty with CHAOS_FULL=1.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import chaos_agents
import pytest
from chaos_agents import STEPS, VARIABLE
from subjects import paths

from queuekit import JobNotReady

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.process import WorkerProcess
    from queuekit.testing.target import Target

T = TypeVar("T")

RUNS = 50 if os.environ.get("CHAOS_FULL") == "1" else 1
QUESTIONS = 20
PAUSE = 2.0  # seconds between two kills
LEASE = 2.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(1, RUNS + 1))
def test_no_finished_step_is_paid_twice(
    target: Target,
    seed: int,
    new_bench: Callable[..., WorkerBench],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if target.broker == "rabbitmq":
        pytest.skip("n/a: what is looked at is the record's, which the storm shows on both brokers")
    paid = tmp_path / "paid"
    paid.touch()
    monkeypatch.setenv(VARIABLE, str(paid))
    monkeypatch.setenv("PYTHONPATH", paths())
    bench, chance = new_bench(lease=LEASE), random.Random(seed)
    workers = [start(bench) for _ in range(2)]
    job = bench.app.enqueue(chaos_agents.plan.bind(QUESTIONS))
    kills, until = 0, time.monotonic() + 200

    def kill_one() -> None:
        nonlocal kills
        index = chance.randrange(len(workers))
        if not workers[index].stewards():  # a busy machine has not started it yet: its jobs would never go on
            return
        # all of it, steward included, or the parent alone
        if chance.random() < 0.5:
            workers[index].kill_all()
        else:
            workers[index].kill()
        kills += 1
        workers[index] = start(bench)

    def ended(job: Job[T]) -> T:
        """The job's result, with a kill each PAUSE until it is there."""
        while time.monotonic() < until:
            try:
                return job.result(timeout=PAUSE)
            except JobNotReady:
                kill_one()
        raise AssertionError(f"not within 200 s, after {kills} kills: {job.info()}")

    total = ended(chaos_agents.report.job(ended(job)))
    extra = sum(range(STEPS))
    assert total == sum(range(QUESTIONS)) + QUESTIONS * extra + extra
    assert kills, "nobody was killed"
    lines = [json.loads(line) for line in paid.read_text().splitlines()]
    jobs = {id: task for task, id, _, _ in lines}
    assert Counter(jobs.values()) == {"agents.plan": 1, "agents.look": QUESTIONS, "agents.report": 1}
    for id, task in jobs.items():
        asked = [step for _, other, step, _ in lines if other == id]
        # A step is finished once the next one has begun: from there on nobody pays for it again.
        assert asked == sorted(asked), f"{task} {id} paid again for a step that was finished: {asked}"
        assert set(asked) == set(range(STEPS)), f"{task} {id}"
    again = len(lines) - len(jobs) * STEPS
    print(f"{target}, seed {seed}: {kills} kills, {again} steps that were under way paid again")


def start(bench: WorkerBench) -> WorkerProcess:
    return bench.start_worker("chaos_agents", ready=False)
