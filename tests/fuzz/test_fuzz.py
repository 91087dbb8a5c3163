"""Hostile messages in the queues of each engine, between good ones: none runs, no worker dies, the good ones finish.

500 on each broker; with FUZZ_FULL=1 (`nox -s fuzz`) 10,000. FUZZ_SEED is another seed than the usual one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import fuzz_tasks
import pytest
from fuzzing import MAKERS, Fuzz
from wires import WIRES

from queuekit.message import Message, Publication
from queuekit.store import NewJob
from queuekit.testing.bench import TASKS, WorkerBench

FULL = bool(os.environ.get("FUZZ_FULL"))
MESSAGES = 10_000 if FULL else 500
GOOD = 100
SEED = os.environ.get("FUZZ_SEED", "fuzz")
KEY = sha256(b"fuzz").hexdigest()
MODULE = str(Path(fuzz_tasks.__file__))


@pytest.mark.timeout(1800 if FULL else 120)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_hostile_messages(
    new_bench: Callable[..., WorkerBench], signed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "something was imported or unpickled"
    monkeypatch.setenv("FUZZ_BOMB", str(ran))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    settings: dict[str, Any] = {"signing_key": KEY} if signed else {}
    bench = new_bench(payload_limit=16_384, lease=6.0, **settings)
    kind = f"{bench.target.backend}-{bench.target.broker}"
    wire, make = WIRES[kind](bench.app.settings), MAKERS[kind]
    fuzz = Fuzz(f"{SEED} {kind} {signed}", ran)

    began = time.monotonic()
    jobs = [fuzz_tasks.good.enqueue(number) for number in range(10)]
    real = wire.real()
    assert len(real) == 10
    worker = bench.start_worker(TASKS, MODULE)
    stewards = worker.stewards()
    children = set(worker.children())
    share = MESSAGES // (GOOD - 10)
    left = MESSAGES
    for number in range(10, GOOD):
        count = left if number == GOOD - 1 else share
        left -= count
        wire.put([make(fuzz, real) for _ in range(count)])
        jobs.append(fuzz_tasks.good.enqueue(number))
    forged = forge_records(bench) if signed else []

    within = 900.0 if FULL else 60.0
    for number, job in enumerate(jobs):
        assert bench.ended(job, within).status == "succeeded", job.info()
        assert job.result(timeout=0) == number + 1
    routes = bench.app.store.routes(bench.target.backend)
    bench.until(lambda: not any(bench.app.adapter.depth(one) for one in routes), "all was taken", within)
    bench.settle()

    known = {job.id: number for number, job in enumerate(jobs)}
    entries = [one for one in bench.journal.entries() if one.event in {"good", "trapped"}]
    assert Counter((one.job, one.event, one.data) for one in entries) == Counter(
        (id, "good", number) for id, number in known.items()
    )
    assert not ran.exists()
    assert (worker.exit_code, worker.stewards()) == (None, stewards)
    said = worker.said()
    for bad in ("Traceback", "the connection for queuekit's queues", "the broker is away"):
        assert bad not in said, said[max(0, said.index(bad) - 500) :][:4000]
    if bench.target.backend == "celery":
        assert set(worker.children()) == children
    aside = bench.app.store.quarantined(MESSAGES + 1000)
    reasons = Counter(one.reason[:60] for one in aside)
    print(f"\n{bench.target} {'signed' if signed else 'unsigned'}: {MESSAGES} messages in", end=" ")
    print(f"{time.monotonic() - began:.0f} s, {len(aside)} in quarantine for {len(reasons)} reasons")
    for reason, count in reasons.most_common(12):
        print(f"    {count:5} {reason!r}")
    assert all(one.reason for one in aside)
    assert len(aside) >= min(MESSAGES, 10_000) // 2
    assert len(reasons) >= 8
    if signed:
        assert {id for id in forged for one in aside if f"the record of job {id}" in one.reason} == set(forged)


def forge_records(bench: WorkerBench) -> list[str]:
    """By somebody who may write to the store and has no key, with doorbells that a steward of ours has signed."""
    ids = []
    for number in range(3):
        message = Message(f"record-{number}", "fuzz.trap", [number], {}, "default", bench.target.backend)
        made = bench.app.store.create(NewJob(message.id, message.seal(), "d", message.route, message.id, 60.0))
        signer = bench.app.settings.signer
        bench.ring(Publication(message, made.pseq or 0, made.number, made.epoch, signer))
        ids.append(message.id)
    return ids
