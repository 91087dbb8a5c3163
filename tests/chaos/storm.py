"""A storm: workers under a supervisor, jobs that come in, and a seeded list of faults, on queuekit or a bare engine."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from brokers import Waiting

from queuekit.testing.process import living, send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clock import ShiftedServer
    from ledger import Ledger, Line

    from queuekit.testing.process import WorkerProcess
    from queuekit.testing.proxy import Proxy
    from queuekit.testing.servers import Server

LEASE = 5.0  # seconds
LEFT_ALONE = 120.0  # seconds after the storm in which not one more job ends, until the rest counts as lost

FULL = {
    "kill a worker with all its processes": 18,
    "kill a parent alone": 17,
    "kill a child alone": 15,
    "kill a steward": 50,
    "double messages": 100,
    "delete messages": 100,
    "stop a worker for less than its lease": 3,
    "stop a worker for longer than its lease": 2,
    "restart the broker": 5,
    "empty the broker": 2,
    "restart the store": 2,
    "silence the broker": 2,
    "silence the store": 2,
    "set the clock of the store forward": 2,
}
SMALL = {
    "kill a worker with all its processes": 2,
    "kill a parent alone": 3,
    "kill a child alone": 3,
    "kill a steward": 4,
    "double messages": 8,
    "delete messages": 8,
    "stop a worker for longer than its lease": 1,
    "restart the broker": 1,
    "empty the broker": 1,
    "restart the store": 1,
}
BURST = 4  # messages doubled or deleted at a time
KILLS = ("kill a worker with all its processes", "kill a parent alone", "kill a child alone")
OUTAGES = (
    "restart the broker", "empty the broker", "restart the store", "silence the broker", "silence the store",
    "set the clock of the store forward",
)  # fmt: skip


T = TypeVar("T")


class Subject(Protocol):
    """What the storm falls upon."""

    workers: int  # at a time
    guarded: bool  # each of them has a steward

    def start_worker(self) -> WorkerProcess: ...
    def enqueue(self, seconds: float, failures: int, random: random.Random) -> str | None:
        """The job's id in the ledger; None: it was refused."""
        ...

    def left(self) -> int:
        """How many jobs have not ended."""
        ...

    def died(self, lines: list[Line], at: float, bound: float) -> None:
        """These executions were killed then; within so many seconds they ought to be published again."""

    def waits(self, bound: float = math.inf) -> bool:
        """Whether a publication after a death is still waited for, of those that ought to come within `bound`."""
        ...

    def run_next(self) -> None:
        """Something to be done now and then."""

    def verdict(self, storm: Storm) -> dict[str, Any]:
        """What it has to say of its jobs beside the ledger."""
        ...


class Fleet:
    """Workers as processes of their own; one that ends is followed by another."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.now = [subject.start_worker() for _ in range(subject.workers)]
        self.all = list(self.now)
        self.ended: Counter[int] = Counter()  # exit codes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._thread.start()

    def _supervise(self) -> None:
        while not self._over.wait(0.1):
            for index, worker in enumerate(self.now):
                if (code := worker.exit_code) is not None:
                    self.ended[code] += 1
                    self.now[index] = self.subject.start_worker()
                    self.all.append(self.now[index])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for worker in self.all:
            worker.kill_all()


class Storm:
    def __init__(
        self,
        subject: Subject,
        ledger: Ledger,
        broker: Server,
        *,
        seed: int,
        jobs: int,
        counts: Mapping[str, int],
        store: Server | None = None,
        proxies: Mapping[str, Proxy] | None = None,
        afterwards: Literal["cut", "silent"] = "silent",  # what becomes of connections that were silenced
    ) -> None:
        self.subject, self.ledger, self.broker, self.store = subject, ledger, broker, store
        self.proxies, self.afterwards = dict(proxies or {}), afterwards
        self.random = random.Random(seed)
        self.jobs_wanted, self.counts = jobs, dict(counts)
        self.waiting = Waiting(broker, self.random)
        self.jobs: list[str] = []
        self.refused = 0
        self.faults: Counter[str] = Counter()
        self.struck: list[tuple[str, float]] = []  # faults, and when they began
        self.frozen: set[int] = set()  # processes that were stopped: whose jobs may be run again meanwhile
        self.deaths: list[tuple[Line, float]] = []  # executions that were killed, and when
        self.deleted: list[bytes] = []
        self.quiet_until = 0.0  # while the stewards believe nobody to be dead
        self._hours = 0

    # ---- the course of it -------------------------------------------------------------------------------------------

    def plan(self) -> list[str]:
        """The faults in their order; an outage is no neighbour of another one."""
        steps = []
        for what, count in self.counts.items():
            if what not in OUTAGES:
                steps += [what] * (-(-count // BURST) if what.endswith(" messages") else count)
        self.random.shuffle(steps)
        outages = [what for what in OUTAGES for _ in range(self.counts.get(what, 0))]
        self.random.shuffle(outages)
        for index, what in enumerate(outages):
            steps.insert((index + 1) * (len(steps) + 1) // (len(outages) + 1), what)
        return steps

    def run(self, fleet: Fleet, say: Callable[[str], None]) -> None:
        self.fleet = fleet
        steps = self.plan()
        for index, what in enumerate(steps):
            while len(self.jobs) < self.jobs_wanted * (index + 1) / len(steps):
                self.enqueue()
            self.strike(what)
            if index % 20 == 0:
                say(f"{index} of {len(steps)} faults, {len(self.jobs)} jobs, {self.subject.left()} left")
            self.pause(self.random.uniform(0.1, 0.7))
        for what in ("double messages", "delete messages"):  # the workers may have been faster
            for _ in range(100):
                if self.faults[what] >= self.counts.get(what, 0):
                    break
                self.strike(what)

    def enqueue(self, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = self.random.choice([0.02, 0.05, 0.1, 0.1, 0.2, 0.3, 0.6])
        failures = self.random.choice([0, 0, 0, 0, 0, 0, 1])
        job = self.subject.enqueue(seconds, failures, self.random)
        if job is None:
            self.refused += 1
            assert self.jobs or self.refused < 50, "not one job was taken: what is enqueued to is not there"
        else:
            self.jobs.append(job)

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.subject.run_next()
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))

    def until(self, true: Callable[[], T], seconds: float) -> T:
        """What the function gives, once that is true, or at the end of so many seconds."""
        end = time.monotonic() + seconds
        while not (found := true()) and time.monotonic() <= end:
            self.pause(0.02)
        return found

    # ---- faults -----------------------------------------------------------------------------------------------------

    def strike(self, what: str) -> None:
        self.struck.append((what, time.time()))
        if what in OUTAGES:
            self.until(lambda: not self.subject.waits(), 2 * LEASE + 5)  # what was lost before is not held up by it
            self._outage(what)
        elif what.endswith(" messages"):
            for _ in range(BURST + 2):
                self.enqueue()
            struck = self.waiting.double if what.startswith("double") else self._delete
            for _ in range(BURST):
                with suppress(OSError, ConnectionError):
                    self.faults[what] += bool(struck())
        elif what == "kill a steward":
            self.until(lambda: not self.subject.waits(2.0), 5)  # it may be the one that sees to it
            self.faults[what] += self._kill_steward()
        elif what.startswith("stop a worker"):
            self.until(lambda: not self.subject.waits(2.0), 5)
            self._freeze(LEASE + 3 if "longer" in what else 2.0)
            self.faults[what] += 1
        else:
            self.pause(max(0.0, self.quiet_until - time.monotonic()))
            # One of the others is there to see it. Where none has been for a third of a lease, nobody is taken for dead
            # for a whole one: that is another promise.
            if self.subject.guarded:
                self.until(lambda: len(self._stewards()) >= self.subject.workers, 10)
            self._kill(what)

    def _delete(self) -> bool:
        body = self.waiting.delete()
        if body is not None:
            self.deleted.append(body)
        return body is not None

    def _busy(self) -> WorkerProcess | None:
        """A worker that runs a job just now."""
        workers = [one for one in self.fleet.now if one.exit_code is None]
        self.random.shuffle(workers)
        return next((one for one in workers if self.ledger.running(set(one.family()))), None)

    def _kill(self, what: str) -> None:
        for _ in range(2):
            self.enqueue(1.0)
        worker = self.until(self._busy, 15) or self.random.choice(self.fleet.now)
        family = set(worker.family())
        stewards = set(worker.stewards())
        children = [line.pid for line in self.ledger.running(family - {worker.pid})]
        if what == "kill a child alone" and not children:
            what = "kill a parent alone"  # the pool has no children
        if what == "kill a child alone":
            victim = self.random.choice(children)
            send(SIGKILL, victim)
            dead, bound = {victim}, 2.0
        elif what == "kill a parent alone":
            worker.kill()
            dead, bound = family - stewards, 2.0
        else:
            worker.kill_all()
            dead, bound = family, LEASE + 2.0
        at = time.time()
        if not stewards:
            bound = LEASE + 2.0
        self.until(lambda: not living(dead), 3.0)
        killed = self.ledger.running(dead)
        self.deaths += [(line, at) for line in killed]
        self.subject.died(killed, at, bound)
        self.faults[what] += 1

    def _kill_steward(self) -> bool:
        stewards = self.until(self._stewards, 10)  # a new worker has none for a moment
        if stewards:
            send(SIGKILL, self.random.choice(stewards))
        return bool(stewards)

    def _stewards(self) -> list[int]:
        return [pid for one in self.fleet.now if one.exit_code is None for pid in one.stewards()]

    def _freeze(self, seconds: float) -> None:
        worker = self.random.choice(self.fleet.now)
        family = worker.family()
        self.frozen |= set(family)
        send(SIGSTOP, *family)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.enqueue()
            self.pause(0.4)
        send(SIGCONT, *family)
        self.pause(1.0)

    def _outage(self, what: str) -> None:
        server = self.store if "store" in what else self.broker
        assert server is not None
        if what.startswith("restart"):
            server.restart()
        elif what.startswith("empty"):
            server.empty()
        elif what.startswith("silence"):
            proxy = self.proxies["store" if "store" in what else "broker"]
            proxy.silence()
            self.pause(4.0)
            proxy.restore(old=self.afterwards)
        else:
            self._hours += 1
            shifted: ShiftedServer = server  # type: ignore[assignment]
            shifted.shift(3600 * self._hours)
        self.faults[what] += 1
        # Nobody is taken for dead in the first lease after that; and a node of RabbitMQ takes its time.
        self.quiet_until = time.monotonic() + LEASE + 2.0
