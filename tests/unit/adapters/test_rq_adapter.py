"""The RQ adapter by itself: what it writes, what it reads, and what RQ's own API shows of a job."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis

pytest.importorskip("rq", reason="RQ is not installed")

from rq.job import Job, JobStatus  # noqa: E402
from rq.registry import FailedJobRegistry  # noqa: E402
from rq.serializers import JSONSerializer  # noqa: E402

from queuekit import App, JobCancelled, JobFailed, Settings  # noqa: E402
from queuekit.adapters import BrokerAway  # noqa: E402
from queuekit.adapters.rq import RqAdapter, queue_name  # noqa: E402
from queuekit.adapters.rq.job import DoorbellJob  # noqa: E402
from queuekit.message import HEADER, InvalidMessage, Message, Publication  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.process import WorkerProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuekit.testing.plugin import Broker

MESSAGE = Message("j", "mod.task", [1, "ü"], {"k": [2]}, "q", "rq", priority=9, timeout=2.2)


def connect(broker: Broker) -> redis.Redis:
    return redis.Redis.from_url(broker.url)


@pytest.fixture
def adapter(queuekit_broker: Broker) -> Iterator[RqAdapter]:
    adapter = RqAdapter(Settings(**queuekit_broker.settings("rq")))
    yield adapter
    adapter.close()


def fetch(broker: Broker, id: str) -> Job:
    return Job.fetch(id, connection=connect(broker), serializer=JSONSerializer)


# ---- publishing ----------------------------------------------------------------------------------------------------


def test_a_publication_is_a_native_job_that_can_be_read(adapter: RqAdapter, queuekit_broker: Broker) -> None:
    adapter.publish([Publication(MESSAGE, 1, 1, "e"), Publication(MESSAGE, 2, 2, "e")])
    assert adapter.depth(MESSAGE.route) == 2
    assert adapter.depth("rq:q:0") == 0
    job = fetch(queuekit_broker, "j")
    assert (job.func_name, job.args, job.kwargs) == ("mod.task", [1, "ü"], {"k": [2]})
    assert (job.timeout, job.origin) == (8, queue_name(queuekit_broker.namespace, "q", 9))
    assert job.meta[HEADER]["id"] == "j"
    assert fetch(queuekit_broker, "j-2").meta[HEADER]["pseq"] == 2


def test_a_private_job_shows_nothing(adapter: RqAdapter, queuekit_broker: Broker) -> None:
    adapter.publish([Publication(Message("p", "t", ["secret"], {"k": "secret"}, "q", "rq", private=True), 1, 1, "e")])
    client = connect(queuekit_broker)
    assert b"secret" not in repr(client.hgetall("rq:job:p")).encode()


@pytest.mark.parametrize("silent", [False, True])
def test_a_broker_that_is_away_is_said_in_time(silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        port = server.getsockname()[1]
        if not silent:
            server.close()
        adapter = RqAdapter(Settings(backend="rq", broker_url=f"redis://127.0.0.1:{port}/0", enqueue_timeout=0.5))
        before = time.monotonic()
        with pytest.raises(BrokerAway):
            adapter.publish([Publication(MESSAGE, 1, 1, "e")])
        assert time.monotonic() - before < 3  # the bound is 0.5 s; a busy machine is no failure
        with pytest.raises(BrokerAway):
            adapter.depth(MESSAGE.route)


def test_queues_do_not_meet() -> None:
    assert queue_name("n", "x.p9", 0) != queue_name("n", "x", 9)


# ---- reading what lies in the broker -------------------------------------------------------------------------------


def delivered(broker: Broker, **fields: Any) -> DoorbellJob:
    good = {"data": b'["t",null,[1],{}]', "status": "queued", "meta": b'{"queuekit":%s}' % HEADER_JSON}
    client = connect(broker)
    client.delete("rq:job:x")
    client.hset("rq:job:x", mapping={**good, **fields})
    job = DoorbellJob("x", connection=client, serializer=JSONSerializer)
    job.refresh()
    return job


HEADER_JSON = b'{"v":1,"id":"x","task":"t","pseq":1,"epoch":"e","route":"rq:q:0","timeout":null,"own_policy":false,"private":false}'


def test_a_good_one_is_read(queuekit_broker: Broker) -> None:
    delivery = delivered(queuekit_broker).delivery()
    assert (delivery.bell.id, delivery.args, delivery.kwargs) == ("x", [1], {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"meta": b"{}"}, "no header"),
        ({"meta": b"[]"}, "mapping"),
        ({"meta": b"\x80\x04}."}, "no header"),
        ({"data": b"\x80\x04cos\nsystem\n"}, "cannot be read"),
        ({"data": b"[]"}, "cannot be read"),
        ({"data": b'["t",null,{},{}]'}, "args must be a list"),
        ({"data": b'["t",null,[],[]]'}, "kwargs a mapping"),
    ],
)
def test_what_is_none_of_ours_is_said(queuekit_broker: Broker, fields: dict[str, bytes], said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        delivered(queuekit_broker, **fields).delivery()


def test_nothing_is_imported_by_a_name_from_the_broker(queuekit_broker: Broker) -> None:
    job = delivered(
        queuekit_broker,
        data=b'["os.abort",null,[],{}]',
        success_callback_name="os.abort",
        failure_callback_name="os.abort",
        stopped_callback_name="os.abort",
        webhooks=b'[{"url":"http://127.0.0.1:1/"}]',
    )
    with pytest.raises(InvalidMessage):
        _ = job.func
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)
    job.send_webhooks(JobStatus.FAILED)


def test_what_becomes_larger_than_any_of_ours_is_not_decompressed(queuekit_broker: Broker) -> None:
    bomb = zlib.compress(bytes(1 << 26))
    with pytest.raises(InvalidMessage, match="takes 16777217 bytes or more"):
        delivered(queuekit_broker, data=bomb)
    with pytest.raises(InvalidMessage, match="takes 16777217 bytes or more"):
        delivered(queuekit_broker, data=zlib.compress(zlib.compress(bytes(1 << 26), 0)))
    job = delivered(queuekit_broker, exc_info=bomb, result=bomb)  # nobody looks at these
    assert job.delivery().args == [1]


@pytest.mark.parametrize("pool", ["worker", "simple"])
def test_no_name_in_a_hash_is_imported_before_during_or_after_a_job(
    queuekit_broker: Broker, tmp_path: Path, pool: str
) -> None:
    """Of a job of ours that runs and succeeds, and of one that fails: everywhere where RQ looks for a name."""
    left = tmp_path / "imported"
    (tmp_path / "rq_bomb.py").write_text(f"open({str(left)!r}, 'w').close()\ndef call(*args, **kwargs): pass\n")
    name, data = "rq_bomb.call", json.dumps(["rq_bomb.call", None, [7], {}]).encode()
    client = connect(queuekit_broker)
    with App(Settings(**queuekit_broker.settings("rq"))).activate() as app:
        good, bad = tasks.add.enqueue(1), tasks.without_policy.enqueue(["bug"])
        names = "success_callback_name failure_callback_name stopped_callback_name func_name job_class queue_class"
        names += " connection_class serializer exception_handlers worker_class dependency_id rate_limit_key group_id"
        fields: dict[Any, Any] = {
            **dict.fromkeys(names.split(), name),
            "data": zlib.compress(data),
            "retries_left": 3,
            "repeats_left": 3,
            "retry_intervals": "[0]",
            "dependency_ids": json.dumps([name]),
            "webhooks": json.dumps([{"url": "http://127.0.0.1:9/", "events": ["finished", "failed"]}]),
        }
        for job in (good, bad):
            client.hset(f"rq:job:{job.id}", mapping=fields)
            client.hset(f"rq:job:{job.id}:waiting", mapping=fields)
            client.sadd(f"rq:job:{job.id}:dependents", f"{job.id}:waiting")
        environ = {**queuekit_broker.environ("rq", pool=pool, tick=0.2), "PYTHONPATH": str(tmp_path)}
        worker = WorkerProcess([tasks.__name__], {**environ, "QUEUEKIT_TEST_JOURNAL": str(tmp_path / "j")}, tmp_path)
        try:
            assert good.result(timeout=30) == 2
            with pytest.raises(JobFailed):
                bad.result(timeout=30)
            after = tasks.add.enqueue(2)
            assert after.result(timeout=30) == 3
        finally:
            worker.kill_all()
        assert [len(job.info().attempts) for job in (good, bad, after)] == [1, 1, 1]
        assert not left.exists(), worker.said()
        app.close()


def test_a_key_that_is_no_job_goes_to_quarantine_and_its_neighbour_is_handed_out(
    queuekit_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's own would end the worker."""
    from queuekit.adapters.rq.worker import DoorbellQueue, Hooks

    class Worker:
        aside: ClassVar[list[str]] = []
        settings = Settings(backend="rq")
        stopping = threading.Event()

        def quarantine(self, raw: str, reason: str, *, source: str) -> bool:
            self.aside.append(reason)
            return True

    client = connect(queuekit_broker)
    delivered(queuekit_broker)
    client.set("rq:job:odd", "a string")
    queue = DoorbellQueue("odd", connection=client, job_class=DoorbellJob, serializer=JSONSerializer)
    client.rpush(queue.key, "odd", "x")
    monkeypatch.setattr(DoorbellQueue, "worker", Worker(), raising=False)
    monkeypatch.setattr(DoorbellQueue, "native", object.__new__(Hooks), raising=False)
    job, _ = DoorbellQueue.dequeue_any([queue], 1, client)
    assert job.id == "x"
    assert len(Worker.aside) == 1
    assert "WRONGTYPE" in Worker.aside[0]
    client.delete("rq:job:odd")


# ---- what RQ shows of a job ----------------------------------------------------------------------------------------


@pytest.fixture(params=["worker", "simple", "async"])
def running(request: pytest.FixtureRequest, queuekit_broker: Broker, tmp_path: Path) -> Iterator[App]:
    environ = queuekit_broker.environ("rq", pool=request.param, tick=0.2)
    worker = WorkerProcess([tasks.__name__], {**environ, "QUEUEKIT_TEST_JOURNAL": str(tmp_path / "j")}, tmp_path)
    with App(Settings(**queuekit_broker.settings("rq"))).activate() as app:
        yield app
        app.close()
    worker.kill_all()


def status_of(broker: Broker, id: str, expected: JobStatus) -> Job:
    until = time.monotonic() + 10
    while fetch(broker, id).get_status() is not expected and time.monotonic() < until:
        time.sleep(0.05)
    job = fetch(broker, id)
    assert job.get_status() is expected
    assert 0 < connect(broker).ttl(job.key) <= 500  # nothing of ours stays in the broker for ever
    return job


def test_outcomes_in_rqs_words(running: App, queuekit_broker: Broker) -> None:
    good = tasks.add.enqueue(1, 2)
    assert good.result(timeout=30) == 3
    assert status_of(queuekit_broker, good.id, JobStatus.FINISHED).return_value() == 3

    bad = tasks.without_policy.enqueue(["bug"])
    with pytest.raises(JobFailed):
        bad.result(timeout=30)
    job = status_of(queuekit_broker, bad.id, JobStatus.FAILED)
    result = job.latest_result()
    assert result is not None
    assert "Traceback" in (result.exc_string or "")
    assert bad.id in FailedJobRegistry(job.origin, connection=connect(queuekit_broker)).get_job_ids(cleanup=False)


def test_a_cancelled_one_is_stopped(running: App, queuekit_broker: Broker) -> None:
    job = tasks.sleep_async.enqueue(20)
    until = time.monotonic() + 15
    while job.status() != "running" and time.monotonic() < until:
        time.sleep(0.05)
    job.cancel("enough")
    with pytest.raises(JobCancelled):
        job.result(timeout=15)
    status_of(queuekit_broker, job.id, JobStatus.STOPPED)


def test_where_no_process_can_be_started_ahead_each_job_has_one_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    from queuekit.adapters.rq.worker import AGAIN, HorseWorker, Spare

    def fork(*_: object) -> Spare:
        raise OSError(errno.EAGAIN, "no more processes")

    worker, now = object.__new__(HorseWorker), 1000.0
    monkeypatch.setattr(Spare, "fork", fork)
    monkeypatch.setattr("queuekit.adapters.rq.worker.time.monotonic", lambda: now)
    assert worker.may_rest
    worker.rest()
    assert not worker.may_rest
    assert worker._hand_over(None, None) is None  # type: ignore[arg-type]
    now += AGAIN
    assert worker.may_rest


def test_a_process_that_waits_is_replaced_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from queuekit.adapters.rq.worker import FRESH, HorseWorker, Spare

    said: list[str] = []
    spares: Any = [
        SimpleNamespace(end=lambda: said.append("first ended")),
        SimpleNamespace(end=lambda: said.append("second ended"), tell=lambda what: False),
    ]
    worker, now = object.__new__(HorseWorker), 1000.0
    monkeypatch.setattr(Spare, "fork", lambda *_: spares.pop(0))
    monkeypatch.setattr("queuekit.adapters.rq.worker.time.monotonic", lambda: now)
    worker.rest()
    now += FRESH - 1
    assert not worker.may_rest
    now += 1
    assert worker.may_rest
    worker.rest()
    assert said == ["first ended"]
    assert not worker.may_rest
    job: Any = SimpleNamespace(id="x", came={}, redis_server_version=None, delivery=lambda: None)
    queue: Any = SimpleNamespace(name="q")
    assert worker._hand_over(job, queue) is None, "it has gone: the job has one forked"
    assert said == ["first ended", "second ended"]
    assert worker.may_rest


def test_a_job_that_was_handed_over_goes_on_where_rq_cannot_note_it() -> None:
    from queuekit.adapters.rq.worker import HorseWorker

    class Cut(HorseWorker):
        name, connection = "w", None  # type: ignore[assignment]

        def prepare_execution(self, job: Any) -> Any:
            raise redis.ConnectionError("the broker is away")

    told: list[Any] = []
    spare: Any = SimpleNamespace(tell=told.append, let_go=lambda: told.append("no more"))
    worker = object.__new__(Cut)
    worker.executions = {}
    execution = worker._book(SimpleNamespace(id="x"), spare)
    assert told == ["", "no more"]
    assert list(worker.executions.values()) == [execution], "a signal does not take it for idle"
