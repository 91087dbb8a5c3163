"""The workers: whether there is one where jobs wait, what their clocks say, and whether they run the same code."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from queuekit.adapters.findings import Finding, Severity, some
from queuekit.payload.fingerprint import HALF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from queuekit.doctor import Patient
    from queuekit.store import Consumer

__all__ = ["check_clocks", "check_schedules", "check_versions", "check_workers"]

MOST_SKEW: Final = 5.0  # seconds; less where the lease is short
SAMPLES: Final = 3
NAMED: Final = 3  # of many, so many are named


# ---- is somebody there ---------------------------------------------------------------------------------------------


def check_workers(patient: Patient) -> Iterator[Finding]:
    waiting: dict[tuple[str, str], int] = defaultdict(int)
    since: dict[tuple[str, str], float] = {}
    for one in patient.store.counts():
        backend, queue, _ = one.route.split(":")
        if one.waiting:
            waiting[backend, queue] += one.waiting
            since[backend, queue] = min(since.get((backend, queue), one.oldest or 0.0), one.oldest or 0.0)
    now = patient.store.now()
    served = {(one.about.get("backend"), queue) for one in patient.workers for queue in one.about.get("queues", ())}
    for (backend, queue), count in sorted(waiting.items()):
        if (backend, queue) in served:
            continue
        others = sorted({str(name) for name, other in served if other == queue})
        there = f"; there is one for it on {', '.join(others)}, which does not take them" if others else ""
        yield Finding(
            "workers",
            Severity.error,
            f"{_many(count, 'job')} could run on queue {queue!r} of {backend}, the first of them "
            f"for {max(now - since[backend, queue], 0.0):.0f} s, and no worker that is alive serves it{there}",
            "they wait until one comes",
            f"queuekit worker MODULE --backend {backend} --queues {queue}",
        )
    if not waiting or all(one in served for one in waiting):
        there = f"{_many(len(patient.workers), 'worker')} alive" if patient.workers else "no worker is alive"
        yield Finding("workers", Severity.ok, f"{there}; every queue on which a job could run is served"
                      if waiting else f"{there}, and no job waits for one")  # fmt: skip


def check_schedules(patient: Patient) -> Iterator[Finding]:
    """Silent where all is well, or there are none."""
    late = (patient.store.now() - patient.settings.lease) * 1000
    overdue = [row.name for row in patient.store.schedules() if row.due is not None and row.due < late]
    if overdue:
        there = "though workers are alive: none of them can read it, or fire it (their log says why)"
        yield Finding(
            "schedules",
            Severity.error,
            f"{_many(len(overdue), 'schedule')} should have been fired more than a lease ago ({some(overdue, NAMED)}), "
            + (there if patient.workers else "and no worker is alive whose steward would"),
            "their jobs are not made; what was missed is skipped or made good as each of them says",
            "queuekit schedules list, and the stewards' log" if patient.workers else "queuekit worker MODULE",
        )


# ---- clocks --------------------------------------------------------------------------------------------------------


def check_clocks(patient: Patient) -> Iterator[Finding]:
    limit = min(MOST_SKEW, patient.settings.lease / 6)
    skew, unsure = _measure(patient)
    skewed = [(f"this host's clock is {_ahead(skew)} the store's", skew)] if abs(skew) - unsure > limit else []
    unknown = []
    for one in patient.workers:
        said = one.about.get("clock")
        if said is None or one.since is None:
            unknown.append(one.name)
        elif abs(said - one.since) > limit:
            ahead = _ahead(said - one.since)
            skewed.append((f"the clock of worker {one.name} was {ahead} the store's when it came", said - one.since))
    for found, by in skewed:
        yield Finding(
            "clock",
            Severity.error if abs(by) > patient.settings.lease else Severity.warning,
            found,
            "records go by the store's clock alone, but at= and expires= are moments of the clock of whoever enqueues, "
            "and a worker reckons with its own what a deadline or a Retry-After date leaves: all are off by so much",
            "timedatectl set-ntp true on the host that is wrong; compare `date +%s` with `redis-cli TIME`",
        )
    if not skewed:
        checked = len(patient.workers) - len(unknown)
        also = f", and those of {_many(checked, 'worker')}," if checked else ""
        yield Finding("clock", Severity.ok, f"this host's clock{also} and the store's agree within {limit:.2g} s")
    if unknown:
        yield Finding(
            "clock",
            Severity.unchecked,
            f"{some(unknown, NAMED)} did not say what time it is: of a version before this one",
            remedy="restart it with this version of queuekit",
        )


def _measure(patient: Patient) -> tuple[float, float]:
    """By how many seconds this host's clock is ahead of the store's, and how far off that may be."""
    best = (0.0, float("inf"))
    for _ in range(SAMPLES):
        before = patient.clock()
        there = patient.store.now()
        after = patient.clock()
        best = min(best, ((before + after) / 2 - there, abs(after - before) / 2), key=lambda one: one[1])
    return best


def _ahead(by: float) -> str:
    return f"{abs(by):.1f} s {'ahead of' if by > 0 else 'behind'}"


# ---- versions ------------------------------------------------------------------------------------------------------


def check_versions(patient: Patient) -> Iterator[Finding]:
    workers = [one for one in patient.workers if one.about.get("queuekit")]
    old = [one.name for one in patient.workers if not one.about.get("queuekit")]
    found = [*_releases(workers), *_pythons(workers), *_codes(workers)]
    yield from found
    if not any(one.severity is Severity.warning for one in found):
        what = {0: "no worker is alive whose code could differ", 1: "one worker is alive, which differs from none"}
        yield Finding(
            "code-versions",
            Severity.ok,
            what.get(len(workers), f"{len(workers)} workers run the same queuekit, and the same code of each task"),
        )
    if old:
        yield Finding(
            "code-versions",
            Severity.unchecked,
            f"{some(old, NAMED)} did not say which version it is: of one before this",
            remedy="restart it with this version of queuekit",
        )


def _releases(workers: Iterable[Consumer]) -> Iterator[Finding]:
    by = _grouped((str(one.about["queuekit"]), one.name) for one in workers)
    if len(by) > 1:
        yield Finding(
            "code-versions",
            Severity.warning,
            f"workers run different releases of queuekit: {_list(by)}",
            "that is well during a deploy, one minor version at a time: what the old one does not know it hands back",
            "end the deploy: restart the workers of the older one",
        )


def _pythons(workers: Iterable[Consumer]) -> Iterator[Finding]:
    by = _grouped((_minor(one), one.name) for one in workers)
    if len(by) > 1:
        yield Finding(
            "code-versions",
            Severity.hint,
            f"workers run on different Pythons: {_list(by)}",
            "a task may behave otherwise",
        )


def _codes(workers: Iterable[Consumer]) -> Iterator[Finding]:
    """Signatures are compared on one Python at a time, since each writes an annotation in its own way."""
    tasks: dict[str, dict[str, list[Consumer]]] = defaultdict(lambda: defaultdict(list))
    for one in workers:
        for task, code in one.about.get("tasks", {}).items():
            tasks[task][code].append(one)
    for task, by in sorted(tasks.items()):
        signatures = {(_minor(one), code[:HALF]) for code, some in by.items() for one in some}
        sources = {code[HALF:] for code in by} - {"0" * HALF}
        named = _list({code: [one.name for one in some] for code, some in by.items()})
        if len(signatures) > len({python for python, _ in signatures}):
            yield Finding(
                "code-versions",
                Severity.warning,
                f"workers know task {task} with different signatures: {named}",
                "jobs that were enqueued for one are handed back by the other, and wait for a worker of their version, "
                "for unknown_grace at most. That is well during a deploy",
                "end the deploy: restart the workers of the older code; see docs/how-to/rolling-deploys.md",
            )
        elif len(sources) > 1:
            yield Finding(
                "code-versions",
                Severity.warning,
                f"workers run different code of task {task}: {named}",
                "what a job does depends on the worker that takes it. That is well during a deploy",
                "end the deploy: restart the workers of the older code",
            )


def _minor(worker: Consumer) -> str:
    return ".".join(str(worker.about.get("python", "")).split(".")[:2])


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        out[key].append(name)
    return dict(sorted(out.items()))


def _list(by: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} on {some(names, NAMED)}" for key, names in by.items())


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
