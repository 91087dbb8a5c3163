"""What our adapter takes for granted of RQ 3. A failure here after an upgrade of RQ says what to look at."""

from __future__ import annotations

import inspect
import json
import os
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import redis

rq = pytest.importorskip("rq", reason="RQ is not installed")

from rq import Queue, SimpleWorker, Worker  # noqa: E402  # after the check that it is there
from rq.job import Job, JobStatus  # noqa: E402
from rq.results import Result  # noqa: E402
from rq.serializers import JSONSerializer  # noqa: E402
from rq.worker import BaseWorker  # noqa: E402
from rq_workers import run_all  # noqa: E402

if TYPE_CHECKING:
    pass


def queue_on(connection: redis.Redis, name: str = "q", **options: Any) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer, **options)


def add(a: int, b: int) -> int:
    return a + b


def fail() -> None:
    raise ValueError("no")


def test_version() -> None:
    assert rq.VERSION.startswith("3.")


@pytest.mark.parametrize(
    ("owner", "hook", "parameters"),
    [
        (BaseWorker, "perform_job", ["self", "job", "queue", "execution"]),
        (BaseWorker, "prepare_execution", ["self", "job"]),
        (BaseWorker, "handle_job_success", ["self", "job", "queue", "started_job_registry", "execution"]),
        (BaseWorker, "heartbeat", ["self", "timeout", "pipeline"]),
        (BaseWorker, "request_stop", ["self", "signum", "frame"]),
        (BaseWorker, "dequeue_job_and_maintain_ttl", ["self", "timeout", "max_idle_time"]),
        (BaseWorker, "serialize", ["self"]),
        (
            BaseWorker,
            "work",
            [
                "self",
                "burst",
                "logging_level",
                "date_format",
                "log_format",
                "max_jobs",
                "max_idle_time",
                "with_scheduler",
                "dequeue_strategy",
            ],
        ),
        (BaseWorker, "request_force_stop", ["self", "signum", "frame"]),
        (BaseWorker, "setup_work_horse_signals", ["self"]),
        (BaseWorker, "maintain_heartbeats", ["self", "job", "execution"]),
        (BaseWorker, "run_maintenance_tasks", ["self"]),
        (BaseWorker, "subscribe", ["self"]),
        (BaseWorker, "_install_signal_handlers", ["self"]),
        (Worker, "execute_job", ["self", "job", "queue"]),
        (Worker, "fork_work_horse", ["self", "job", "queue"]),
        (Worker, "monitor_work_horse", ["self", "job", "queue", "execution"]),
        (Worker, "handle_work_horse_killed", ["self", "job", "retpid", "ret_val", "rusage"]),
        (SimpleWorker, "execute_job", ["self", "job", "queue"]),
    ],
)
def test_hooks_that_we_override_have_the_signatures_that_we_know(owner: type, hook: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, hook)).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize("worker_class", [Worker, SimpleWorker])
def test_perform_job_is_the_one_place_where_a_job_runs(
    connection: redis.Redis, worker_class: type[BaseWorker], tmp_path: Any
) -> None:
    said = tmp_path / "said"

    class Ours(worker_class):  # type: ignore[valid-type,misc]
        def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
            said.write_text(f"{job.id} {execution.job_id} {os.getpid() != parent}")
            return True

    parent = os.getpid()
    job = queue_on(connection).enqueue_call(add, args=[1, 2])
    run_all(connection, Ours)
    assert said.read_text() == f"{job.id} {job.id} {worker_class is Worker}"
    # Nothing was prepared or finished around it: the hash is as it was.
    assert job.get_status() is JobStatus.QUEUED


def test_dequeue_any_is_how_a_worker_takes_jobs(connection: redis.Redis) -> None:
    asked: list[Any] = []

    class Ours(Queue):
        @classmethod
        def dequeue_any(cls, queues: Any, timeout: int | None, connection: redis.Redis, **options: Any) -> Any:
            asked.append((sorted(options), timeout))
            return None

    run_all(connection, SimpleWorker, queue_class=Ours)
    assert asked == [(["death_penalty_class", "job_class", "serializer"], None)]


def test_a_queue_is_first_in_first_out_and_its_length_is_that_of_a_list(connection: redis.Redis) -> None:
    queue = queue_on(connection)
    ids = [queue.enqueue_call(add, args=[1, n], job_id=f"job{n}").id for n in range(3)]
    assert connection.llen(queue.key) == 3
    assert [raw.decode() for raw in connection.lrange(queue.key, 0, -1)] == ids  # taken from the left by BLPOP
    assert connection.blpop([queue.key], 1) == (queue.key.encode(), b"job0")


def test_enqueue_job_in_a_pipeline_writes_nothing_before_the_pipeline_runs(connection: redis.Redis) -> None:
    queue = queue_on(connection)
    with connection.pipeline() as pipe:
        job = Job.create("name.of.it", args=[1], connection=connection, id="one", serializer=JSONSerializer)
        queue.enqueue_job(job, pipeline=pipe)
        assert not connection.exists("rq:job:one")
        pipe.execute()
    assert connection.exists("rq:job:one")
    assert Job.fetch("one", connection=connection, serializer=JSONSerializer).args == [1]


def test_a_finished_id_that_is_enqueued_again_keeps_its_old_time_to_live(connection: redis.Redis) -> None:
    """Why each publication has an id of its own."""
    queue = queue_on(connection)
    queue.enqueue_call(add, args=[1, 2], job_id="again", result_ttl=100)
    run_all(connection, SimpleWorker)
    queue.enqueue_call(add, args=[1, 2], job_id="again", result_ttl=100)
    assert 0 < connection.ttl("rq:job:again") <= 100


def test_what_a_failed_job_leaves_behind_expires_by_its_failure_ttl(connection: redis.Redis) -> None:
    job = queue_on(connection).enqueue_call(fail, failure_ttl=100)
    run_all(connection, SimpleWorker)
    assert job.get_status() is JobStatus.FAILED
    assert connection.ttl(Result.get_key(job.id)) == 100
    assert connection.ttl(job.key) == 100


def test_the_stock_job_imports_whatever_its_hash_names(connection: redis.Redis) -> None:
    """Why ours resolves nothing."""
    connection.hset("rq:job:evil", mapping={"data": b'["os.getpid",null,[],{}]', "status": "queued"})
    assert Job.fetch("evil", connection=connection, serializer=JSONSerializer).func is os.getpid


def test_a_horse_is_killed_sixty_seconds_after_its_timeout() -> None:
    """The one number in RQ's code that our backstop counts with."""
    assert "working_time > (job.timeout + 60)" in inspect.getsource(Worker.monitor_work_horse)


def test_what_a_worker_serializes_is_kept_beside_its_name(connection: redis.Redis) -> None:
    """By which our worker knows a native one on its queues."""

    class Ours(SimpleWorker):
        def serialize(self) -> dict[str, Any]:
            return {**super().serialize(), "queuekit": "yes"}

    worker = Ours(["q"], connection=connection)
    worker.register_birth()
    try:
        assert connection.hget(worker.key, "queuekit") == b"yes"
        assert connection.smembers("rq:workers:q") == {worker.key.encode()}
        found = Worker.find_by_key(worker.key, connection)  # and RQ's monitors live with it
        assert found is not None and found.pid == os.getpid()
    finally:
        worker.register_death()
    assert not connection.exists("rq:workers:q")


def test_a_queue_stays_known_when_it_is_empty(connection: redis.Redis) -> None:
    """By which our worker knows the queues that are native."""
    queue = queue_on(connection)
    queue.enqueue_call(add, args=[1, 2])
    run_all(connection, SimpleWorker)
    assert connection.sismember("rq:queues", "rq:queue:q")


def test_a_function_is_asked_for_by_its_name_and_by_no_instance(connection: redis.Redis) -> None:
    """What a native producer's message holds for us to read."""
    job = queue_on(connection).enqueue(add, args=[1], kwargs={"b": 2})
    assert json.loads(zlib.decompress(connection.hget(job.key, "data"))) == [f"{__name__}.add", None, [1], {"b": 2}]
    assert json.loads(connection.hget(job.key, "meta") or b"{}") == {}


def test_the_command_gives_its_worker_class_what_we_take_from_it(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner
    from rq.cli.cli import main

    seen: list[Any] = []

    class Ours(SimpleWorker):
        def __init__(self, queues: Any, **options: Any) -> None:
            seen.extend([[queue.name for queue in queues], set(options)])

        def work(self, **options: Any) -> bool:
            seen.append(set(options))
            return True

    monkeypatch.setattr("rq.SimpleWorker", Ours)
    address = connection.connection_pool.connection_kwargs
    url = f"redis://{address['host']}:{address['port']}/0"
    done = CliRunner().invoke(main, ["worker", "-u", url, "-w", "rq.SimpleWorker", "a", "b"])
    assert done.exit_code == 0, done.output
    assert seen[0] == ["a", "b"]
    assert {"name", "connection", "exception_handlers"} <= seen[1]
    assert seen[2] == set(inspect.signature(BaseWorker.work).parameters) - {"self"}


def test_a_stock_worker_leaves_for_a_name_that_it_cannot_read(connection: redis.Redis) -> None:
    """Why we take jobs out of the broker ourselves."""
    queue = queue_on(connection)
    connection.rpush(queue.key, b"\xff")
    queue.enqueue_call(add, args=[1, 2])
    run_all(connection, SimpleWorker)
    assert connection.llen(queue.key) == 1  # the neighbour was not run
