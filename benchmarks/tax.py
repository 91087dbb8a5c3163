"""What each feature costs: the same no-op job without any, and with one more at a time.

    python benchmarks/tax.py                                         each engine, five rounds
    python benchmarks/tax.py --engine dramatiq --rounds 3

Jobs a second that one process enqueues, one call each; and of one worker in its first pool that runs in one process,
jobs a second and milliseconds of CPU for each. The engine alone, on that pool, stands beside them. CPU says more than
the rate, which waits for the Redis too.

    bare        record, claim, result
    hooks       and a hook that does nothing, told of each event
    tracing     and OpenTelemetry: spans and metrics of the SDK, which keeps them in memory
    signing     and a signing_key
    step        and the work of the task in one step
"""

from __future__ import annotations

from dataclasses import replace

from measuring import Bench, arguments, drained

POOLS = {"celery": "threads", "rq": "simple", "dramatiq": "threads"}
FEATURES = {
    "bare": (),
    "hooks": (("QUEUEKIT_HOOKS", "hook:nothing"),),
    "tracing": (("QUEUEKIT_HOOKS", "telemetry:traced"),),
    "signing": (("QUEUEKIT_SIGNING_KEY", "0123456789abcdef0123456789abcdef-bench"),),
    "step": (("BENCH_STEP", "1"),),
}


def measure(bench: Bench) -> None:
    count = 300 if bench.quick else 3000
    for contender in bench.turns():
        pool = POOLS[contender.engine]
        ours = contender.kind == "queuekit"
        command, done = bench.about(contender)["workers"][pool], bench.counter(contender)
        for feature, more in FEATURES.items() if ours else [("", ())]:
            one = replace(contender, more=more)
            name = f"{contender.name} {feature}".strip()
            base = f"{contender.name} bare" if ours else ""
            with bench.whatever(f"tax {name}"):
                bench.empty()
                said = bench.ask(one, "enqueue", count - 1)
                rate = (count - 1) / said["seconds"]
                bench.note("enqueue with a feature", name, rate, "jobs/s", kind=contender.kind, base=base)
                with bench.working(one, command, pool) as worker:
                    rate, cpu = drained(count, done, worker)
                bench.note("throughput with a feature", name, rate, "jobs/s", kind=contender.kind, base=base)
                bench.note("CPU with a feature", name, cpu, "ms CPU a job", kind=contender.kind, base=base)


def main() -> None:
    with Bench("tax", arguments(__doc__).parse_args(), peers=False) as bench:
        measure(bench)


if __name__ == "__main__":
    main()
