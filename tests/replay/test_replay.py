"""What an earlier version has recorded and published is run to its end by real workers of this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import replay_tasks
from replaying import RECORDED, Recording

from queuekit import Job, JobFailed, JobInfo
from queuekit.job import TERMINAL
from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import require
from queuekit.testing.servers import RedisServer
from queuekit.testing.target import find_targets

MODULE = str(Path(replay_tasks.__file__))
ENGINES = {"celery": "celery-prefork", "dramatiq": "dramatiq", "rq": "rq-worker"}
PREFIX = "queuekit:{{replay-{engine}}}:"


class Replay:
    """A recording in a server of its own, and the workers of one engine on it."""

    def __init__(self, engine: str, path: Path, server: RedisServer, folder: Path) -> None:
        target = find_targets((ENGINES[engine],))[0]
        if target.missing:
            require(target.missing)
        self.recording = Recording(path)
        self.jobs = self.recording.jobs(engine)
        self.prefix = PREFIX.format(engine=engine)
        self.client = redis.Redis.from_url(server.url, decode_responses=True)
        self.recording.load(self.client)
        self.bench = WorkerBench(
            target,
            folder,
            broker_url=server.url,
            namespace=f"replay-{engine}",
            concurrency=1,
            **self.recording.settings,
        )

    def was(self, state: str) -> list[dict[str, Any]]:
        return [job for job in self.jobs if job["was"] == state]

    def fields(self, id: str) -> dict[str, str]:
        return self.client.hgetall(f"{self.prefix}job:{id}")  # type: ignore[return-value]

    def work(self) -> None:
        self.bench.start_worker(MODULE, ready=False)

    def check(self, job: dict[str, Any]) -> None:
        """Wait until it has ended, and see that it ended as it had to."""
        found: Job[Any] = Job.fetch(job["id"])
        info = self.ended(found)
        last = info.attempts[-1].number if info.attempts else 0
        assert (info.task, info.status, last) == (job["task"], job["status"], job["attempts"]), info
        if job["status"] == "succeeded":
            assert found.result(timeout=0) == job["result"]

    def ended(self, job: Job[Any]) -> JobInfo:
        def over() -> bool:
            assert not self.bench.workers or self.bench.worker.exit_code is None, self.bench.worker.said()[-3000:]
            return job.status() in TERMINAL

        self.bench.until(over, f"{job} has ended", within=60)
        return job.info()

    def close(self) -> None:
        self.bench.close()
        self.client.close()


@pytest.fixture(params=sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(params=ENGINES)
def replay(
    request: pytest.FixtureRequest, recorded: Path, new_server: Callable[[], RedisServer], tmp_path: Path
) -> Iterator[Replay]:
    made = Replay(request.param, recorded, new_server(), tmp_path)
    with made.bench.in_use():
        yield made
    made.close()


def test_every_job_comes_to_the_end_that_it_had_to(replay: Replay) -> None:
    for job in replay.was("succeeded"):
        replay.check(job)  # its result is read before any worker has touched it
    replay.work()
    for job in replay.jobs:
        replay.check(job)
    assert replay.bench.app.store.quarantined(10) == []


def test_a_dead_letter_of_then_can_be_revived(replay: Replay) -> None:
    (dead,) = replay.was("failed")
    replay.work()
    job = replay.bench.app.revive(dead["id"])
    info = replay.ended(job)
    assert [(one.number, one.outcome) for one in info.attempts] == [(1, "failed"), (2, "failed")]
    with pytest.raises(JobFailed, match="as recorded"):
        job.result(timeout=0)


@pytest.mark.parametrize("what", ["message", "record"])
def test_after_a_downgrade_a_later_one_is_handed_back_and_not_broken(replay: Replay, what: str) -> None:
    """Its own version comes back, and runs it to the right end, in its first attempt."""
    later, other = replay.was("queued")[:2]
    key = f"{replay.prefix}job:{later['id']}"
    before = replay.fields(later["id"])
    if what == "message":
        message = {**json.loads(before["message"]), "version": 99, "args": {"packed": "by a later version"}}
        replay.client.hset(key, "message", json.dumps(message))
    else:
        replay.client.hset(key, mapping={"v": 99, "state": "of a later version"})
    there = replay.fields(later["id"])
    replay.work()
    replay.check(other)
    seen = "unread" if what == "record" else "end1"
    replay.bench.until(lambda: seen in replay.fields(later["id"]), "it was handed back", within=30)
    now = replay.fields(later["id"])
    assert (now["status"], now["attempt"]) == ("queued", "0")
    kept = ("message", "state", "v") if what == "record" else ("message", "state")
    assert {name: now.get(name) for name in kept} == {name: there.get(name) for name in kept}
    with replay.client.pipeline() as pipe:
        pipe.hset(key, "message", before["message"])
        pipe.hset(key, "state", before["state"])
        pipe.hdel(key, "v")
        pipe.execute()
    replay.check(later)


def test_after_a_downgrade_for_good_it_is_a_dead_letter(replay: Replay) -> None:
    """Nobody reads it, not even a steward: it is published by its frame, and handed back, until the grace is over."""
    job = replay.was("queued")[0]
    key = f"{replay.prefix}job:{job['id']}"
    message = {**json.loads(replay.fields(job["id"])["message"]), "version": 99}
    replay.client.hset(key, "message", json.dumps(message))
    replay.bench.start_worker(MODULE, ready=False, unknown_grace=3)
    info = replay.ended(Job.fetch(job["id"]))
    assert info.status == "failed"
    assert "version 99" in (info.reason or "")
    assert {one.outcome for one in info.attempts[:-1]} == {"released"}
    assert len(info.attempts) >= 2
    assert all(Job.fetch(one["id"]).status() in TERMINAL for one in replay.was("cancelled"))
