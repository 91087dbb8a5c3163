"""The Dramatiq adapter: what it sends, what it makes of what arrives, and real workers on what is Dramatiq's alone.

The clauses of the contract are in the conformance suite.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")

from dramatiq.brokers.stub import StubBroker  # noqa: E402  # after the check that it is there
from dramatiq.middleware import SkipMessage, default_middleware  # noqa: E402
from dramatiq.results import Results  # noqa: E402
from dramatiq.results.backends.stub import StubBackend  # noqa: E402

from queuekit import App, ConfigError, agent_task  # noqa: E402
from queuekit.adapters import BrokerAway  # noqa: E402
from queuekit.adapters.dramatiq import DramatiqAdapter  # noqa: E402
from queuekit.adapters.dramatiq import redis as on_redis  # noqa: E402
from queuekit.adapters.dramatiq.broker import DECIDERS, Fetched  # noqa: E402
from queuekit.adapters.dramatiq.redis import RedisBroker as Broker  # noqa: E402
from queuekit.adapters.dramatiq.worker import Deliver  # noqa: E402
from queuekit.execution import (  # noqa: E402
    Delivery,
    Dropped,
    Ended,
    Failed,
    Held,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.message import HEADER, InvalidMessage, Message, Publication  # noqa: E402
from queuekit.retry import RetryState  # noqa: E402
from queuekit.settings import Settings  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import WorkerBench  # noqa: E402
from queuekit.testing.plugin import a_server  # noqa: E402
from queuekit.testing.target import find_targets  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.plugin import Broker as TestBroker
    from queuekit.testing.servers import RedisServer

NOWHERE = "redis://127.0.0.1:1/0"


def settings(**others: Any) -> Settings:
    return Settings(**{"backend": "dramatiq", "broker_url": NOWHERE, **others})


def publication(number: int = 1, **others: Any) -> Publication:
    fields = {"id": "j1", "task": "m.t", "args": [1, "two"], "kwargs": {"c": [3]}, "queue": "q", "backend": "dramatiq"}
    return Publication(Message(**{**fields, **others}), pseq=7, number=number, epoch="e")  # type: ignore[arg-type]


def native(one: Publication) -> Any:
    return DramatiqAdapter(settings())._compile(one)


def fetched(raw: bytes) -> Fetched:
    return on_redis._Fetched("queuekit.default.q", 0, raw, threading.Semaphore(0))


def sent(one: Publication | None = None, **changes: Any) -> dict[str, Any]:
    """A message as it lies in the broker."""
    message = native(one or publication())
    message.options["redis_message_id"] = "r1"
    return {**json.loads(json.dumps(message.asdict())), **changes}


# ---- settings ------------------------------------------------------------------------------------------------------


def test_a_native_that_is_no_broker() -> None:
    with pytest.raises(ConfigError, match=r"dramatiq\.Broker"):
        DramatiqAdapter(settings(), native=object())


def test_a_pool_that_it_has_not() -> None:
    app = App(settings())
    with pytest.raises(ConfigError, match="'prefork'.*threads"):
        app.adapter.run_worker(app.worker(pool="prefork"))


def test_nothing_is_connected_before_something_is_sent() -> None:
    adapter = DramatiqAdapter(settings(broker_url="redis://name.invalid:6379/0"))
    assert adapter.broker.client.connection_pool
    adapter.close()
    adapter.close()


# ---- what is sent --------------------------------------------------------------------------------------------------


def test_the_message_can_be_read_in_dramatiqs_words() -> None:
    message = native(publication(priority=5, timeout=10.0))
    assert (message.actor_name, message.args, message.kwargs) == ("m.t", (1, "two"), {"c": [3]})
    assert (message.message_id, message.queue_name) == ("j1", "queuekit.default.q.p3")
    assert message.options["time_limit"] == 15_000
    assert message.options["max_retries"] == 0
    assert message.options[HEADER]["id"] == "j1"


def test_a_later_publication_has_an_id_of_its_own() -> None:
    assert native(publication(number=2)).message_id == "j1-7"


def test_private_arguments_stay_out() -> None:
    message = native(publication(private=True))
    assert "two" not in json.dumps(message.asdict())
    assert message.options[HEADER]["private"] is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"queue": "x.p9"}, {"queue": "x", "priority": 9}),
        ({"queue": "x.p9", "priority": 0}, {"queue": "x", "priority": 9}),
        ({"queue": "x.DQ"}, {"queue": "x"}),
    ],
)
def test_queues_and_levels_do_not_meet(one: dict[str, Any], other: dict[str, Any]) -> None:
    names = [native(publication(**which)).queue_name for which in (one, other)]
    assert names[0] != names[1]
    assert not any(name.endswith((".DQ", ".XQ")) for name in names)


# ---- a broker that is away -----------------------------------------------------------------------------------------


def test_a_refused_connection_is_said() -> None:
    adapter = DramatiqAdapter(settings(enqueue_timeout=1))
    with pytest.raises(BrokerAway):
        adapter.publish([publication()])
    with pytest.raises(BrokerAway):
        adapter.depth("dramatiq:q:0")


@pytest.mark.parametrize("greeting", [b"", b"+OK\r\n+OK\r\n"], ids=["never a word", "after the greeting"])
def test_a_silent_broker_is_said(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as conversation:
                conversation.sendall(greeting)
                while conversation.recv(65536):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        adapter = DramatiqAdapter(
            settings(broker_url=f"redis://127.0.0.1:{server.getsockname()[1]}/0", enqueue_timeout=0.5)
        )
        with pytest.raises(BrokerAway):
            adapter.publish([publication()])
        adapter.close()
        thread.join()


def test_all_the_waits_of_one_publication_fit_into_the_enqueue_timeout() -> None:
    connection = DramatiqAdapter(settings(enqueue_timeout=2)).broker.client.connection_pool.make_connection()
    assert connection.retry.get_retries() == 0
    waits = [connection.socket_connect_timeout] + 3 * [connection.socket_timeout]  # connect; greet, send, answer
    assert sum(waits) < 2


# ---- the native task -----------------------------------------------------------------------------------------------


@agent_task(name="test_dramatiq.double", queue="q", timeout=1.0, priority=4)
def double(a: int) -> int:
    return 2 * a


def test_the_actor() -> None:
    with App(settings()).activate():
        actor = double.native
        assert (actor.actor_name, actor.queue_name, actor.priority) == (double.name, "queuekit.default.q.p3", -3)
        assert actor.options == {"max_retries": 0, "time_limit": 6000}
        assert actor(4) == 8
        assert double.native is actor
        with pytest.raises(ConfigError, match=r"enqueue\(\).*adopt=true"):
            actor.send(4)


def test_no_global_broker_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    with App(settings()).activate():
        assert double.native
    assert dramatiq.broker.global_broker is None


# ---- what arrives --------------------------------------------------------------------------------------------------


def test_what_was_sent_is_what_arrives() -> None:
    message = fetched(json.dumps(sent()).encode())
    assert message.invalid == ""
    assert message.bell == publication().doorbell
    assert (message.args, message.kwargs) == ((1, "two"), {"c": [3]})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'"text"',
        b"[]",
        b"{}",
        b'{"options": 3}',
        pickle.dumps(sent()),
        json.dumps(sent(options={"redis_message_id": "r1", HEADER: "j1"})).encode(),
        json.dumps(sent(args="ab")).encode(),
        json.dumps(sent(kwargs=None)).encode(),
        json.dumps(
            sent(options={**sent()["options"], HEADER: {**sent()["options"][HEADER], "timeout": 1e300}})
        ).encode(),
    ],
    ids=range(13),
)
def test_what_is_none_of_ours_is_said_and_never_raises(raw: bytes) -> None:
    message = fetched(raw)
    assert message.invalid
    assert message.bell is None
    assert (message.args, message.kwargs, message.options) == ((), {}, {})
    assert message.raw == raw


def test_a_native_message_is_told_from_ours() -> None:
    message = fetched(json.dumps(sent(options={"redis_message_id": "r1", "eta": 1})).encode())
    assert (message.bell, message.invalid, message.options) == (None, "", {})
    assert message.native == {"id": "j1", "task": "m.t", "args": [1, "two"], "kwargs": {"c": [3]}}
    assert (message.queue, message.level) == ("q", 0)


def test_the_senders_options_and_queue_have_no_effect() -> None:
    """Dramatiq acts on them: eta puts a message aside, throws ends the thread, the queue finds the consumer."""
    evil = sent(queue_name="elsewhere")
    evil["options"].update(eta=1, throws=["ValueError"], pipe_target={}, max_retries=9)
    message = fetched(json.dumps(evil).encode())
    assert message.invalid == ""
    assert set(message.options) == {HEADER}
    assert message.queue_name == "queuekit.default.q"


# ---- outcomes, in Dramatiq's words ---------------------------------------------------------------------------------


HELD = Held(None, publication().message, "token", 1, RetryState(), 0.0, 0.0, 0.0)  # type: ignore[arg-type]


class Stub:
    """A queuekit Worker whose executions have one outcome."""

    def __init__(self, outcome: Any) -> None:
        self.stopping = threading.Event()
        self.execution = self
        self.outcome = outcome
        self.delivered: list[Delivery] = []
        self.quarantined: list[tuple[str, str]] = []
        self.takes = True
        self.refuses = True

    def claim(self, delivery: Delivery) -> Any:
        self.delivered.append(delivery)
        ran = isinstance(self.outcome, (Succeeded, Retried, Failed, Ended, Stale))
        return HELD if ran else self.outcome

    def run(self, held: Any) -> Any:
        assert held is HELD
        return self.outcome

    def adopt(self, **native: Any) -> Any:
        if self.refuses:
            raise InvalidMessage("adopt is off")
        return Delivery(publication().doorbell, native["args"], native["kwargs"])

    def quarantine(self, raw: str, reason: str, *, source: str) -> bool:
        assert source == "queuekit.default.q.p0"
        self.quarantined.append((raw, reason))
        return self.takes


def act(stub: Stub, raw: bytes | None = None) -> tuple[Fetched, BaseException | None]:
    message = fetched(json.dumps(sent()).encode() if raw is None else raw)
    deliver = Deliver(stub)  # type: ignore[arg-type]
    deliver.before_process_message(None, message)  # type: ignore[arg-type]
    try:
        deliver.act()
    except BaseException as error:
        return message, error
    return message, None


@pytest.mark.parametrize(
    ("outcome", "said", "keep"),
    [
        (Succeeded(3, "3"), None, False),
        (Retried(1.5, "429", ValueError("no")), dramatiq.Retry, False),
        (Failed("no rule", ValueError("no")), ValueError, False),
        (Dropped("an attempt is running"), SkipMessage, False),
        (Released("the worker stopped"), SkipMessage, False),
        (Ended("by hand"), SkipMessage, False),
        (Stale(), SkipMessage, False),
        (Unrecorded("the store is away"), SkipMessage, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outcomes(outcome: Any, said: type[BaseException] | None, keep: bool) -> None:
    message, error = act(Stub(outcome))
    assert said is None if error is None else type(error) is said
    assert (message.over, message.keep, message.failed) == (True, keep, False)


def test_a_retry_says_its_delay() -> None:
    _, error = act(Stub(Retried(1.5, "429", ValueError("no"))))
    assert isinstance(error, dramatiq.Retry)
    assert error.delay == 1500


def test_a_private_failure_says_nothing_but_its_type() -> None:
    raw = json.dumps(sent(publication(private=True))).encode()
    _, error = act(Stub(Failed("no rule", ValueError("the secret"))), raw)
    assert isinstance(error, RuntimeError)
    assert "secret" not in str(error)
    assert error.__context__ is None
    assert error.__cause__ is None


def test_what_is_none_of_ours_goes_to_quarantine() -> None:
    stub = Stub(None)
    message, error = act(stub, b"\x80not JSON")
    assert isinstance(error, SkipMessage)
    assert stub.quarantined == [("\\x80not JSON", message.invalid)]
    assert stub.delivered == []
    assert not message.keep


def test_a_native_message_is_adopted_or_goes_to_quarantine() -> None:
    raw = json.dumps(sent(options={"redis_message_id": "r1"})).encode()
    stub = Stub(Succeeded(3, "3"))
    message, error = act(stub, raw)
    assert isinstance(error, SkipMessage)
    assert stub.quarantined == [(raw.decode(), "adopt is off")]
    stub.refuses = False
    message, error = act(stub, raw)
    assert error is None
    assert [(one.args, one.kwargs) for one in stub.delivered] == [([1, "two"], {"c": [3]})]
    assert (message.over, message.keep) == (True, False)


def test_a_message_is_told_when_its_attempt_is_claimed() -> None:
    """On RabbitMQ it is acknowledged then, so never before."""
    told: list[str] = []

    class Told(on_redis._Fetched):  # type: ignore[misc,name-defined]
        def claimed(self) -> None:
            told.append("claimed")

    for outcome in (Dropped("busy"), Unrecorded("away"), Succeeded(1, "1")):
        message = Told("queuekit.default.q", 0, json.dumps(sent()).encode(), threading.Semaphore(0))
        deliver = Deliver(Stub(outcome))  # type: ignore[arg-type]
        deliver.before_process_message(None, message)  # type: ignore[arg-type]
        if isinstance(outcome, Succeeded):
            assert told == []
            deliver.act()
        else:
            with pytest.raises(SkipMessage):
                deliver.act()
    assert told == ["claimed"]


def test_what_could_not_be_quarantined_is_kept() -> None:
    stub = Stub(None)
    stub.takes = False
    message, _ = act(stub, b"not JSON")
    assert message.keep


def test_a_worker_that_stops_begins_nothing() -> None:
    stub = Stub(None)
    stub.stopping.set()
    message, error = act(stub)
    assert isinstance(error, SkipMessage)
    assert (stub.delivered, message.keep) == ([], True)


# ---- the user's own broker -----------------------------------------------------------------------------------------


class Seen(dramatiq.Middleware):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        self.events: list[str] = []

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        self.events.append(f"enqueue {message.message_id}")


def test_the_users_middleware_is_kept_and_dramatiqs_deciders_are_not() -> None:
    seen = Seen()
    theirs = StubBroker(middleware=[*(one() for one in default_middleware), seen])
    theirs.add_middleware(Results(backend=StubBackend()))
    ours = DramatiqAdapter(settings(), native=theirs).broker
    assert seen in ours.middleware
    assert not any(isinstance(one, DECIDERS) for one in ours.middleware)


def test_beside_the_users_worker_its_middleware_hears_of_the_process_once() -> None:
    told: list[str] = []

    class Hears(dramatiq.Middleware):  # type: ignore[misc,name-defined]
        def after_process_boot(self, broker: Any) -> None:
            told.append("process")

        def before_worker_boot(self, broker: Any, worker: Any) -> None:
            told.append("worker")

        def before_ack(self, broker: Any, message: Any) -> None:
            told.append("ack")

    adapter = DramatiqAdapter(settings(), native=StubBroker(middleware=[Hears()]))
    for beside in (False, True):
        broker = adapter.make_broker(timeout=1.0, beside=beside)
        broker.emit_after("process_boot")
        broker.emit_before("worker_boot", None)
        broker.emit_before("ack", None)
    assert told == ["process", "worker", "ack", "ack"]


def test_the_users_worker_does_not_hear_of_our_queues() -> None:
    """In its process a task's actor may be made at any time; it would consume the queue."""
    theirs = StubBroker(middleware=[])
    worker = dramatiq.Worker(theirs, worker_threads=1, worker_timeout=10)
    worker.start()
    try:
        adapter = DramatiqAdapter(settings(), native=theirs)
        assert adapter.native(double)
        assert adapter.broker.get_declared_queues() == {"queuekit.default.q.p3"}
        assert worker.consumers == {}
    finally:
        worker.stop()


def test_all_that_dramatiq_does_by_default_is_known_to_decide() -> None:
    """One that a later version adds has to be looked at."""
    assert set(default_middleware) <= set(DECIDERS)


# ---- on a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(queuekit_broker: TestBroker) -> Iterator[DramatiqAdapter]:
    made = DramatiqAdapter(Settings(**queuekit_broker.settings("dramatiq")))
    yield made
    made.close()


def bodies(adapter: DramatiqAdapter, level: int = 0) -> list[dict[str, Any]]:
    key = adapter.broker.key(adapter._queue(f"dramatiq:q:{level}"))
    client: Any = adapter.broker.client
    return [json.loads(client.hget(f"{key}.msgs", id)) for id in client.lrange(key, 0, -1)]


def test_publish_keeps_the_order_of_each_level(adapter: DramatiqAdapter) -> None:
    adapter.publish([publication(id=f"j{n}", priority=n % 2 * 9) for n in range(10)])
    assert [one["message_id"] for one in bodies(adapter)] == ["j0", "j2", "j4", "j6", "j8"]
    assert [one["message_id"] for one in bodies(adapter, 9)] == ["j1", "j3", "j5", "j7", "j9"]
    assert [adapter.depth(f"dramatiq:q:{level}") for level in (0, 3, 6, 9)] == [5, 0, 0, 5]


def test_what_is_waited_for_keeps_its_place(adapter: DramatiqAdapter) -> None:
    broker, base = adapter.broker, adapter._queue("dramatiq:q:0").removesuffix(".p0")
    assert isinstance(broker, Broker)
    broker.wait([base], 0.05)
    waiting = threading.Thread(target=broker.wait, args=([base], 60.0))
    waiting.start()
    adapter.publish([publication(id="j0"), publication(id="j1")])
    waiting.join(20)
    assert not waiting.is_alive()
    assert [one["message_id"] for one in bodies(adapter)] == ["j0", "j1"]


def test_the_global_encoder_has_no_say(adapter: DramatiqAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.message.global_encoder", dramatiq.PickleEncoder())
    adapter.publish([publication()])
    assert bodies(adapter)[0]["args"] == [1, "two"]


def test_with_adopt_the_actor_sends_what_a_native_producer_would(queuekit_broker: TestBroker) -> None:
    adapter = DramatiqAdapter(Settings(**queuekit_broker.settings("dramatiq", adopt=True)))
    sent = adapter.native(double).send(4)
    key = adapter.broker.key(f"queuekit.{queuekit_broker.namespace}.q.p3")
    client: Any = adapter.broker.client
    (id,) = client.lrange(key, 0, -1)
    body = json.loads(client.hget(f"{key}.msgs", id))
    assert (body["message_id"], body["actor_name"], body["args"]) == (sent.message_id, double.name, [4])
    assert HEADER not in body["options"]
    with pytest.raises(ConfigError, match="options.delay"):
        adapter.native(double).send_with_options(args=(4,), delay=1000)
    adapter.close()


def test_publishers_are_not_entered_as_workers(adapter: DramatiqAdapter) -> None:
    adapter.publish([publication()])
    client: Any = adapter.broker.client
    assert adapter.broker.broker_id.encode() not in client.zrange("dramatiq:__heartbeats__", 0, -1)


def test_a_forked_child_publishes_on_connections_of_its_own(adapter: DramatiqAdapter) -> None:
    adapter.publish([publication(id="parent")])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for n in range(20):
                adapter.publish([publication(id=f"child{n}")])
            code = 0
        finally:
            os._exit(code)
    for n in range(20):
        adapter.publish([publication(id=f"parent{n}")])
    assert os.waitpid(child, 0)[1] == 0
    assert len({one["message_id"] for one in bodies(adapter)}) == 41


def test_threads_share_the_adapter(adapter: DramatiqAdapter) -> None:
    threads = [threading.Thread(target=adapter.publish, args=([publication(id=f"j{n}")],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["message_id"] for one in bodies(adapter)} == {f"j{n}" for n in range(20)}


# ---- with real workers ---------------------------------------------------------------------------------------------


@pytest.fixture
def bench_on(tmp_path: Path) -> Iterator[Callable[..., WorkerBench]]:
    made: list[WorkerBench] = []
    target = find_targets(("dramatiq",))[0]  # on Redis

    def make(url: str, **others: Any) -> WorkerBench:
        bench = WorkerBench(target, tmp_path / str(len(made)), broker_url=url, **others)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


def consuming(bench: WorkerBench) -> Broker:
    """A broker as a worker has it, to look at its keys."""
    return Broker(bench.app.settings, timeout=5.0)


def push(broker: Broker, queue: str, raw: bytes | None, id: str) -> None:
    """As an attacker, a bug or another program puts it there."""
    client: Any = broker.client
    if raw is not None:
        client.hset(f"{broker.key(queue)}.msgs", id, raw)
    client.rpush(broker.key(queue), id)


def test_nothing_invalid_runs_and_nothing_of_it_is_left(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer
) -> None:
    bench = bench_on(queuekit_server.url, concurrency=1)
    queue = f"queuekit.{bench.app.settings.namespace}.default.p0"
    broker = consuming(bench)
    foreign = [
        b"\x80\x04not JSON",
        pickle.dumps(sent()),
        b"[" * 100_000,
        b"null",
        json.dumps(sent(options={})).encode(),
        json.dumps(sent(options={"redis_message_id": "x", "throws": ["ValueError"], "eta": 1})).encode(),
        json.dumps(sent(options={**sent()["options"], "redis_message_id": 3})).encode(),
        json.dumps(sent(options={**sent()["options"], "redis_message_id": "\ud800"})).encode(),
        json.dumps(sent(queue_name="elsewhere", actor_name=None, options={"pipe_target": 3})).encode(),
    ]
    with bench.in_use():
        jobs = []
        for n, raw in enumerate(foreign):
            push(broker, queue, raw, f"r{n}")
            jobs.append(tasks.add.enqueue(n))
        push(broker, queue, None, "without a message")
        jobs.append(tasks.add.enqueue(99))
        worker = bench.start_worker()
        assert [job.result(timeout=20) for job in jobs] == [*range(1, 10), 100]
        bench.until(lambda: len(bench.app.store.quarantined(100)) == len(foreign), "all are in quarantine")
        assert worker.exit_code is None
        client: Any = broker.client
        bench.until(lambda: not client.hlen(f"{broker.key(queue)}.msgs"), "the messages are gone")
        bench.until(lambda: not client.keys(f"dramatiq:__acks__.*.{queue}"), "no fetched one is left")
    assert {len(one.raw) for one in bench.app.store.quarantined(100)} >= {100_000}
    broker.close()


def test_higher_levels_go_first_and_nothing_waits_in_the_worker(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer
) -> None:
    bench = bench_on(queuekit_server.url, concurrency=1)
    with bench.in_use():
        bench.start_worker()
        first = tasks.sleep.enqueue(1.0)
        bench.started(first)
        low = [tasks.add.enqueue(n) for n in range(3)]
        assert bench.app.adapter.depth("dramatiq:default:0") == 3
        high = [tasks.add.options(priority=priority).enqueue(priority) for priority in (3, 9, 6)]
        for job in [*low, *high]:
            job.result(timeout=20)
        started = [entry.job for entry in bench.journal.entries(event="start")]
    order = [job.id for job in (first, high[1], high[2], high[0], *low)]
    assert [id for id in started if id in order] == order


def test_queues_named_like_dramatiqs_own(bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer) -> None:
    bench = bench_on(queuekit_server.url)
    with bench.in_use():
        bench.start_worker(queues="default,x.DQ,x.p9,x", ready=True)
        for queue in ("x.DQ", "x.p9", "x"):
            assert tasks.add.options(queue=queue).enqueue(1).result(timeout=20) == 2


def test_a_failure_is_acknowledged_and_not_kept_by_dramatiq(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer
) -> None:
    bench = bench_on(queuekit_server.url)
    broker = consuming(bench)
    with bench.in_use():
        worker = bench.start_worker()
        job = tasks.without_policy.enqueue(["bug"])
        assert bench.ended(job).status == "failed"
        prefix = broker.key(f"queuekit.{bench.app.settings.namespace}.default")
        client: Any = broker.client
        bench.until(lambda: not client.keys(f"{prefix}*"), "nothing of it is in the broker")
    bench.until(lambda: "KeyError: 'a bug'" in worker.said(), "its worker logs it")
    broker.close()


def test_a_worker_that_ends_in_good_order_leaves_dramatiqs_list(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer
) -> None:
    bench = bench_on(queuekit_server.url)
    broker = consuming(bench)
    client: Any = broker.client
    with bench.in_use():
        before = client.zcard("dramatiq:__heartbeats__")
        worker = bench.start_worker()
        assert client.zcard("dramatiq:__heartbeats__") == before + 1
        worker.terminate()
        assert worker.wait(20) == 0
    assert client.zcard("dramatiq:__heartbeats__") == before
    broker.close()


def test_the_broker_away_for_a_while(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer, tmp_path: Path
) -> None:
    """It comes back empty. What ran went on, what was enqueued was accepted, and the same worker consumes again."""
    with a_server(tmp_path / "broker") as server:
        bench = bench_on(server.url, store_url=queuekit_server.url)
        with bench.in_use():
            worker = bench.start_worker()
            before = tasks.sleep.enqueue(1.0)
            bench.started(before)
            server.kill()
            meanwhile = tasks.add.enqueue(1)
            assert before.result(timeout=20) == "slept"
            server.restart(empty=True)
            assert meanwhile.result(timeout=30) == 2
            assert tasks.add.enqueue(2).result(timeout=30) == 3
            assert worker.exit_code is None
            assert [one.outcome for one in before.info().attempts] == ["succeeded"]


def test_the_broker_silent_for_a_while(
    bench_on: Callable[..., WorkerBench], queuekit_server: RedisServer, tmp_path: Path
) -> None:
    with a_server(tmp_path / "broker") as server:
        bench = bench_on(server.url, store_url=queuekit_server.url, enqueue_timeout=1.0)
        with bench.in_use():
            bench.start_worker()
            server.freeze()
            job = tasks.add.enqueue(1)
            server.thaw()
            assert job.result(timeout=30) == 2
            assert len(job.info().attempts) == 1
