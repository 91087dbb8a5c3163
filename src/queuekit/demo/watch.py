"""The records of the jobs, followed while they run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuekit.demo.tasks import Summary, process_document
from queuekit.job import TERMINAL, JobStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from queuekit import App, Attempt, Job, JobInfo
    from queuekit.demo.documents import Document

__all__ = ["Event", "Watch"]


@dataclass(frozen=True)
class Event:
    """An attempt has ended."""

    engine: str
    document: str
    attempt: Attempt


class Watch:
    """The jobs of each engine, with the document's id as the id of its job."""

    def __init__(self, apps: Mapping[str, App], documents: Sequence[Document]) -> None:
        self._apps = apps
        self.engines = tuple(apps)
        self.documents = tuple(document.id for document in documents)
        self._calls = [process_document.options(id=one.id).bind(one.id, one.text) for one in documents]
        self._jobs: dict[tuple[str, str], Job[Summary]] = {}
        self._infos: dict[tuple[str, str], JobInfo] = {}

    def enqueue(self, engine: str) -> None:
        """Hand the engine a job for each document. Raises EnqueueError."""
        app = self._apps[engine]
        with app.activate():
            for job in process_document.enqueue_many(self._calls):
                self._jobs[engine, job.id] = job

    def look(self) -> list[Event]:
        """Read what is not over yet; what has ended since the last look. Raises StoreAway."""
        events: list[Event] = []
        for (engine, id), job in self._jobs.items():
            before = self._infos.get((engine, id))
            if before is not None and before.status in TERMINAL:
                continue
            info = self._infos[engine, id] = job.info()
            known = sum(1 for one in before.attempts if one.ended_at) if before is not None else 0
            ended = [one for one in info.attempts if one.ended_at is not None]
            events += [Event(engine, id, one) for one in ended[known:]]
        return sorted(events, key=lambda event: event.attempt.ended_at or event.attempt.started_at)

    def counts(self, engine: str) -> Counter[JobStatus]:
        """How many of the engine's jobs stand where."""
        return Counter(info.status for (one, _), info in self._infos.items() if one == engine)

    def info(self, engine: str, document: str) -> JobInfo:
        return self._infos[engine, document]

    def result(self, engine: str, document: str) -> Summary | None:
        """None where the job did not succeed."""
        if self.info(engine, document).status is not JobStatus.succeeded:
            return None
        return self._jobs[engine, document].result(timeout=0)

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        expected = len(self.engines) * len(self.documents)
        return len(self._infos) == expected and all(info.status in TERMINAL for info in self._infos.values())
