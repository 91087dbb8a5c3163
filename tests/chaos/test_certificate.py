"""The storm on each engine and broker. By default a small, seeded one; the certificate's with CHAOS_FULL=1.

    CHAOS_FULL=1 CHAOS_RESULTS=folder pytest tests/chaos/test_certificate.py -s -k rq

Bare engines go through the same only where CHAOS_BARE=1 asks for them: their losses are theirs to have.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clock import a_shifted_server, check_clock
from ledger import VARIABLE, Ledger
from storm import FULL, KILLS, LEASE, LEFT_ALONE, SMALL, Fleet, Storm
from subjects import Bare, Ours, paths
from verdicts import judge

from queuekit.testing.plugin import a_rabbitmq, a_server
from queuekit.testing.proxy import Proxy
from queuekit.testing.report import NOTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import Server
    from queuekit.testing.target import Target

WHOLE = os.environ.get("CHAOS_FULL") == "1"
SEED = int(os.environ.get("CHAOS_SEED", "1"))
JOBS = int(os.environ.get("CHAOS_JOBS", "2000" if WHOLE else "150"))
COUNTS = FULL if WHOLE else SMALL
NOT_BARE = (
    "kill a steward",
    "empty the broker",
    "restart the store",
    "silence the store",
    "set the clock of the store forward",
)


@pytest.mark.timeout(1800 if WHOLE else 300)
def test_nothing_is_lost(
    target: Target,
    new_bench: Callable[..., WorkerBench],
    new_broker: Callable[[], Server],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(tmp_path)
    monkeypatch.setenv(VARIABLE, str(ledger.path))
    monkeypatch.setenv("PYTHONPATH", paths())
    with ExitStack() as stack:
        broker = new_broker()
        store: Server = stack.enter_context(a_shifted_server(tmp_path) if WHOLE else a_server(tmp_path / "store"))
        if WHOLE:
            check_clock(store)
        proxies = {name: stack.enter_context(Proxy(one.port)) for name, one in (("broker", broker), ("store", store))}
        bench = new_bench(
            broker_url=proxies["broker"].url(broker.url),
            store_url=proxies["store"].url(store.url),
            enqueue_timeout=2.0,
            lease=LEASE,
            hooks="queuekit.testing.journal:note_event",
        )
        subject = Ours(bench)
        stack.callback(subject.close)
        fleet = Fleet(subject)
        stack.callback(fleet.close)
        storm = Storm(subject, ledger, broker, store=store, proxies=proxies, seed=SEED, jobs=JOBS, counts=COUNTS)
        took = weather(storm, fleet, str(target))
        row = judge(storm)
    row["seconds"] = took
    record_property(NOTE, said(f"chaos on {target}, seed {SEED}", row))
    keep(str(target), row)
    assert row["lost"] == 0, row
    assert row["two_outcomes"] == row["beyond_max_attempts"] == row["overlaps"] == 0, row
    assert not row["wrong"], row["wrong"][:5]
    assert row["starts_without_a_claim"] == 0, row
    assert all(storm.faults[what] >= count for what, count in COUNTS.items() if what not in KILLS), row
    assert row["worker_kills"] >= sum(COUNTS[what] for what in KILLS), row
    slack = 0.0 if WHOLE else 3.0  # a test machine may be busy with other tests
    late = [one for one in row["late"] if one[0] > one[1] + slack]
    assert not late, late


@pytest.mark.skipif(os.environ.get("CHAOS_BARE") != "1", reason="bare engines run with CHAOS_BARE=1 alone")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["celery", "celery-rabbitmq", "rq", "dramatiq", "dramatiq-rabbitmq"])
def test_bare(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, on = name.partition("-")
    ledger = Ledger(tmp_path)
    counts = {what: count for what, count in COUNTS.items() if what not in NOT_BARE}
    with ExitStack() as stack:
        make: Callable[[Path], Server] = a_rabbitmq if on else a_server
        broker = stack.enter_context(make(tmp_path / "broker"))
        results = stack.enter_context(a_server(tmp_path / "results")) if engine == "celery" else broker
        proxy = stack.enter_context(Proxy(broker.port))
        subject = Bare(engine, ledger, tmp_path, proxy.url(broker.url), results.url)
        fleet = Fleet(subject)
        stack.callback(fleet.close)
        storm = Storm(
            subject,
            ledger,
            broker,
            proxies={"broker": proxy},
            seed=SEED,
            jobs=JOBS,
            counts=counts,
            afterwards="cut",  # a producer of theirs would wait for ever on a connection that stays silent
        )
        took = weather(storm, fleet, f"bare {name}")
        row = judge(storm)
    row["seconds"] = took
    print(said(f"bare {name}, seed {SEED}", row))
    keep(f"bare-{name}", row)
    assert row["jobs"] >= JOBS  # what became of them is theirs


def weather(storm: Storm, fleet: Fleet, name: str) -> int:
    """The storm, and the time after it. The seconds of both."""
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{name}: {time.monotonic() - begun:.0f} s: {what}", flush=True)

    storm.run(fleet, say)
    over, left, since = round(time.monotonic() - begun), storm.subject.left(), time.monotonic()
    while left and time.monotonic() - since < LEFT_ALONE:
        storm.pause(2.0)
        if (now := storm.subject.left()) != left:
            left, since = now, time.monotonic()
    storm.pause(1.0)
    say(f"the storm took {over} s; {left} jobs are left")
    return round(time.monotonic() - begun)


def said(name: str, row: dict[str, Any]) -> str:
    faults = ", ".join(f"{what} {count}" for what, count in row["faults"].items())
    rest = ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in row.items() if what != "faults")
    return f"{name}: {rest}; faults: {faults}"


def keep(name: str, row: dict[str, Any]) -> None:
    """For the page, where CHAOS_RESULTS names a folder."""
    if folder := os.environ.get("CHAOS_RESULTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps({"seed": SEED, **row}, indent=1) + "\n")
