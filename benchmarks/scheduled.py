"""By how much jobs that are scheduled for later let a worker grow.

    python benchmarks/scheduled.py                                   50,000 jobs over 24 h, on each engine
    python benchmarks/scheduled.py --engine rq --jobs 5000

Starts a worker without jobs and looks at its memory, all its processes together; then enqueues jobs that are due at
even distances from a minute on, and looks again after --wait seconds. Celery and Dramatiq alone take such jobs into
their workers' memory; RQ alone keeps them on the Redis.
"""

from __future__ import annotations

import time

from measuring import Bench, Working, arguments

POOLS = {"celery": "threads", "rq": "simple", "dramatiq": "threads"}
SETTLED = 5.0  # seconds after which a worker has started


def measure(bench: Bench, jobs: int, hours: float, wait: float) -> None:
    for contender in bench.turns():
        pool = POOLS[contender.engine]
        with bench.whatever(f"scheduled on {contender.name}"):
            command = bench.about(contender)["workers"][pool]
            with bench.working(contender, command, pool) as worker:
                time.sleep(SETTLED)
                before = together(worker)
                bench.ask(contender, "later", jobs, hours * 3600, pool=pool)
                time.sleep(wait)
                worker.check()
                after = together(worker)
            name, kind, base = f"{contender.name} {pool}", contender.kind, contender.base
            grown = "memory that scheduled jobs take of a worker"
            bench.note(grown, name, after - before, "MB", kind=kind, base=base and f"{base} {pool}")
            bench.note("memory of a worker with scheduled jobs", name, after, "MB", kind=kind)


def together(worker: Working) -> float:
    return sum(worker.memory().values())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=int, help="50,000")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--wait", type=float, help="60 seconds")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or 1  # what is counted is not in a hurry
    jobs = asked.jobs or (1000 if asked.quick else 50_000)
    with Bench("scheduled", asked, peers=False) as bench:
        measure(bench, jobs, asked.hours, asked.wait or (3.0 if asked.quick else 60.0))


if __name__ == "__main__":
    main()
