"""What our adapter takes for granted of Celery and kombu 5.7. A failure here after an upgrade says what to look at."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

celery = pytest.importorskip("celery", reason="Celery is not installed")

from celery import Celery, signals  # noqa: E402  # after the check that it is there
from celery.app.trace import build_tracer  # noqa: E402
from celery.bootsteps import Blueprint  # noqa: E402
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown  # noqa: E402
from celery.worker import state  # noqa: E402
from celery.worker.consumer import Consumer  # noqa: E402
from celery.worker.request import Request, create_request_cls  # noqa: E402
from kombu.asynchronous import Hub  # noqa: E402
from kombu.connection import Connection  # noqa: E402
from kombu.entity import Exchange, Queue  # noqa: E402
from kombu.exceptions import ContentDisallowed  # noqa: E402
from kombu.message import Message  # noqa: E402
from kombu.messaging import Producer  # noqa: E402
from kombu.transport.redis import Transport  # noqa: E402
from kombu.utils.json import loads  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_version() -> None:
    assert celery.__version__.startswith("5.7")


# ---- the broker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(valkey_url: str, client: redis.Redis) -> Iterator[Any]:
    with Connection(valkey_url) as connection:
        yield connection


def send(connection: Any, body: str = "[]", **options: Any) -> None:
    Producer(connection.channel(), auto_declare=False).publish(
        body, exchange="", routing_key="q", content_type="application/json", content_encoding="utf-8", **options
    )


def test_a_queue_has_a_list_for_each_of_four_priorities_and_0_is_the_highest(
    connection: Any, client: redis.Redis
) -> None:
    for priority in (9, 6, 3, 0, 0):
        send(connection, f"[{priority}]", priority=priority)
    separator = connection.default_channel.sep
    assert client.llen("q") == 2
    assert [client.llen(f"q{separator}{priority}") for priority in (3, 6, 9)] == [1, 1, 1]
    bound = Queue("q", Exchange("q"), routing_key="q")(connection.default_channel)
    assert [bound.get(no_ack=True).payload for _ in range(5)] == [[0], [0], [3], [6], [9]]


def test_the_default_exchange_goes_to_a_queue_by_its_name_though_nothing_is_bound(
    connection: Any, client: redis.Redis
) -> None:
    """Through an exchange of its own, a message after a FLUSHALL would go to kombu's dead letters."""
    send(connection)
    assert client.keys("*") == [b"q"]


def test_a_batch_is_on_the_broker_when_it_ends(connection: Any, client: redis.Redis) -> None:
    producer = Producer(connection.channel(), auto_declare=False)
    with producer.batch(10):
        for _ in range(3):
            producer.publish("[]", exchange="", routing_key="q", content_type="application/json")
        assert client.llen("q") == 0
    assert client.llen("q") == 3


def test_a_broker_that_refuses_is_asked_once() -> None:
    connection = Connection("redis://127.0.0.1:1/0")
    errors: list[Any] = []
    with pytest.raises(redis.ConnectionError):
        connection.ensure_connection(lambda *_: errors.append(1), max_retries=0, reraise_as_library_errors=False)
    assert errors == []


def test_rediss_without_options_checks_no_certificate() -> None:
    """Why the adapter asks for it itself."""
    assert Connection("rediss://localhost/0").transport.client.ssl in (False, {"ssl_cert_reqs": 0})
    assert Connection("rediss://localhost/0", ssl={"ssl_cert_reqs": "required"}).ssl == {"ssl_cert_reqs": "required"}


def test_a_socket_url_names_the_transport_and_the_path() -> None:
    connection = Connection("redis+socket:///run/redis.sock?virtual_host=3")
    assert (connection.transport_cls, connection.hostname) == ("redis", "socket:///run/redis.sock?virtual_host=3")


def test_kombu_reads_objects_out_of_json_dictionaries() -> None:
    """Why arguments that look like that are not shown."""
    assert loads('{"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678", "version": 4}}') != {}
    assert not isinstance(loads('{"__type__": "decimal", "__value__": "1"}'), dict)


def test_what_a_body_may_be_is_checked_before_it_is_read() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("it was unpickled",))

    message = Message(
        pickle.dumps(Bomb()),
        content_type="application/x-python-serialize",
        content_encoding="binary",
        accept={"application/json"},
    )
    with pytest.raises(ContentDisallowed):
        message.decode()


def test_an_acknowledgement_that_fails_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """So that the message keeps its place among the prefetched: hence a Message of our own."""

    class Channel:
        no_ack_consumers: tuple[str, ...] = ()

        def basic_ack(self, *_: Any, **__: Any) -> None:
            raise ConnectionResetError("gone")

    message = Message("[]", delivery_tag="t", channel=Channel())
    with caplog.at_level(logging.CRITICAL):
        message.ack_log_error(logging.getLogger("x"), (OSError,))
    assert "Couldn't ack" in caplog.text
    assert list(inspect.signature(message.ack_log_error).parameters) == ["logger", "errors", "multiple"]
    assert list(inspect.signature(message.reject_log_error).parameters) == ["logger", "errors", "requeue"]


def test_what_the_transport_popped_and_cannot_read_is_gone_but_for_its_error(
    connection: Any, client: redis.Redis
) -> None:
    client.lpush("q", b"garbage")
    with connection.Consumer(Queue("q"), callbacks=[print]), pytest.raises(ValueError) as caught:
        connection.drain_events(timeout=5)
    error: Any = caught.value
    assert error.doc == "garbage"
    assert client.llen("q") == 0


# ---- outcomes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Any:
    app = Celery("contract", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.result_cache_max = 0
    return app


def _note(seen: list[str], name: str, **_: Any) -> None:
    seen.append(name)


def trace(app: Any, function: Callable[..., Any], id: str = "id") -> tuple[str, Any, list[str]]:
    """The state and the result that Celery records, and the signals that it sends."""
    seen: list[str] = []
    told = {name: getattr(signals, name) for name in ("task_success", "task_retry", "task_failure")}
    listeners = {name: partial(_note, seen, name) for name in told}
    for name, one in told.items():
        one.connect(listeners[name])
    name = f"task-{len(app.tasks)}"
    task = app.task(name=name)(function)
    try:
        build_tracer(name, task, app=app)(id, (), {}, {"id": id, "delivery_info": {}})
    finally:
        for name, one in told.items():
            one.disconnect(listeners[name])
    meta = app.backend.get_task_meta(id)
    return meta["status"], meta["result"], seen


def fails(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


def test_retry_raised_by_hand_is_said_and_nothing_is_published(app: Any) -> None:
    status, result, seen = trace(app, fails(Retry("again in 3 s", exc=RuntimeError("no"), when=3)))
    assert (status, str(result), seen) == ("RETRY", "no", ["task_retry"])
    with app.connection_for_write() as connection:
        queue = Queue("celery")(connection.default_channel)
        queue.declare()
        assert queue.get() is None


def test_an_error_is_a_failure(app: Any) -> None:
    status, result, seen = trace(app, fails(RuntimeError("no")))
    assert (status, str(result), seen) == ("FAILURE", "no", ["task_failure"])


def test_ignore_leaves_the_state_alone(app: Any) -> None:
    def seven() -> int:
        return 7

    assert trace(app, seven)[0] == "SUCCESS"
    status, result, seen = trace(app, fails(Ignore("dropped")))
    assert (status, result, seen) == ("SUCCESS", 7, [])


def test_reject_goes_through_to_the_worker(app: Any) -> None:
    task = app.task(name="rejecting")(fails(Reject("the worker stops", requeue=True)))
    traced = build_tracer("rejecting", task, app=app)("r", (), {}, {"id": "r", "delivery_info": {}})
    assert (traced.info.state, traced.info.retval.requeue) == ("REJECTED", True)
    assert app.backend.get_task_meta("r")["status"] == "PENDING"


def test_revoked_can_be_said(app: Any) -> None:
    app.backend.mark_as_revoked("r", "cancelled", request=None, store_result=True)
    assert app.backend.get_task_meta("r")["status"] == "REVOKED"


def test_retry_survives_the_way_from_a_child(app: Any) -> None:
    said = pickle.loads(pickle.dumps(Retry("again", exc=RuntimeError("no"), when=3)))
    assert (str(said), said.when, str(said.exc)) == ("again", 3, "no")


# ---- the worker ----------------------------------------------------------------------------------------------------


def test_a_custom_header_is_found_on_the_request(app: Any) -> None:
    found: list[Any] = []

    @app.task(name="look", bind=True)
    def look(self: Any) -> None:
        found.append(self.request.queuekit)

    build_tracer("look", look, app=app)("id", (), {}, {"delivery_info": {}, "queuekit": {"v": 1}})
    assert found == [{"v": 1}]


def test_the_hooks_of_the_consumer_are_there() -> None:
    assert list(inspect.signature(Consumer.create_task_handler).parameters) == ["self", "promise"]
    assert list(inspect.signature(Consumer.on_decode_error).parameters) == ["self", "message", "exc"]
    assert list(inspect.signature(Consumer.ensure_connected).parameters) == ["self", "conn"]


def test_a_warm_shutdown_is_asked_for_by_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(WorkerShutdown) as caught:
        state.maybe_shutdown()
    assert caught.value.code == 0


def test_logging_is_left_alone_where_somebody_listens_to_setup_logging() -> None:
    def listen(**_: Any) -> None: ...

    before = list(logging.getLogger().handlers)
    signals.setup_logging.connect(listen)
    try:
        Celery("x", set_as_current=False).log.setup()
    finally:
        signals.setup_logging.disconnect(listen)
    assert logging.getLogger().handlers == before


CHILD_HANDLERS = """
import json, os, signal, sys
from celery import Celery, signals
app = Celery("x", broker=sys.argv[1])
app.conf.update(worker_enable_remote_control=False, worker_redirect_stdouts=False)
asked = lambda *_: None

@signals.worker_process_init.connect
def early(**_):
    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGQUIT, asked)

@app.task(name="look")
def look():
    now = [signal.getsignal(one) is asked for one in (signal.SIGTERM, signal.SIGQUIT)]
    print(json.dumps(now), flush=True)
    os.kill(os.getppid(), signal.SIGTERM)

@signals.worker_ready.connect
def ready(**_):
    look.delay()

app.worker_main(["worker", "-c1", "--without-mingle", "--without-gossip", "-lERROR"])
"""


def test_billiard_sets_its_own_handlers_after_the_last_signal_of_celerys(valkey_url: str, client: redis.Redis) -> None:
    """Why ours are set when a child runs its first task."""
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD_HANDLERS, valkey_url], capture_output=True, text=True, timeout=60, env=environ
    )
    assert "[false, false]" in done.stdout, done.stdout + done.stderr


# ---- beside a user's app -------------------------------------------------------------------------------------------


def test_steps_can_be_named_by_text_and_stand_outside_the_settings(app: Any) -> None:
    before = dict(app.conf)
    app.steps["worker"].add("queuekit.adapters.celery.beside:Companion")
    assert dict(app.conf) == before
    step = Blueprint(steps=app.steps["worker"]).claim_steps()["queuekit.adapters.celery.beside.Companion"]
    assert [str(one) for one in step.requires] == ["celery.worker.components:Timer"]


def test_queues_are_deselected_also_where_none_was_selected(app: Any) -> None:
    app.conf.task_queues = [Queue("theirs"), Queue("ours")]
    queues = app.amqp.queues
    queues.deselect(["ours"])
    assert "ours" in queues
    assert list(queues.consume_from) == ["theirs"]
    assert queues["one that a producer names later"]
    assert list(queues.consume_from) == ["theirs"]


def test_the_parts_that_the_link_stands_on_are_there() -> None:
    assert list(inspect.signature(Request.on_accepted).parameters) == ["self", "pid", "time_accepted"]
    assert list(inspect.signature(Hub.call_soon).parameters) == ["self", "callback", "args"]
    assert list(inspect.signature(Hub.call_repeatedly).parameters) == ["self", "delay", "callback", "args"]
    taken = inspect.getsource(Transport.register_with_event_loop)
    used = set(re.findall(r"\bloop\.(\w+)", taken))
    assert used <= {"poller", "add_reader", "remove_reader", "remove", "on_tick", "call_repeatedly"}


def test_a_callback_from_another_thread_wakes_the_loop() -> None:
    """Else an acknowledgement from a pool's thread would wait for the next message."""
    hub = Hub()
    done: list[float] = []
    hub.call_later(30, lambda: None)
    hub.run_once()
    timer = threading.Timer(0.2, lambda: hub.call_soon(done.append, 1.0))
    timer.start()
    before = time.monotonic()
    while not done:
        hub.run_once()
        assert time.monotonic() - before < 8, "it slept until its timer"
    timer.join()
    hub.close()


def test_limits_in_the_message_come_before_the_apps(app: Any) -> None:
    """hard, soft; the pool's own where both are None."""
    source = inspect.getsource(create_request_cls)
    assert "time_limit, soft_time_limit = self.time_limits" in source
    assert "timeout=time_limit or default_time_limit" in source


def test_a_signal_says_that_the_worker_shuts_down_and_how() -> None:
    from celery.apps import worker

    source = inspect.getsource(worker)
    assert "signals.worker_shutting_down.send(" in source
    assert "sig='SIGTERM', how='Warm'" in source
    assert "sig='SIGQUIT', how='Cold'" in source
