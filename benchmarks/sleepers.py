"""How many jobs that only wait one worker runs at a time, and what that takes.

    python benchmarks/sleepers.py                                    1,000 of one second, five rounds
    python benchmarks/sleepers.py --engine dramatiq --ours --jobs 5000 --seconds 0 --concurrency 200
    python benchmarks/sleepers.py --newcomer                         200 of one second, on a worker without options

The jobs are enqueued, then the worker is started. From a log in which each job says when it begins and ends come the
seconds from the first start until the last result is stored, and how many ran at one time. The worker's memory is the
most that was seen: of its largest process, and of all of them, whose shared pages count in each. Its connections are
those that the Redis lists.

A worker that runs a few at a time (a process or a thread for each job) is given some rounds of them, and what all jobs
would take is computed from that. Beside all stands asyncio alone, without a queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from measuring import Bench, arguments, wait_for

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from measuring import Contender

BEGINNING = 5  # rounds of a worker that runs a few at a time


def measure(bench: Bench, contender: Contender, pool: str, sleeper: dict[str, Any], asked: Namespace) -> None:
    jobs, places = asked.jobs, sleeper["places"]
    few = min(jobs, places * (2 if bench.quick else BEGINNING)) if places else jobs
    bench.empty()
    bench.ask(contender, "sleep", few, asked.seconds, pool=pool)
    command = [str(asked.concurrency) if part == "1000" else part for part in sleeper["command"]]
    largest = together = connections = 0.0
    with bench.working(contender, command, pool) as worker:
        looked = 0.0
        for _ in wait_for(few, bench.counter(contender), worker):
            if time.monotonic() > looked + 0.2:
                taken = worker.memory().values()
                largest, together = max(largest, *taken), max(together, sum(taken))
                connections = max(connections, len(bench.client.client_list()) - 1)  # that one is ours
                looked = time.monotonic()
        stored = time.time()
    began, most = told(bench.log)
    name, kind = f"{contender.name} {pool}".strip(), contender.kind
    taken_in_all = (stored - began) * jobs / few
    note = f"computed from {few}" if few < jobs else ""
    bench.note("all stored", name, taken_in_all, "s", kind=kind, base=base_of(bench, contender), note=note)
    bench.note("in flight", name, most, "jobs", kind=kind)
    if not asked.newcomer:
        bench.note("memory of the largest process", name, largest, "MB", kind=kind)
        bench.note("memory of all processes", name, together, "MB", kind=kind)
        bench.note("connections to the broker", name, connections, "connections", kind=kind)


def told(log: Path) -> tuple[float, int]:
    """When the first job began, and how many ran at one time."""
    steps = [(float(moment), int(step)) for step, moment in map(str.split, log.read_text().splitlines())]
    running = most = 0
    for _, step in sorted(steps):
        running += step
        most = max(most, running)
    return min(steps)[0], most


def base_of(bench: Bench, contender: Contender) -> str:
    """The best of the engine's own pools that was measured."""
    pools = {
        whom: min(figures)
        for (what, whom), figures in bench.found.items()
        if what == "all stored" and contender.base and whom.startswith(f"{contender.base} ")
    }
    return min(pools, key=pools.__getitem__, default="")


def alone(bench: Bench, jobs: int, seconds: float) -> None:
    async def sleep() -> None:
        await asyncio.gather(*(asyncio.sleep(seconds) for _ in range(jobs)))

    began = time.perf_counter()
    asyncio.run(sleep())
    bench.note("all stored", "asyncio alone", time.perf_counter() - began, "s", kind="limit")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=int, help="1,000, or 200 with --newcomer")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--newcomer", action="store_true", help="workers without options")
    parser.add_argument("--ours", action="store_true", help="queuekit's workers alone")
    asked = parser.parse_args()
    asked.jobs = asked.jobs or (200 if asked.newcomer else 1000)
    with Bench("newcomer" if asked.newcomer else "sleepers", asked) as bench:
        for contender in bench.turns():
            if asked.ours and contender.kind != "queuekit":
                continue
            for pool, sleeper in contender.mine(bench.about(contender)["sleepers"]).items():
                if (pool == "newcomer") is asked.newcomer:
                    with bench.whatever(f"{contender.name} {pool}"):
                        measure(bench, contender, pool, sleeper, asked)
            if contender == bench.contenders[-1]:
                alone(bench, asked.jobs, asked.seconds)


if __name__ == "__main__":
    main()
