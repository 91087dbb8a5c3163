from __future__ import annotations

import dataclasses
import random
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import task as task_module
from queuekit.message import Message, Publication
from queuekit.signing import Signer
from queuekit.store import NewJob
from queuekit.testing import late, tasks
from queuekit.testing.bench import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queuekit.testing.bench import Bench, WorkerBench
    from queuekit.testing.raw import Foreign
    from queuekit.testing.servers import RedisServer, Server


@dataclasses.dataclass(frozen=True, slots=True)
class Forged(Publication):
    """A native message whose header was made by somebody else."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def header(self, *, left_out: bool = False) -> Mapping[str, Any]:
        return {**Publication.header(self, left_out=left_out), **self.changes}


class Whole(Publication):
    """Sent by somebody who leaves nothing out."""

    def within(self, most: int | None) -> Any:
        return super().within(None)


class Renamed(Publication):
    """Sent again under another native id."""

    @property
    def native_id(self) -> str:
        return "another-id"


def forge(publication: Publication, **changes: Any) -> Forged:
    message = dataclasses.replace(publication.message, id=f"{publication.message.id}-forged")
    return Forged(message, publication.pseq, 1, publication.epoch, publication.signer, changes)


HEADERS: dict[str, dict[str, Any]] = {
    "id": {"id": "../../etc/passwd"},
    "version": {"v": 99},
    "number": {"pseq": "1"},
    "route": {"route": "nowhere"},
    "timeout": {"timeout": -1},
}


def in_quarantine(bench: Bench) -> set[tuple[str, str]]:
    return {(one.raw, one.reason) for one in bench.app.store.quarantined(10_000)}


class TestC13:
    """On our queues nothing invalid runs: it goes to quarantine, the worker lives, its neighbours run."""

    clause = "C13"

    @pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS)
    def test_a_header_that_we_did_not_write(self, workers: WorkerBench, changes: dict[str, Any]) -> None:
        before, pid = in_quarantine(workers), workers.worker.pid
        job = tasks.add.enqueue(1)
        workers.ring(forge(workers.publication(job), **changes))
        neighbour = tasks.add.enqueue(2)
        (found,) = workers.until(lambda: in_quarantine(workers) - before, "it is in quarantine")
        assert "forged" in found[0]
        assert found[1]
        assert (job.result(timeout=20), neighbour.result(timeout=20)) == (2, 3)
        assert (workers.worker.pid, workers.worker.exit_code) == (pid, None)

    def test_a_message_that_was_sent_again_under_another_id(self, workers: WorkerBench) -> None:
        """With the doorbell of a job that waits for its time: it stays what it is."""
        before = in_quarantine(workers)
        job = tasks.add.options(delay=600).enqueue(1)
        publication = workers.publication(job)
        workers.ring(Renamed(publication.message, 1, 1, publication.epoch, publication.signer))
        found = workers.until(lambda: in_quarantine(workers) - before, "it is in quarantine")
        assert any("another-id" in raw and f"its doorbell is of the job {job.id}" in reason for raw, reason in found)
        assert job.status() == "scheduled"
        assert job.cancel()

    def test_a_message_that_is_larger_than_any_of_ours(self, new_bench: Callable[..., WorkerBench]) -> None:
        """It is kept shortened."""
        bench = new_bench(payload_limit=40_000)
        bench.start_worker()
        limit = bench.app.settings.doorbell_limit
        job = tasks.add.options(delay=600).enqueue(1)
        publication = bench.publication(job)
        noise = random.Random(1).randbytes(limit).hex()  # noise, of which nothing can be compressed
        large = dataclasses.replace(publication.message, args=[noise])
        bench.ring(Whole(large, publication.pseq, 1, publication.epoch, publication.signer))
        (found,) = bench.until(lambda: in_quarantine(bench), "it is in quarantine")
        assert str(limit) in found[1]
        assert len(found[0]) < limit / 2
        (kept,) = bench.app.store.quarantined(5)
        assert bench.settings["namespace"] in kept.source
        assert tasks.add.enqueue(2).result(timeout=20) == 3
        assert bench.worker.exit_code is None

    def test_with_a_key_nothing_runs_that_nobody_signed(self, new_bench: Callable[..., WorkerBench]) -> None:
        """Neither a doorbell nor a record of somebody without the key; what was signed runs beside them."""
        bench = new_bench(signing_key=secrets.token_hex(32))
        theirs = Signer([secrets.token_hex(32)], bench.settings["namespace"])
        backend = bench.target.backend
        bench.start_worker()
        job = tasks.add.options(delay=600).enqueue(1)
        for number, by in enumerate([None, theirs]):
            bench.ring(dataclasses.replace(forge(bench.publication(job)), signer=by, number=number + 1))
            made = Message(f"record-{number}", tasks.add.name, [1], {}, "default", backend)
            new = NewJob(made.id, made.seal(by), "", made.route, made.id, 60.0)
            created = bench.app.store.create(new)  # with a doorbell of a steward, which has the key
            signer = bench.app.settings.signer
            bench.ring(Publication(made, created.pseq or 0, created.number, created.epoch, signer))
        none = "has no signature, and a signing_key is set here"
        other = "is of none of the keys here, or it was changed"
        wanted = {
            f"the doorbell {none}",
            f"the signature of the doorbell {other} since",
            f"the record of job record-0: the message {none}",
            f"the record of job record-1: the signature of the message {other} since",
        }
        bench.until(lambda: {why for _, why in in_quarantine(bench)} >= wanted, "all four are in quarantine")
        assert tasks.add.enqueue(2).result(timeout=20) == 3
        assert job.status() == "scheduled"
        for number in range(2):
            record = bench.app.store.get(f"record-{number}")
            assert record is not None
            assert record.attempt == 0
            assert not bench.journal.entries(f"record-{number}")
        assert bench.worker.exit_code is None

    def test_a_doorbell_that_names_another_task(self, new_bench: Callable[..., WorkerBench]) -> None:
        """The record says what runs, and with which arguments."""
        bench = new_bench()
        job = tasks.add.enqueue(1)
        publication = bench.publication(job)
        message = dataclasses.replace(publication.message, task=tasks.confidential.name, args=["x"], kwargs={})
        bench.ring(Publication(message, publication.pseq, 2, publication.epoch))
        bench.start_worker()
        assert bench.ended(job).status == "succeeded"
        assert job.result(timeout=0) == 2

    def test_arguments_that_were_changed_on_the_way(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench()
        job = tasks.add.enqueue(1)
        publication = bench.publication(job)
        message = dataclasses.replace(publication.message, args=[1000], kwargs={})
        bench.ring(Publication(message, publication.pseq, 2, publication.epoch))
        bench.start_worker()
        assert job.result(timeout=20) == 2

    def test_foreign_messages(self, workers: WorkerBench, foreign: Foreign) -> None:
        """Not JSON, a pickle, a task that nobody declared: as an attacker, a bug or another program writes them."""
        pid = workers.worker.pid
        ran = workers.folder / "a pickle was read"
        for name, expected, push in foreign.messages(workers.app.settings, "default", ran):
            before = in_quarantine(workers)
            push()
            neighbour = tasks.add.enqueue(1)
            assert neighbour.result(timeout=20) == 2, name
            if expected:
                workers.until(lambda: in_quarantine(workers) != before, f"quarantine: {name}")  # noqa: B023  # at once
            assert (workers.worker.pid, workers.worker.exit_code) == (pid, None), name
        assert not ran.exists()

    def test_a_task_that_this_worker_does_not_know_is_handed_back(self, new_bench: Callable[..., WorkerBench]) -> None:
        """It was deployed with the enqueuing program first, and with the workers later."""
        bench = new_bench()
        worker = bench.start_worker()
        job = late.newcomer.enqueue()
        bench.until(lambda: job.info().attempts, "it was looked at")
        bench.until(lambda: job.info().attempts[-1].outcome == "released", "it was handed back")
        assert tasks.add.enqueue(1).result(timeout=20) == 2
        assert job.status() == "queued"
        worker.kill_all()
        bench.start_worker(TASKS, "queuekit.testing.late", ready=False)
        info = bench.ended(job, within=40)
        assert info.status == "succeeded"
        assert info.attempts[-1].number == 1

    def test_a_task_that_nobody_knows_becomes_a_dead_letter(self, new_bench: Callable[..., WorkerBench]) -> None:
        bench = new_bench(unknown_grace=1.5)
        bench.start_worker()
        job = late.newcomer.enqueue()
        info = bench.ended(job)
        assert info.status == "failed"
        assert info.reason is not None
        assert late.newcomer.name in info.reason

    def test_an_unknown_task_on_any_backend(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        if bench.target.real:
            job = late.newcomer.enqueue()
            bench.until(lambda: job.info().attempts, "it was looked at")
            assert job.cancel()
            return
        job = late.newcomer.enqueue()
        with monkeypatch.context() as patch:
            patch.delitem(task_module._registry, late.newcomer.name)
            assert bench.app.run_next()
            assert job.status() == "queued"
        assert job.result() == "known by now"
        assert [(one.number, one.outcome) for one in job.info().attempts] == [(1, "released"), (1, "succeeded")]

    def test_a_doorbell_without_a_record_is_kept_aside(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        """Its record has expired, or somebody has made it up."""
        import redis

        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url)
        job = tasks.add.enqueue(1)
        client: Any
        with redis.Redis.from_url(store.url) as client:
            for key in client.keys("*"):
                if job.id.encode() in key:
                    client.delete(key)
        bench.start_worker()
        found = bench.until(lambda: in_quarantine(bench), "it is in quarantine")
        assert any(job.id in raw and "has no record of it" in reason for raw, reason in found)
        assert not bench.journal.entries(job.id)
        assert bench.worker.exit_code is None

    def test_a_message_from_before_the_store_was_lost(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        """It may be the last trace of an accepted job: it is kept aside."""
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url)
        job = tasks.add.enqueue(1)
        store.restart(empty=True)
        bench.start_worker()
        found = bench.until(lambda: in_quarantine(bench), "it is in quarantine")
        assert any(job.id in raw and "record was lost" in reason for raw, reason in found)
        assert not bench.journal.entries(job.id)
        assert bench.worker.exit_code is None

    def test_a_message_from_before_the_store_was_lost_can_be_adopted(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, store_lost="adopt")
        job = tasks.add.enqueue(1, b=5)
        store.restart(empty=True)
        bench.start_worker()
        assert bench.until(lambda: bench.journal.entries(job.id, "start"), "it runs")
        assert job.result(timeout=20) == 6

    def test_the_store_comes_back_empty_under_a_worker(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        """Its log says so; what it runs can be recorded nowhere; what waits in the broker it takes as it is set to."""
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, store_lost="adopt")
        worker = bench.start_worker()
        blockers = [tasks.sleep.enqueue(3.0) for _ in range(bench.settings["concurrency"])]
        for blocker in blockers:
            bench.started(blocker)
        jobs = tasks.add.enqueue_many([(n,) for n in range(3)])
        store.restart(empty=True)
        for job in jobs:
            bench.started(job, within=30)
        assert [job.result(timeout=20) for job in jobs] == [1, 2, 3]
        bench.settle()
        ids = [job.id for job in blockers] + [job.id for job in jobs]
        assert [len(bench.journal.entries(id, "start")) for id in ids] == [1] * len(ids)
        assert "the store came back empty" in worker.said()
        assert worker.exit_code is None
