"""What our adapter takes for granted of Dramatiq 2. A failure here after an upgrade of Dramatiq says what to look at."""

from __future__ import annotations

import inspect
import json
import logging
import multiprocessing
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

dramatiq = pytest.importorskip("dramatiq", reason="Dramatiq is not installed")

from dramatiq import worker as engine  # noqa: E402  # after the check that it is there
from dramatiq.broker import Consumer, MessageProxy  # noqa: E402
from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.brokers.stub import StubBroker  # noqa: E402
from dramatiq.common import q_name  # noqa: E402
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage  # noqa: E402

from queuekit.adapters.dramatiq.beside import boot_event  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 20.0  # seconds to wait for another thread before a test counts as failed


@pytest.fixture
def broker(client: redis.Redis) -> RedisBroker:
    return RedisBroker(client=client, middleware=[], maintenance_chance=0)


def message(actor: str = "a", queue: str = "q", **options: Any) -> Any:
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=(1,), kwargs={"b": 2}, options=options)


def actor_on(broker: Any, fn: Callable[..., Any], name: str = "a") -> Any:
    return dramatiq.Actor(fn, broker=broker, actor_name=name, queue_name="q", priority=0, options={})


def test_version() -> None:
    assert dramatiq.__version__.startswith("2.")


# ---- its keys and commands in Redis: we write and read them --------------------------------------------------------


def test_a_message_is_an_id_in_a_list_and_json_in_a_hash(broker: RedisBroker, client: redis.Redis) -> None:
    sent = broker.enqueue(message())
    id = sent.options["redis_message_id"]
    assert client.lrange("dramatiq:q", 0, -1) == [id.encode()]
    assert {key.decode(): json.loads(body) for key, body in client.hgetall("dramatiq:q.msgs").items()} == {
        id: {
            "queue_name": "q",
            "actor_name": "a",
            "args": [1],
            "kwargs": {"b": 2},
            "options": {"redis_message_id": id},
            "message_id": sent.message_id,
            "message_timestamp": sent.message_timestamp,
        }
    }


def test_the_list_is_first_in_first_out(broker: RedisBroker) -> None:
    sent = [broker.enqueue(message()).message_id for _ in range(5)]
    found = [json.loads(broker.do_fetch("q", 1)[0])["message_id"] for _ in range(5)]
    assert found == sent


def test_a_fetched_message_is_in_the_workers_ack_set_until_it_is_acknowledged(
    broker: RedisBroker, client: redis.Redis
) -> None:
    """The set's name is how we find the id of a message that cannot be read; fetch gives only its text."""
    id = broker.enqueue(message()).options["redis_message_id"]
    (raw,) = broker.do_fetch("q", 1)
    assert raw == client.hget("dramatiq:q.msgs", id)
    assert client.llen("dramatiq:q") == 0
    assert client.smembers(f"dramatiq:__acks__.{broker.broker_id}.q") == {id.encode()}
    broker.do_ack("q", id)
    assert client.keys("dramatiq:*") == [b"dramatiq:__heartbeats__"]


def test_an_id_without_a_message_is_fetched_as_none(broker: RedisBroker, client: redis.Redis) -> None:
    client.rpush("dramatiq:q", "gone")
    assert broker.do_fetch("q", 1) == [None]
    broker.do_ack("q", "gone")
    assert not client.exists(f"dramatiq:__acks__.{broker.broker_id}.q")


def test_requeue_puts_it_back_once(broker: RedisBroker, client: redis.Redis) -> None:
    id = broker.enqueue(message()).options["redis_message_id"]
    broker.do_fetch("q", 1)
    broker.do_requeue("q", id)
    broker.do_requeue("q", id)
    assert client.lrange("dramatiq:q", 0, -1) == [id.encode()]


def test_acknowledging_what_is_not_held_does_nothing(broker: RedisBroker, client: redis.Redis) -> None:
    """A broker that was emptied meanwhile; a duplicate that another worker has acknowledged."""
    id = broker.enqueue(message()).options["redis_message_id"]
    broker.do_ack("q", id)
    broker.do_ack("q", "never seen")
    assert client.llen("dramatiq:q") == 1


def test_each_command_enters_its_process_as_a_worker(broker: RedisBroker, client: redis.Redis) -> None:
    """So does enqueue: each program that ever published would be looked after as a dead worker."""
    broker.enqueue(message())
    assert client.zrange("dramatiq:__heartbeats__", 0, -1) == [broker.broker_id.encode()]


def test_what_a_silent_worker_held_is_pushed_again_by_maintenance(broker: RedisBroker, client: redis.Redis) -> None:
    id = broker.enqueue(message()).options["redis_message_id"]
    broker.do_fetch("q", 1)
    client.zadd("dramatiq:__heartbeats__", {broker.broker_id: 1})
    another = RedisBroker(client=client, middleware=[], maintenance_chance=1_000_000)
    assert [json.loads(raw)["options"]["redis_message_id"] for raw in another.do_fetch("q", 1)] == [id]


def test_maintenance_never_comes_with_a_chance_of_none(broker: RedisBroker, client: redis.Redis) -> None:
    broker.enqueue(message())
    broker.do_fetch("q", 1)
    client.zadd("dramatiq:__heartbeats__", {broker.broker_id: 1})
    another = RedisBroker(client=client, middleware=[], maintenance_chance=0)
    assert another.do_fetch("q", 1) == []


def test_the_scripts_are_sent_again_to_a_server_that_lost_them(broker: RedisBroker, client: redis.Redis) -> None:
    broker.enqueue(message())
    client.script_flush()
    assert broker.do_fetch("q", 1)


# ---- why we have a consumer of our own -----------------------------------------------------------------------------


def test_its_own_consumer_raises_for_what_it_cannot_read_and_keeps_the_neighbours(
    broker: RedisBroker, client: redis.Redis
) -> None:
    broker.declare_queue("q")
    client.hset("dramatiq:q.msgs", "bad", b"\x80")
    client.rpush("dramatiq:q", "bad")
    broker.enqueue(message())
    with pytest.raises(dramatiq.DecodeError):
        next(broker.consume("q", prefetch=2, timeout=1))
    assert client.scard(f"dramatiq:__acks__.{broker.broker_id}.q") == 2
    assert client.llen("dramatiq:q") == 0


def test_a_queue_name_may_mean_a_delay_queue() -> None:
    assert q_name("x.DQ") == "x"
    assert q_name("x.DQ.p0") == "x.DQ.p0"


def test_declaring_a_queue_declares_a_delay_queue_which_is_polled_too(broker: RedisBroker) -> None:
    broker.declare_queue("q")
    assert broker.get_declared_delay_queues() == {"q.DQ"}


def test_an_option_of_the_sender_puts_a_message_aside(broker: RedisBroker) -> None:
    work: Any = engine.PriorityQueue()
    consumer = engine.ConsumerThread(broker=broker, queue_name="q", prefetch=1, work_queue=work, worker_timeout=1)
    consumer.handle_message(MessageProxy(message(eta=10**15)))
    assert (work.qsize(), consumer.delay_queue.qsize()) == (0, 1)


def test_an_option_of_the_sender_ends_a_thread() -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    with pytest.raises(TypeError):
        process(fail, message(throws=["ValueError"]))


def test_the_consumer_is_found_by_the_messages_own_queue() -> None:
    with pytest.raises(KeyError):
        process(lambda *_, **__: None, message(queue="elsewhere"))


# ---- its worker: the hooks that we hang on -------------------------------------------------------------------------


class Post:
    """A consumer thread that notes what it is given."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def post_process_message(self, message: Any) -> None:
        self.posted.append(message)


class Watch(Middleware):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        self.seen.append((threading.get_ident(), message))

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        self.seen.append(exception)

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.seen.append("skipped")


def process(fn: Callable[..., Any], given: Any) -> tuple[Any, list[Any]]:
    """Let a worker's thread process it, in this one."""
    watch, post = Watch(), Post()
    broker = StubBroker(middleware=[watch])
    actor_on(broker, fn)
    work: Any = engine.PriorityQueue()
    thread = engine.WorkerThread(broker=broker, consumers={"q": post}, work_queue=work, worker_timeout=1)
    work.put(0)
    proxy = given if isinstance(given, MessageProxy) else MessageProxy(given)
    thread.process_message(proxy)
    assert post.posted == [proxy]
    return proxy, watch.seen


def test_the_thread_that_runs_a_message_announces_it_first() -> None:
    threads: list[int] = []
    proxy, seen = process(lambda *_, **__: threads.append(threading.get_ident()), message())
    assert seen[0] == (threads[0], proxy)
    assert seen[1:] == [None]


@pytest.mark.parametrize(
    ("error", "seen", "logged"),
    [
        (ValueError("no"), ValueError, ["ERROR"]),
        (SystemExit(1), SystemExit, ["ERROR"]),
        (dramatiq.Retry("429", delay=10), dramatiq.Retry, []),
        (SkipMessage("busy"), str, ["WARNING"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_the_message_goes_to_be_acknowledged(
    error: BaseException, seen: type, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without the middleware Retries: failed stays False, which means ack and not nack."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with caplog.at_level(logging.INFO, logger="dramatiq"):
        proxy, events = process(fail, message())
    assert type(events[1]) is seen
    assert not proxy.failed
    assert [record.levelname for record in caplog.records] == logged


def test_the_message_object_of_the_consumer_is_the_one_that_it_gets_back() -> None:
    """Ours carries where it lies in the broker."""

    class Ours(MessageProxy):  # type: ignore[misc]
        pass

    given = Ours(message())
    assert process(lambda *_, **__: None, given)[0] is given


def test_an_acknowledgement_that_fails_is_tried_again_until_it_succeeds(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < engine.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS <= 10
    monkeypatch.setattr(engine, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0)
    answers = [dramatiq.ConnectionClosed("away"), dramatiq.ConnectionClosed("away"), None]

    class Acks(Consumer):  # type: ignore[misc]
        def ack(self, _message: Any) -> None:
            answer = answers.pop(0)
            if answer is not None:
                raise answer

    work: Any = engine.PriorityQueue()
    thread = engine.ConsumerThread(broker=broker, queue_name="q", prefetch=1, work_queue=work, worker_timeout=1)
    thread.consumer = Acks()
    thread.post_process_message(MessageProxy(message()))
    assert answers == []


def test_a_consumer_that_raises_is_made_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a worker consumes again within 30 s of the broker's return, by broker.consume()."""
    assert 0 < engine.CONSUMER_RESTART_DELAY_SECS <= 10
    monkeypatch.setattr(engine, "CONSUMER_RESTART_DELAY_SECS", 0)
    again = threading.Event()
    made: list[dict[str, Any]] = []

    class Ours(StubBroker):  # type: ignore[misc]
        def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
            made.append({"queue_name": queue_name, "timeout": timeout})
            if len(made) == 2:
                again.set()
            return Raises()

    class Raises(Consumer):  # type: ignore[misc]
        def __next__(self) -> Any:
            if len(made) < 2:
                raise dramatiq.ConnectionClosed("away")
            return None

    broker = Ours(middleware=[])
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    broker.declare_queue("q")
    broker.delay_queues.clear()
    worker.start()
    assert again.wait(SOON)
    worker.stop(timeout=5000)
    assert {"queue_name": "q", "timeout": 50} in made


def test_a_worker_that_stops_lets_its_threads_end_and_gives_back_what_they_did_not_begin() -> None:
    begun, let_go, requeued = threading.Event(), threading.Event(), threading.Event()
    given: list[Any] = [MessageProxy(message()), MessageProxy(message())]
    calls: list[tuple[str, Any]] = []

    class Gives(Consumer):  # type: ignore[misc]
        def __next__(self) -> Any:
            return given.pop(0) if given else None

        def ack(self, message: Any) -> None:
            calls.append(("ack", message))

        def requeue(self, messages: Any) -> None:
            for one in messages:
                calls.append(("requeue", one))
                requeued.set()

    class Ours(StubBroker):  # type: ignore[misc]
        def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
            return Gives()

    def wait(*_: Any, **__: Any) -> None:
        begun.set()
        assert let_go.wait(SOON)

    broker = Ours(middleware=[])
    actor_on(broker, wait)
    broker.delay_queues.clear()
    first, second = given
    worker = dramatiq.Worker(broker, worker_timeout=1, worker_threads=1)
    worker.start()
    assert begun.wait(SOON)
    until = time.monotonic() + SOON
    while not worker.work_queue.qsize():  # the second one is taken too, and waits behind the first
        assert time.monotonic() < until
        time.sleep(0.001)
    (thread,) = worker.workers
    told = thread.stop
    thread.stop = lambda: (told(), let_go.set())
    worker.stop(timeout=120_000)
    assert calls == [("ack", first), ("requeue", second)]


def test_a_worker_does_not_announce_its_process() -> None:
    """Dramatiq's command line does; we have to."""
    assert "process_boot" not in inspect.getsource(engine.Worker)


def test_its_threads_do_not_keep_the_process(broker: RedisBroker) -> None:
    work: Any = engine.PriorityQueue()
    consumer = engine.ConsumerThread(broker=broker, queue_name="q", prefetch=1, work_queue=work, worker_timeout=1)
    assert consumer.daemon
    assert engine.WorkerThread(broker=broker, consumers={}, work_queue=work, worker_timeout=1).daemon


def test_actors_bind_where_they_are_told_and_once(broker: RedisBroker) -> None:
    actor = actor_on(broker, lambda: None)
    assert broker.get_actor("a") is actor
    with pytest.raises(ValueError, match="already registered"):
        actor_on(broker, lambda: None)


# ---- redis-py ------------------------------------------------------------------------------------------------------


def test_a_timeout_is_no_connection_error() -> None:
    """Dramatiq's own consumer takes only the latter for an outage, and drops an acknowledgement for the former."""
    assert not issubclass(redis.TimeoutError, redis.ConnectionError)
    assert issubclass(redis.TimeoutError, redis.RedisError)


# ---- its command: where our middleware hangs, beside the user's actors ---------------------------------------------


def test_only_a_middleware_error_keeps_a_worker_from_starting() -> None:
    class Refuses(Middleware):  # type: ignore[misc]
        def __init__(self, error: Exception) -> None:
            self.error = error

        def before_worker_boot(self, broker: Any, worker: Any) -> None:
            raise self.error

    ran = dramatiq.Worker(StubBroker(middleware=[Refuses(ValueError("only logged"))]), worker_threads=1)
    ran.start()
    ran.stop()
    with pytest.raises(MiddlewareError, match="no"):
        dramatiq.Worker(StubBroker(middleware=[Refuses(MiddlewareError("no"))])).start()


def test_the_order_in_which_a_worker_tells_of_itself() -> None:
    """Before its threads begin; before they are told to stop; after they have."""
    told: list[Any] = []

    class Hears(Middleware):  # type: ignore[misc]
        def before_worker_boot(self, broker: Any, worker: Any) -> None:
            told.append(("boot", len(worker.workers), worker.worker_threads))

        def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
            told.append(("stops", [thread.is_alive() for thread in worker.workers]))

        def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
            told.append(("stopped", [thread.is_alive() for thread in worker.workers]))

    worker = dramatiq.Worker(StubBroker(middleware=[Hears()]), worker_threads=1)
    worker.start()
    worker.stop()
    assert told == [("boot", 0, 1), ("stops", [True]), ("stopped", [False])]


def test_the_command_tells_of_the_process_before_it_imports_the_modules() -> None:
    """So that the tasks are known at worker_boot, and not at process_boot."""
    from dramatiq import cli

    text = inspect.getsource(cli.worker_process)
    places = [text.index(said) for said in ('emit_after("process_boot")', "import_module(module)", "worker.start()")]
    assert places == sorted(places)
    assert "worker.stop(" in text[places[-1] :]


def test_the_command_hears_by_an_event_that_a_process_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set when the worker runs already; beside.boot_event() finds it among what the process was handed."""
    from dramatiq import cli

    text = inspect.getsource(cli.worker_process)
    assert text.index("worker.start()") < text.index("event.set()")
    assert "args=(args, worker_id, StreamablePipe(write_pipe), canteen, event)" in inspect.getsource(cli.main)

    assert boot_event() is None
    event = multiprocessing.Event()
    for target, found in ((cli.worker_process, event), (print, None)):
        process = multiprocessing.Process(target=target, args=("args", 1, "pipe", event))
        monkeypatch.setattr(multiprocessing, "current_process", lambda process=process: process)
        assert boot_event() is found


def test_a_middleware_can_be_put_before_the_first() -> None:
    class First(Middleware):  # type: ignore[misc]
        pass

    broker = StubBroker(middleware=[Watch()])
    broker.add_middleware(First(), before=type(broker.middleware[0]))
    assert [type(one) for one in broker.middleware] == [First, Watch]
