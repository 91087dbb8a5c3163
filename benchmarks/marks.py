"""The marks that queuekit is to reach, and how each is looked up in what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from measuring import ENGINES, digits

Medians = Callable[[str, str], dict[str, float]]  # (program, what): of whom, how much; {} where it was not measured


@dataclass(frozen=True)
class Reached:
    text: str
    well: bool


@dataclass(frozen=True)
class Mark:
    what: str
    wanted: str
    look: Callable[[Medians], list[Reached]]


def sleepers(of: Medians) -> list[Reached]:
    out = []
    figures = {what: of("sleepers", what) for what in SLEEPERS}
    for engine in ENGINES:
        name = f"queuekit on {engine} async"
        if name not in figures["all stored"]:
            continue
        seconds, most, memory, connections = (figures[what][name] for what in SLEEPERS)
        text = f"{engine} {seconds:.2f} s, {most:,.0f} at once, {memory:.0f} MB, {connections:.0f} connections"
        fast = seconds <= (2.0 if engine == "celery" else 1.5)
        out.append(Reached(text, fast and most >= 1000 and memory < 100 and connections < 10))
    return out


SLEEPERS = ("all stored", "in flight", "memory of the largest process", "connections to the broker")


def same_pool(of: Medians) -> list[Reached]:
    figures = of("compare", "no-op throughput")
    out = []
    for engine in ENGINES:
        for pool in ("prefork", "threads", "worker", "simple"):
            ours, alone = figures.get(f"queuekit on {engine} {pool}"), figures.get(f"{engine} {pool}")
            if ours and alone:
                out.append(ratio(f"{engine} {pool}", ours, alone, 0.9))
    return out


def async_worker(of: Medians) -> list[Reached]:
    figures = of("compare", "no-op throughput")
    against = {
        "dramatiq": ("the best peer", best(figures, "arq", "taskiq", "streaq", "huey"), 1.0),
        "rq": ("bare RQ", best(figures, "rq"), 5.0),
        "celery": ("bare Celery's best pool", best(figures, "celery"), 1.0),
    }
    return [
        ratio(f"{engine} of {whom}", figures[f"queuekit on {engine} async def"], other, wanted)
        for engine, (whom, other, wanted) in against.items()
        if other and f"queuekit on {engine} async def" in figures
    ]


def enqueue_one(of: Medians) -> list[Reached]:
    figures = of("compare", "enqueue one")
    return [
        ratio(engine, figures[f"queuekit on {engine}"], figures[engine], 0.8 if engine == "dramatiq" else 1.0)
        for engine in ENGINES
        if engine in figures and f"queuekit on {engine}" in figures
    ]


def enqueue_many(of: Medians) -> list[Reached]:
    figures = of("compare", "enqueue many")
    out = []
    bulk = {name: figure for name, figure in figures.items() if not name.endswith("one by one")}
    peers = best(bulk, "arq", "taskiq", "streaq", "huey")
    for engine in ENGINES:
        ours, alone = figures.get(f"queuekit on {engine} enqueue_many"), figures.get(f"{engine} one by one")
        if ours and alone:
            out.append(ratio(engine, ours, alone, 5.0 if engine == "dramatiq" else 10.0))
            if peers:
                out.append(ratio(f"{engine} of the best peer's", ours, peers, 1.0))
    return out


def flat_producer(of: Medians) -> list[Reached]:
    figures = of("compare", "producer memory")
    out = []
    for engine in ENGINES:
        some = [
            (name, figure) for name, figure in figures.items() if name.startswith(f"queuekit on {engine} enqueue_batch")
        ]
        if len(some) > 1:
            (_, first), (_, last) = some[0], some[-1]
            out.append(Reached(f"{engine} {first:.1f} MB, then {last:.1f} MB", last < first + 2))
    return out


def latency(of: Medians) -> list[Reached]:
    figures = [of("latency", what) for what in ("latency p50", "latency p99", "idle CPU")]
    out = []
    for name in figures[0]:
        if name.startswith("queuekit") and name in figures[2]:
            middle, late, idle = (some[name] for some in figures)
            text = f"{name.removeprefix('queuekit on ')} {digits(middle)} / {digits(late)} ms, {idle:.1f}%"
            out.append(Reached(text, middle < 5 and late < 20 and idle < 2))
    return out


def backlog(of: Medians) -> list[Reached]:
    out = []
    for what in ("enqueue by backlog", "claim by backlog"):
        figures = of("growth", what)
        for engine in ENGINES:
            few, many = figures.get(f"{engine}, 1,000 beside 1,000,000"), figures.get(f"{engine}, 1,000,000")
            if few and many:
                out.append(Reached(f"{what.partition(' ')[0]} on {engine} {many / few:.2f}", many / few <= 1.2))
    for name, figure in of("growth", "steward's tick by backlog").items():
        if name.endswith(", 1,000,000"):
            out.append(Reached(f"tick on {name.partition(',')[0]} {figure:.1f} ms", figure < 20))
    return out


def scheduled(of: Medians) -> list[Reached]:
    figures = of("scheduled", "memory that scheduled jobs take of a worker")
    return [
        Reached(f"{name.removeprefix('queuekit on ')} {figure:+.1f} MB", figure < 5)
        for name, figure in figures.items()
        if name.startswith("queuekit")
    ]


def newcomer(of: Medians) -> list[Reached]:
    figures = of("newcomer", "all stored")
    return [
        Reached(f"{engine} {figures[name]:.2f} s", figures[name] < 2)
        for engine in ENGINES
        if (name := f"queuekit on {engine} newcomer") in figures
    ]


def best(figures: dict[str, float], *names: str) -> float | None:
    """The most of what belongs to these."""
    return max((figure for name, figure in figures.items() if name.startswith(names)), default=None)


def ratio(name: str, ours: float, other: float, wanted: float) -> Reached:
    return Reached(f"{name} {ours / other:.2f}", ours / other >= wanted)


MARKS = [
    Mark(
        "1,000 x sleep(1), one process, first start until all results are stored",
        "Dramatiq and RQ at most 1.5 s, Celery at most 2.0 s; 1,000 at once, under 100 MB, under 10 connections",
        sleepers,
    ),
    Mark("no-op throughput, sync, each pool", "at least 0.9 of the engine alone with its results", same_pool),
    Mark(
        "no-op throughput, async worker",
        "Dramatiq at least the best peer; RQ at least 5 times bare RQ; Celery at least its best pool alone",
        async_worker,
    ),
    Mark("enqueue one", "at least 1.0 of bare Celery and RQ, 0.8 of bare Dramatiq", enqueue_one),
    Mark(
        "enqueue_many of 100,000",
        "at least 10 times the bare loop on Celery and RQ, 5 times on Dramatiq, and above every peer's bulk",
        enqueue_many,
    ),
    Mark("memory of who enqueues 100,000", "that of 10,000, with enqueue_batches", flat_producer),
    Mark("idle latency, enqueue to start, p50 / p99; idle CPU", "under 5 ms / under 20 ms; under 2%", latency),
    Mark(
        "1,000,000 jobs waiting",
        "enqueue and claim within 1.2 times the cost at 1,000; the steward's tick under 20 ms",
        backlog,
    ),
    Mark("50,000 jobs scheduled over 24 h", "worker memory flat", scheduled),
    Mark("200 x sleep(1) on a worker without options", "under 2 s on each engine", newcomer),
]
