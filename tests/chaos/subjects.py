"""What a storm falls upon: queuekit on one of its targets, or an engine alone."""

from __future__ import annotations

import base64
import importlib
import itertools
import math
import os
import re
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chaos_tasks
from ledger import VARIABLE

from queuekit import EnqueueError
from queuekit.job import TERMINAL
from queuekit.store import StoreAway
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from ledger import Ledger, Line
    from storm import Storm

    from queuekit import Attempt, Job
    from queuekit.testing.bench import WorkerBench

HERE = Path(__file__).parent
ID = re.compile(rb"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def paths(*more: Path) -> str:
    """PYTHONPATH of a worker: what is beside this file, and what this process has."""
    return os.pathsep.join([str(HERE), *map(str, more), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


class Ours:
    """Queuekit. The bench has the storm's lease, and note_event among its hooks."""

    def __init__(self, bench: WorkerBench) -> None:
        self.bench = bench
        self.workers, self.guarded = 2 if bench.target.pool.concurrent else 3, True
        self.jobs: dict[str, Job[Any]] = {}
        self.ended: set[str] = set()
        self.waited: list[tuple[float, float, float, str]] = []  # seconds, bound, at, job: published after a death
        self._watched: list[tuple[str, int, float, float]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher")
        self._watcher.start()

    def start_worker(self) -> WorkerProcess:
        return self.bench.start_worker("chaos_tasks", ready=False)

    def enqueue(self, seconds: float, failures: int, random: random.Random) -> str | None:
        task = chaos_tasks.work_async if random.random() < 0.2 else chaos_tasks.work
        delay = random.uniform(0.2, 2.0) if random.random() < 0.1 else None
        try:
            job = self.bench.app.enqueue(task.options(delay=delay).bind(seconds, failures))
        except EnqueueError:
            return None
        self.jobs[job.id] = job
        return job.id

    def left(self) -> int:
        with suppress(StoreAway):
            self.ended |= {id for id, job in self.jobs.items() if id not in self.ended and job.status() in TERMINAL}
        return len(self.jobs) - len(self.ended)

    def run_next(self) -> None:
        self.bench.app.run_next()

    # ---- how soon what was killed is published again -----------------------------------------------------------------

    def died(self, lines: list[Line], at: float, bound: float) -> None:
        with self._lock:
            self._watched += [(line.job, len(self.bench.record(self.jobs[line.job]).runs), at, bound) for line in lines]

    def waits(self, bound: float = math.inf) -> bool:
        return any(one[3] <= bound for one in list(self._watched))

    def _watch(self) -> None:
        """By this machine's clock, each 20 ms: the store's may be set."""
        while not self._over.wait(0.02):
            with self._lock:
                for one in list(self._watched):
                    self._look(*one)

    def _look(self, job: str, number: int, at: float, bound: float) -> None:
        try:
            record = self.bench.app.store.get(job)
        except (StoreAway, OSError):
            return
        now = time.time()
        end = record.runs[number - 1][1] if record is not None else {}
        if record is not None and end is None:  # it is still held for running
            return
        again = record is not None and (len(record.runs) > number or str(record.status) == "queued")
        if record is None or record.status in TERMINAL or end["outcome"] not in {"lost", "released"}:
            self._watched.remove((job, number, at, bound))  # it had told its outcome before it was killed
        elif again:
            self.waited.append((now - at, bound, at, job))
            self._watched.remove((job, number, at, bound))

    def close(self) -> None:
        self._over.set()
        self._watcher.join()

    # ---- what came of it --------------------------------------------------------------------------------------------

    def verdict(self, storm: Storm) -> dict[str, Any]:
        begun = Counter(line.job for line in storm.ledger.lines() if line.event == "start")
        accepted: Counter[str] = Counter()
        for entry in self.bench.journal.entries():
            if entry.event in {"event:succeeded", "event:failed", "event:cancelled"}:
                accepted[entry.job] += 1
        statuses: Counter[str] = Counter()
        found = dict.fromkeys(
            ("two_outcomes", "beyond_max_attempts", "starts_without_a_claim", "published", "attempts"), 0
        )
        wrong = []
        for job in self.jobs.values():
            record = self.bench.record(job)
            attempts = record.attempts()
            outcomes = sum(one.outcome in {"succeeded", "failed"} for one in attempts)
            statuses[str(record.status)] += 1
            found["two_outcomes"] += outcomes > 1 or accepted[job.id] > 1
            found["beyond_max_attempts"] += any(one.number > 8 for one in attempts)
            found["published"] = max(found["published"], record.pseq)  # one count for the whole store
            found["attempts"] += len(attempts)
            found["starts_without_a_claim"] += begun[job.id] > len(attempts)
            if what := broken(record.status in TERMINAL, attempts):
                wrong.append(f"{what}: {record.info()}")
        faults = storm.faults
        return {
            **found,
            "redundant_doorbells": found["published"] + faults["double messages"] - faults["delete messages"]
            - found["attempts"],
            **self._waits("steward_left", [one for one in self.waited if one[1] <= 2.0]),
            **self._waits("both_gone", [one for one in self.waited if one[1] > 2.0]),
            "late": [one for one in self.waited if one[0] > one[1]],
            "statuses": dict(statuses),
            "wrong": wrong,
        }  # fmt: skip

    @staticmethod
    def _waits(name: str, waited: Sequence[tuple[float, float, float, str]]) -> dict[str, Any]:
        slowest = max((one[0] for one in waited), default=0.0)
        return {f"slowest_{name}": round(slowest, 2), f"deaths_{name}": len(waited)}


def broken(over: bool, attempts: Sequence[Attempt]) -> str | None:
    """What of a job's history is not as it has to be."""
    # A last attempt that was lost with others does not count, and is made once more, alone.
    spared = Counter(one.number for one in attempts if one.outcome == "released" and one.company)
    numbers = [one.number for one in attempts if one.outcome != "released"]
    if over and numbers != list(range(1, len(numbers) + 1)):
        return "attempts that are not numbered one by one"
    if sum(spared.values()) > 2:
        return "a last attempt that was made again and again"
    if not all(one.outcome in {"retried", "lost", "released"} for one in attempts[:-1]):
        return "an attempt after the one that ended it"
    # or the process in which it was to run alone was killed before it began
    if any(one.outcome == "released" and not one.company and "alone" not in (one.reason or "") for one in attempts):
        return "an attempt that was released without need"
    for one, after in itertools.pairwise(attempts):
        assert one.ended_at is not None
        if (after.started_at - one.ended_at).total_seconds() < (one.delay or 0) - 0.001:
            return "an attempt before its time"
    return None


class Bare:
    """An engine alone: the module of its own, and what its documentation recommends."""

    def __init__(self, engine: str, ledger: Ledger, folder: Path, broker: str, results: str) -> None:
        self.ledger, self.folder = ledger, folder
        self.environ = {"BARE_BROKER": broker, "BARE_RESULTS": results, VARIABLE: str(ledger.path)}
        os.environ.update(self.environ)
        sys.path.insert(0, str(HERE / "bare"))
        self.engine = importlib.import_module(f"bare_{engine}")
        self.workers, self.guarded = 3 if engine == "rq" else 2, False
        self.native: dict[str, str] = {}

    def start_worker(self) -> WorkerProcess:
        environ = {**os.environ, **self.environ, "PYTHONPATH": paths(HERE / "bare")}
        return WorkerProcess((), environ, self.folder, command=self.engine.COMMAND)

    def enqueue(self, seconds: float, failures: int, random: random.Random) -> str | None:
        job = uuid.UUID(int=random.getrandbits(128)).hex
        try:
            self.native[job] = self.engine.enqueue(job, seconds, failures)
        except Exception:
            return None
        return job

    def left(self) -> int:
        return len(self.native.keys() - {line.job for line in self.ledger.lines() if line.event == "end"})

    def died(self, lines: list[Line], at: float, bound: float) -> None:
        pass

    def waits(self, bound: float = math.inf) -> bool:
        return False

    def run_next(self) -> None:
        pass

    def close(self) -> None:
        pass

    def verdict(self, storm: Storm) -> dict[str, Any]:
        ended = {line.job for line in self.ledger.lines() if line.event == "end"}
        return {"lost_deleted": len((self._deleted(storm.deleted) & set(storm.jobs)) - ended)}

    def _deleted(self, messages: Sequence[bytes]) -> set[str]:
        """The jobs of these messages, which the storm took out of the broker."""
        ours = {theirs: job for job, theirs in self.native.items()}
        found = set()
        for body in messages:
            texts = [body, *(base64.b64decode(part) for part in re.findall(rb'"body": "([^"]+)"', body))]
            ids = {one.decode() for text in texts for one in ID.findall(text)}
            found |= {ours[one] for one in ids & ours.keys()} | (ids & self.native.keys())
        return found
