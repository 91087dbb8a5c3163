"""The pool `async` writes RQ's books of an attempt itself: what is in them is what RQ's own worker writes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis

pytest.importorskip("rq", reason="RQ is not installed")

from rq import Queue, SimpleWorker  # noqa: E402  # after the check that it is there
from rq.job import Job, JobStatus  # noqa: E402
from rq.results import Result  # noqa: E402
from rq.serializers import JSONSerializer  # noqa: E402
from rq.worker import WorkerStatus  # noqa: E402
from rq_workers import run_all  # noqa: E402

from queuekit.adapters.rq import NATIVE_TTL  # noqa: E402
from queuekit.adapters.rq.aio import _Bookkeeper  # noqa: E402
from queuekit.adapters.rq.job import DoorbellJob  # noqa: E402
from queuekit.execution.outcomes import Failed, Succeeded  # noqa: E402

if TYPE_CHECKING:
    pass

VALUES = [3, None, "text", {"a": [1, 2.5, None]}, "ü\N{GRINNING FACE}"]


def give(value: Any) -> Any:
    return value


def by_rq(connection: redis.Redis, value: Any) -> Job:
    """A job that RQ's worker has run."""
    queue = Queue("theirs", connection=connection, serializer=JSONSerializer)
    job = queue.enqueue_call(give, args=[value], job_id="theirs", result_ttl=NATIVE_TTL)
    run_all(connection, SimpleWorker, "theirs")
    return job


def books_on(connection: redis.Redis) -> _Bookkeeper:
    made = _Bookkeeper(
        ["ours"], connection=connection, job_class=DoorbellJob, serializer=JSONSerializer, default_result_ttl=NATIVE_TTL
    )
    made.qk = SimpleNamespace(pool="async", name="w", settings=SimpleNamespace(namespace="n"))  # type: ignore[assignment]
    return made


def taken(connection: redis.Redis, value: Any, *, private: bool = False) -> DoorbellJob:
    queue = Queue("ours", connection=connection, serializer=JSONSerializer)
    queue.enqueue_call("give", args=[value], job_id="ours", result_ttl=NATIVE_TTL)
    job = DoorbellJob("ours", connection=connection, serializer=JSONSerializer)
    job.restore(connection.hgetall("rq:job:ours"))
    job.place = "ours"
    job.adopted = SimpleNamespace(bell=SimpleNamespace(private=private))  # type: ignore[assignment]
    return job


def text_of(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def own(connection: redis.Redis, name: str) -> tuple[set[bytes], list[set[bytes]]]:
    """The fields of a job's hash, and those of its results."""
    return set(connection.hgetall(f"rq:job:{name}")), [
        set(fields) for _, fields in connection.xrange(Result.get_key(name))
    ]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_success_is_told_as_rqs_own_worker_tells_it(connection: redis.Redis, value: Any) -> None:
    theirs = by_rq(connection, value)
    books = books_on(connection)
    job = taken(connection, value)
    books.begin([job])
    started = Job.fetch("ours", connection=connection, serializer=JSONSerializer)
    assert started.get_status() is JobStatus.STARTED
    assert started.started_at == started.last_heartbeat == job.started_at
    assert started.worker_name == books.name
    assert connection.zcard("rq:wip:ours") == 1
    assert connection.ttl("rq:job:ours") == -1
    assert connection.hget(books.key, "state") == WorkerStatus.BUSY.encode()

    books.say([(job, Succeeded(value, text_of(value)))])
    fields, results = own(connection, "ours")
    their_fields, their_results = own(connection, "theirs")
    assert fields >= their_fields - {b"group_id", b"success_callback_name"}
    assert [one | {b"execution_id"} for one in results] == their_results
    ours = Job.fetch("ours", connection=connection, serializer=JSONSerializer)
    assert ours.get_status() is theirs.get_status() is JobStatus.FINISHED
    assert ours.return_value() == theirs.return_value() == value
    last = ours.latest_result()
    assert last is not None
    assert last.type is Result.Type.SUCCESSFUL
    assert last.worker_name == books.name
    assert ours.ended_at is not None
    assert ours.started_at is not None
    assert ours.ended_at >= ours.started_at
    for key in ("rq:job:", "rq:results:"):
        assert 0 < connection.ttl(key + "ours") <= NATIVE_TTL
        assert abs(connection.ttl(key + "ours") - connection.ttl(key + "theirs")) <= 2
    assert connection.zcard("rq:wip:ours") == 0
    assert connection.zrange("rq:finished:ours", 0, -1) == [b"ours"]
    assert connection.hget(books.key, "state") == WorkerStatus.IDLE.encode()
    assert connection.hget(books.key, "successful_job_count") == b"1"


def test_what_is_private_is_not_told(connection: redis.Redis) -> None:
    books, job = books_on(connection), taken(connection, "secret", private=True)
    books.begin([job])
    books.say([(job, Succeeded("secret", '"secret"'))])
    assert Job.fetch("ours", connection=connection, serializer=JSONSerializer).return_value() is None
    assert job.get_status() is JobStatus.FINISHED


def test_a_failure_and_a_success_in_one_conversation(connection: redis.Redis) -> None:
    books = books_on(connection)
    first = taken(connection, 1)
    connection.copy("rq:job:ours", "rq:job:second")
    second = DoorbellJob("second", connection=connection, serializer=JSONSerializer)
    second.restore(connection.hgetall("rq:job:second"))
    second.place, second.adopted = "ours", first.adopted
    books.begin([first, second])
    books.say([(first, Succeeded(1, "1")), (second, Failed("it failed", ValueError("no")))])
    assert connection.zrange("rq:finished:ours", 0, -1) == [b"ours"]
    assert connection.zrange("rq:failed:ours", 0, -1) == [b"second"]
    assert connection.hmget(books.key, "successful_job_count", "failed_job_count") == [b"1", b"1"]
    assert connection.zcard("rq:wip:ours") == 0
