"""Jobs in every state that a job can be in, made with a real worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents import summarise

from queuekit.job import JobStatus
from queuekit.testing.bench import TASKS

if TYPE_CHECKING:
    from queuekit import Job
    from queuekit.testing.bench import WorkerBench

AGENTS = Path(__file__).with_name("agents.py")


@dataclass
class Jobs:
    """By the words of the table in docs/reference/states.md: the engine's ids of their publications."""

    bench: WorkerBench
    ids: dict[str, str] = field(default_factory=dict)
    running: Job[Any] | None = None

    def start_worker(self) -> None:
        self.bench.start_worker(TASKS, str(AGENTS), queues="default,documents")

    def make(self) -> None:
        """All but `released`. The one that runs on is made last."""
        bench, ids = self.bench, self.ids
        ids["scheduled"] = summarise.options(delay=3600).enqueue("next-week.txt").id
        ids["queued"] = summarise.options(queue="unserved").enqueue("waiting.txt").id

        done = summarise.enqueue("report.txt")
        assert bench.ended(done).status is JobStatus.succeeded
        ids["succeeded"] = done.id

        failed = summarise.enqueue("broken.txt")
        assert bench.ended(failed).status is JobStatus.failed
        ids["failed"] = failed.id

        retrying = summarise.enqueue("rate-limited.txt")
        bench.until(lambda: retrying.status() is JobStatus.retrying, "it waits for its retry")
        ids["retrying"] = retrying.id

        waiting = summarise.options(queue="unserved").enqueue("cancelled-early.txt")
        assert waiting.cancel("not wanted")
        assert waiting.status() is JobStatus.cancelled
        ids["cancelled before its start"] = waiting.id

        stopped = self.run("cancelled.txt")
        stopped.cancel("not wanted any more")
        assert bench.ended(stopped).status is JobStatus.cancelled
        ids["cancelled while it ran"] = stopped.id

        twice = summarise.enqueue("twice.txt")
        assert bench.ended(twice).status is JobStatus.succeeded
        # What a steward publishes when it takes a message for lost: under another id of the engine's.
        again = replace(bench.publication(twice), number=2)
        bench.ring(again)
        bench.until(lambda: bench.app.adapter.depth(again.message.route) == 0, "the duplicate was taken")
        ids["a duplicate, dropped"] = again.native_id

        self.running = self.run("long.txt")
        ids["running"] = self.running.id

    def crash(self) -> None:
        """The publication whose worker process died, and the one after it."""
        lost = summarise.enqueue("crash.txt")
        if not self.bench.target.pool.processes:  # the worker itself has died
            self.bench.worker.wait(30)
            self.start_worker()
        info = self.bench.ended(lost, within=60)
        assert [one.outcome for one in info.attempts] == ["lost", "succeeded"]
        record = self.bench.record(lost)
        self.ids["lost"] = lost.id
        self.ids["lost, and run again"] = f"{lost.id}-{record.pseq}"

    def release(self) -> None:
        """The worker stops, and hands back what runs."""
        assert self.running is not None
        self.bench.worker.terminate()
        self.bench.worker.wait(60)
        assert [one.outcome for one in self.running.info().attempts] == ["released"]
        self.ids["released"] = self.ids.pop("running")

    def run(self, document: str) -> Job[Any]:
        job = summarise.enqueue(document)
        self.bench.until(lambda: job.status() is JobStatus.running, f"{document} runs", within=30)
        return job
