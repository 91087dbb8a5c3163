"""private=True and a codec, with real workers: the marker is searched everywhere but where it is allowed to be."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import private_tasks as tasks
import pytest
import redis
from private_tasks import MARKER

from queuekit import Job
from queuekit.job import TERMINAL
from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import require
from queuekit.testing.servers import RedisServer
from queuekit.testing.target import find_targets

MODULE = str(Path(tasks.__file__))
TARGETS = ("celery-prefork", "celery-threads", "dramatiq", "rq-worker", "rq-simple")


@pytest.fixture(params=TARGETS)
def make(
    request: pytest.FixtureRequest, new_server: Callable[[], RedisServer], tmp_path: Path
) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def place(**settings: Any) -> Place:
        target = find_targets((request.param,))[0]
        if target.missing:
            require(target.missing)
        made.append(Place(WorkerBench(target, tmp_path, broker_url=new_server().url, **settings)))
        return made[-1]

    yield place
    for one in made:
        one.bench.close()


class Place:
    """A server of its own, its workers, and everything that was ever seen in either."""

    def __init__(self, bench: WorkerBench) -> None:
        self.bench = bench
        self.client = redis.Redis.from_url(bench.settings["broker_url"])
        self.seen: dict[bytes, set[bytes]] = {}
        self.prefix = f"queuekit:{{{bench.settings['namespace']}}}:".encode()

    def look(self) -> None:
        """Note every key, and every value in it."""
        for key in self.client.scan_iter(count=1000):
            self.seen.setdefault(key, set()).update(values(self.client, key))

    def run(self, jobs: list[Job[Any]], cancel: Job[Any] | None = None) -> None:
        self.look()  # what waits in the broker
        self.bench.start_worker(MODULE, ready=False)

        def over() -> bool:
            self.look()
            assert self.bench.worker.exit_code is None, self.bench.worker.said()
            if cancel is not None and cancel.status() == "running":
                cancel.cancel("not wanted")
            return all(job.status() in TERMINAL for job in jobs)

        self.bench.until(over, "all have ended", within=60)
        self.look()

    def found(self) -> dict[str, str]:
        """Where the marker stands: a key's name, or "log", and the text around it."""
        places = {"log": self.bench.worker.said()}
        for key, texts in self.seen.items():
            for number, value in enumerate(texts):
                places[f"{key!r} {number}"] = "\n".join(readings(key + b" " + value))
        return {where: around(text) for where, text in places.items() if MARKER in text}

    def allowed(self, where: str) -> bool:
        """The store's own record of the job, and its result."""
        return where.startswith((f"{self.prefix + b'job:'!r}"[:-1], f"{self.prefix + b'result:'!r}"[:-1]))


def values(client: Any, key: bytes) -> list[bytes]:
    match client.type(key):
        case b"string":
            return [client.get(key) or b""]
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return client.zrange(key, 0, -1)
        case b"stream":
            return [part for _, fields in client.xrange(key) for pair in fields.items() for part in pair]
    return []


def readings(value: bytes, depth: int = 3) -> Iterator[str]:
    """As text, and as what base64, zlib and JSON escapes in it say: RQ compresses, kombu encodes."""
    text = value.decode("utf-8", "replace")
    yield text
    if depth == 0:
        return
    for start in (value.find(b"x\x9c"), value.find(b"x\xda")):
        if start >= 0:
            try:
                yield from readings(zlib.decompressobj().decompress(value[start:]), depth - 1)
            except zlib.error:
                pass
    for match in re.finditer(r"[A-Za-z0-9+/]{16,}={0,2}", text):
        try:
            yield from readings(base64.b64decode(match[0] + "=="), depth - 1)
        except ValueError:
            pass


def around(text: str) -> str:
    at = text.index(MARKER)
    return text[max(0, at - 300) : at + 100]


def test_the_scan_finds_what_is_not_private(make: Callable[..., Place]) -> None:
    """Otherwise it would prove nothing."""
    place = make()
    with place.bench.in_use():
        place.run([tasks.in_the_open.enqueue(MARKER)])
    assert [where for where in place.found() if not place.allowed(where)]


def test_a_private_task_is_seen_nowhere_but_in_its_record(make: Callable[..., Place]) -> None:
    place = make(hooks="private_tasks:Recorder")
    with place.bench.in_use():
        jobs = [
            tasks.answer.enqueue(MARKER, system=MARKER),
            tasks.answer.options(priority=9, delay=0.5).enqueue(MARKER),
            tasks.answer_async.enqueue(MARKER),
            tasks.fail.enqueue(MARKER),
            tasks.fail_async.enqueue(MARKER),
            tasks.retried.enqueue(MARKER),
            tasks.unfit.enqueue(MARKER),
            tasks.slow.enqueue(MARKER),
            tasks.group.enqueue(MARKER),
            tasks.unprintable.enqueue(MARKER),
            tasks.exits.enqueue(MARKER),
        ]
        if place.bench.target.pool.processes:
            jobs.append(tasks.killed.enqueue(MARKER))
        cancel = tasks.cancelled.enqueue(MARKER)
        place.run([*jobs, cancel], cancel)
        assert jobs[0].result(timeout=0) == f"answer to {MARKER}{MARKER}"
        records = [place.bench.record(job) for job in [*jobs, cancel]]
    assert "event" in place.bench.worker.said()  # the hook was there
    assert {where: text for where, text in place.found().items() if not place.allowed(where)} == {}
    for record in records:  # not in what the record says of attempts either: only in the message that is to be run
        said = repr((record.runs, record.reason, record.state))
        assert MARKER not in said, record.id


def test_a_codec_hides_arguments_and_results_from_the_record_as_well(make: Callable[..., Place]) -> None:
    place = make(codec="private_tasks:Reversing", hooks="private_tasks:Recorder")
    with place.bench.in_use():
        open_one = tasks.in_the_open.enqueue(MARKER)
        jobs = [open_one, tasks.fail.enqueue(MARKER), tasks.unfit.enqueue(MARKER), tasks.retried.enqueue(MARKER)]
        place.run(jobs)
        assert open_one.result(timeout=0) == f"answer to {MARKER}"
        message = json.loads(place.bench.record(open_one).message)
    assert (message["version"], message["args"]) == (2, [])
    assert place.found() == {}


def test_a_worker_without_the_key_hands_back_and_one_with_it_runs_the_job(make: Callable[..., Place]) -> None:
    place = make(codec="private_tasks:Reversing")
    with place.bench.in_use():
        job = tasks.in_the_open.enqueue(MARKER)
        keyless = {name: value for name, value in place.bench.settings.items() if name != "codec"}
        place.bench.settings, settings = keyless, place.bench.settings
        place.bench.start_worker(MODULE, ready=False)
        place.bench.until(lambda: job.info().attempts and job.info().attempts[0].outcome == "released", "handed back")
        assert "no codec is set here" in (job.info().attempts[0].reason or "")
        place.bench.worker.kill_all()
        place.bench.settings = settings
        place.run([job])
        assert job.result(timeout=0) == f"answer to {MARKER}"
        assert job.info().attempts[-1].number == 1
