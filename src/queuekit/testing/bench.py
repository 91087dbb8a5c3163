"""A test bench: an App on a namespace of its own, its workers, and what is seen of both."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from queuekit import App, JobCancelled, JobFailed, JobNotReady
from queuekit.message import Message, Publication
from queuekit.settings import Settings
from queuekit.testing.journal import VARIABLE, Journal
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit import Job, JobInfo
    from queuekit.job import Record
    from queuekit.testing.journal import Entry
    from queuekit.testing.target import Target

__all__ = ["LEASE", "SLACK", "TASKS", "TICK", "Bench", "MemoryBench", "WorkerBench", "pauses"]

LEASE = 2.0
TICK = 0.2
SLACK = 4.0  # seconds that a busy test machine may be late by; "never too early" has no slack

TASKS = "queuekit.testing.tasks"
BLOBS = "queuekit.testing.blobs:Blobs"


def pauses(info: JobInfo) -> list[float]:
    """Seconds from the end of each attempt to the start of the next, by the store's clock."""
    return [
        (after.started_at - one.ended_at).total_seconds()
        for one, after in itertools.pairwise(info.attempts)
        if one.ended_at is not None
    ]


class Bench:
    """What holds for every target. `settings` are those of the App, and of the workers."""

    def __init__(self, target: Target, folder: Path, settings: dict[str, Any]) -> None:
        self.target = target
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = {"backend": target.backend, "seed": "conformance", "blobs": BLOBS, **settings}
        self.app = App(Settings(**self.settings))
        self.journal = Journal(folder / "journal")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """What is enqueued in this block goes to this bench."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.journal.path)
        try:
            with self.app.activate():
                yield
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    def close(self) -> None:
        self.app.close()

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def ended(self, job: Job[Any], within: float = 30.0) -> JobInfo:
        """The record of the job once it has ended, however that was. Fails after so many seconds."""
        with suppress(JobFailed, JobCancelled):
            try:
                job.result(timeout=within)
            except JobNotReady as error:
                raise AssertionError(f"{error} after {within} s: {job.info()}") from None
        return job.info()

    def until(self, true: Callable[[], Any], what: object, within: float = 15.0) -> Any:
        """What the function gives, once that is true. Fails after so many seconds."""
        end = time.monotonic() + within
        pause = 0.01
        while not (found := true()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {within} s: {what}")
            if not self.app.run_next():
                time.sleep(pause)
                pause = min(pause * 1.5, 0.1)
        return found

    def started(self, job: Job[Any], attempt: int = 1, within: float = 15.0) -> Entry:
        """The journal's entry of the attempt's start."""

        def look() -> Entry | None:
            starts = self.journal.entries(job.id, "start")
            return next((entry for entry in starts if entry.attempt == attempt), None)

        found: Entry = self.until(look, f"attempt {attempt} of job {job.id} has started", within)
        return found

    # ---- doorbells --------------------------------------------------------------------------------------------------

    def record(self, job: Job[Any]) -> Record:
        record = self.app.store.get(job.id)
        assert record is not None, f"there is no record of job {job.id}"
        return record

    def publication(self, job: Job[Any]) -> Publication:
        """The job's first publication, as it was sent."""
        record = self.record(job)
        signer = self.app.settings.signer
        return Publication(Message.open(record.message), record.pseq, 1, self.app.store.epoch(), signer)

    def ring(self, publication: Publication, times: int = 1) -> None:
        """Publish natively, behind the store's back: a message that is delivered more than once, or forged."""
        for _ in range(times):
            self.app.adapter.publish([publication])

    def settle(self) -> None:
        """Wait until the broker holds nothing more, and what was delivered is dealt with."""
        store, adapter = self.app.store, self.app.adapter
        routes = store.routes(self.target.backend)
        self.until(lambda: not any(adapter.depth(route) for route in routes), "the broker is empty")
        time.sleep(0.3 if self.target.real else 0)


class MemoryBench(Bench):
    """Everything in this process, on the virtual clock."""

    def __init__(self, target: Target, folder: Path) -> None:
        super().__init__(target, folder, {})


class WorkerBench(Bench):
    """A broker, a store, and real workers."""

    def __init__(
        self, target: Target, folder: Path, *, broker_url: str, store_url: str | None = None, **settings: Any
    ) -> None:
        super().__init__(
            target,
            folder,
            {
                "broker_url": broker_url,
                "store_url": store_url or broker_url,
                "namespace": f"test_{secrets.token_hex(4)}",
                "lease": LEASE,
                "tick": TICK,
                "grace": 5.0,
                "pool": target.pool_name,
                "concurrency": 2 if target.pool.concurrent else 1,
                **settings,
            },
        )
        self.workers: list[WorkerProcess] = []

    @property
    def worker(self) -> WorkerProcess:
        """The one that was started last."""
        return self.workers[-1]

    def start_worker(self, *modules: str, ready: bool = True, **settings: Any) -> WorkerProcess:
        """Start one. With `ready` wait until it has done a job."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
        for name, value in {**self.settings, **settings}.items():
            environ[f"QUEUEKIT_{name.upper()}"] = str(value)
        environ[VARIABLE] = str(self.journal.path)
        worker = WorkerProcess(modules or (TASKS,), environ, self.folder)
        self.workers.append(worker)
        if ready:
            self._wait_ready(worker)
        return worker

    def _wait_ready(self, worker: WorkerProcess) -> None:
        from queuekit.testing.tasks import add

        end = time.monotonic() + 40
        job = None
        while True:
            if worker.exit_code is not None or time.monotonic() > end:
                raise AssertionError(
                    f"the worker of {self.target} has done nothing (exit code {worker.exit_code}):\n"
                    f"{worker.said()[-4000:]}"
                )
            with self.app.activate():
                job = job or add.enqueue(1)
                if self.journal.entries(job.id, "start"):
                    name = self.ended(job).attempts[-1].worker  # HOST.PID.RANDOM
                    if int(name.split(".")[-2]) in worker.family():
                        return
                    job = None  # another worker was faster
            time.sleep(0.05)

    def ensure_worker(self) -> WorkerProcess:
        """One worker that runs: the last one, or a new one."""
        if not self.workers or self.worker.exit_code is not None:
            self.start_worker()
        return self.worker

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Start a new worker whenever the last one has ended, as a process manager does."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                if self.worker.exit_code is not None:
                    self.start_worker(ready=False)

        thread = threading.Thread(target=watch, name="supervisor")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        for worker in self.workers:
            worker.kill_all()
        super().close()
