"""queuekit beside the engine that it runs on, and beside other libraries of the kind.

    python benchmarks/compare.py                                     the engines, five rounds
    python benchmarks/compare.py --what enqueue --rounds 3 --engine rq
    python benchmarks/compare.py --peers PYTHON [--peers PYTHON]     and the peers, in an environment of their own
    nox -s benchmarks

A figure is the median of the rounds, and a ratio that of two figures. What is compared:

    enqueue     jobs a second, one call each, from one process
    many        jobs a second by each way for many jobs, against the engine's loop of single calls; 100,000 jobs, or
                10,000 where that takes longer than 5 s; and by how much the most memory that the process had was more
                than before
    throughput  no-op jobs a second through one worker, with status and result kept by each, after the first tenth; and
                what that took of the worker's processes, in milliseconds of CPU a job: a busy machine changes that less
    idle        from the call to the start of the task, in an idle worker: median and 99th percentile; and what a worker
                without jobs takes of a core. "redis-py alone": the same way with nothing but a list between two
                processes, which wait for each other by BLPOP
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from measuring import Bench, arguments, drained

if TYPE_CHECKING:
    from measuring import Contender

WHAT = ("enqueue", "many", "throughput", "idle")
LISTENER = """
import redis, sys, time
client = redis.Redis.from_url(sys.argv[1])
while client.blpop("asked")[1] != b"enough":
    client.rpush("answered", time.time())
"""
SLOW = {"worker": 10, "simple": 2}  # RQ's pools are given so much less to do


class Comparison:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        quick = bench.quick
        self.single, self.many_first, self.many_all = (100, 500, 1500) if quick else (2000, 10_000, 100_000)
        self.noops, self.waits, self.idle_for = (500, 5, 1.0) if quick else (3000, 60, 5.0)

    def note(self, what: str, contender: Contender, pool: str, figure: float, unit: str, base: str = "") -> None:
        name = f"{contender.name} {pool}".strip()
        self.bench.note(what, name, figure, unit, kind=contender.kind, base=base)

    def enqueue(self) -> None:
        for contender in self.bench.turns():
            if not contender.pools:  # as the other one of its engine
                with self.bench.whatever(f"enqueue {contender.name}"):
                    said = self.bench.ask(contender, "enqueue", self.single)
                    self.note("enqueue one", contender, "", said["count"] / said["seconds"], "jobs/s", contender.base)

    def many(self) -> None:
        for contender in self.bench.turns():
            if contender.pools:
                continue
            if contender.kind != "queuekit":
                with self.bench.whatever(f"many {contender.name}"):
                    said = self.bench.ask(contender, "enqueue", self.single)
                    self.note("enqueue many", contender, "one by one", said["count"] / said["seconds"], "jobs/s")
            for way in self.bench.about(contender)["many"]:
                with self.bench.whatever(f"many {contender.name} {way}"):
                    self.by(contender, way)

    def by(self, contender: Contender, way: str) -> None:
        for count in (self.many_first, self.many_all):
            self.bench.empty()
            said = self.bench.ask(contender, "many", way, count)
            grown = (said["peak"] - said["peak_before"]) * 1024 / 1e6
            self.note("producer memory", contender, f"{way} {count:,}", grown, "MB")
            if said["seconds"] > 5:
                break
        base = f"{contender.engine} one by one" if contender.engine else f"{contender.name} one by one"
        self.note("enqueue many", contender, way, count / said["seconds"], "jobs/s", base)

    def throughput(self) -> None:
        for contender in self.bench.turns():
            for pool, command in contender.mine(self.bench.about(contender)["workers"]).items():
                name = f"{contender.name} {pool}"
                with self.bench.whatever(f"throughput {name}"):
                    self.bench.empty()
                    count = self.noops // SLOW.get(pool, 1)
                    self.bench.ask(contender, "enqueue", count - 1, pool=pool)
                    with self.bench.working(contender, command, pool) as worker:
                        rate, cpu = drained(count, self.bench.counter(contender), worker)
                    base = self.same_pool(contender, pool)
                    self.note("no-op throughput", contender, pool, rate, "jobs/s", base)
                    self.note("CPU", contender, pool, cpu, "ms CPU a job", base)

    def idle(self) -> None:
        with self.bench.whatever("idle redis-py alone"):
            self.list_alone()
        for contender in self.bench.turns():
            for pool, command in contender.mine(self.bench.about(contender)["workers"]).items():
                with self.bench.whatever(f"idle {contender.name} {pool}"):
                    self.bench.empty()
                    base = self.same_pool(contender, pool)
                    with self.bench.working(contender, command, pool) as worker:
                        waits: Any = self.bench.ask(contender, "latency", self.waits, pool=pool)
                        time.sleep(1)
                        worker.check()
                        began, used = time.perf_counter(), worker.cpu()
                        time.sleep(self.idle_for)
                        idle = 100 * (worker.cpu() - used) / (time.perf_counter() - began)
                    for what, figure in latencies(waits).items():
                        self.note(what, contender, pool, figure, "ms", base)
                    self.note("idle CPU", contender, pool, idle, "% of a core", base)

    def list_alone(self) -> None:
        client: Any = self.bench.client
        pauses, waits = random.Random(5), []  # noqa: S311
        with subprocess.Popen([sys.executable, "-c", LISTENER, self.bench.url]):
            try:
                for _ in range(self.waits + 1):
                    time.sleep(pauses.uniform(0.05, 0.25))
                    began = time.time()
                    client.lpush("asked", "go on")
                    answer = client.blpop("answered", timeout=10)
                    assert answer, "the other process does not answer"
                    waits.append(float(answer[1]) - began)
            finally:
                client.lpush("asked", "enough")
        for what, figure in latencies(sorted(waits[1:])).items():  # the first waited for the process to start
            self.bench.note(what, "redis-py alone", figure, "ms", kind="limit")

    def same_pool(self, contender: Contender, pool: str) -> str:
        """The engine's own pool of that name; for those that it does not have, its best known one."""
        if not contender.base:
            return ""
        engine = next(one for one in self.bench.contenders if one.name == contender.base)
        own = engine.mine(self.bench.about(engine)["workers"])
        return f"{contender.base} {pool if pool in own else list(own)[-1]}"


def latencies(waits: list[float]) -> dict[str, float]:
    """In milliseconds, of seconds in order."""
    return {
        "latency p50": 1000 * statistics.median(waits),
        "latency p99": 1000 * waits[int(len(waits) * 0.99)],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--what", action="append", choices=WHAT)
    asked = parser.parse_args()
    with Bench("latency" if asked.what == ["idle"] else "compare", asked) as bench:
        comparison = Comparison(bench)
        for what in asked.what or WHAT:
            getattr(comparison, what)()


if __name__ == "__main__":
    main()
