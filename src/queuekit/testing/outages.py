"""One outage under a worker that runs a job, and what has to come of it: for the suite, and for longer runs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from queuekit import EnqueueError
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK
from queuekit.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import Server

__all__ = ["BACK", "GONE", "outage"]

BACK: Final = 30.0  # seconds after its return within which workers consume again
GONE: Final = ("refused", "silent", "silent for ever")
ENQUEUE: Final = 2.0  # seconds: enqueue_timeout
RUNS: Final = 3.0  # seconds that the job takes which runs meanwhile


def outage(
    new_bench: Callable[..., WorkerBench],
    broker: Server,
    store: Server,
    *,
    what: str,
    how: str,
    seconds: float,
    **settings: Any,
) -> str:
    """A worker runs a job, and for so many seconds its broker or its store is away.

    Args:
        what: "broker" or "store".
        how: "refused": connections are reset, and new ones refused. "silent": packets go nowhere. "silent for ever":
            and what was open stays so when the rest is back.

    Asserts that enqueue kept its time and told the truth, that the job which ran meanwhile ran once, and that all that
    was accepted has ended within BACK seconds of the return. Says how long that took.
    """
    with ExitStack() as stack:
        there = {"broker": broker, "store": store}
        proxy = stack.enter_context(Proxy(there[what].port))
        urls = {name: proxy.url(one.url) if name == what else one.url for name, one in there.items()}
        bench = new_bench(
            broker_url=urls["broker"], store_url=urls["store"], **{"enqueue_timeout": ENQUEUE, **settings}
        )
        worker = bench.start_worker()
        ran = tasks.sleep.enqueue(min(RUNS, seconds))
        bench.started(ran)
        proxy.refuse() if how == "refused" else proxy.silence()
        over = time.monotonic() + seconds
        accepted: list[Job[Any]] = [ran]
        refused: list[EnqueueError] = []
        slowest = 0.0
        while time.monotonic() < over:
            began = time.monotonic()
            try:
                accepted.append(tasks.add.enqueue(1))
                assert what == "broker", "enqueue said that a store has the job which was away"
            except EnqueueError as error:
                assert what == "store", error
                assert how != "refused" or error.recorded is False, error
                refused.append(error)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(min(1.0, max(0.0, over - time.monotonic())))
        # Recording and publishing may take as long each.
        assert slowest <= 2 * ENQUEUE + SLACK, f"enqueue took {slowest:.1f} s"
        with bench.supervised():
            back = time.monotonic()
            proxy.restore(old="silent" if how == "silent for ever" else "resume")
            accepted.append(_enqueue(bench, back))
            for job in accepted:
                bench.ended(job, within=max(1.0, back + BACK + SLACK - time.monotonic()))
            took = time.monotonic() - back
        for job in accepted:
            info = job.info()
            assert [one.outcome for one in info.attempts] == ["succeeded"], info
            assert len(bench.journal.entries(job.id, "start")) == 1, info
        for one in refused:
            assert len(bench.journal.entries(one.job_id, "start")) <= 1, one
            # What reached the store before the line went dead may be there: it said None, and never False.
            assert one.recorded is None or bench.app.store.status(one.job_id) is None, one
        left = "went on" if worker.exit_code is None else f"left with {worker.exit_code}"
        return (
            f"{bench.target}: {what} {how} for {seconds:g} s: all ended {took:.1f} s after its return; "
            f"the worker {left}; the slowest enqueue took {slowest:.1f} s; "
            f"{len(accepted)} accepted, {len(refused)} refused"
        )


def _enqueue(bench: WorkerBench, back: float) -> Job[Any]:
    """Once the store answers again."""
    while True:
        try:
            return tasks.add.enqueue(1)
        except EnqueueError:
            assert time.monotonic() < back + BACK, "enqueue does not work again"
