"""The Celery adapter by itself: what it publishes, what it lets in, and how it says an outcome in Celery's words."""

from __future__ import annotations

import base64
import copy
import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

pytest.importorskip("celery", reason="Celery is not installed")

from celery import Celery  # noqa: E402  # after the check that it is there
from celery.exceptions import Ignore, Reject, Retry  # noqa: E402
from kombu.connection import Connection  # noqa: E402
from kombu.messaging import Consumer  # noqa: E402

from queuekit import App, ConfigError, JobFailed, Settings  # noqa: E402
from queuekit.adapters import BrokerAway  # noqa: E402
from queuekit.adapters.celery import CeleryAdapter, check, install, monitoring  # noqa: E402
from queuekit.adapters.celery.broker import Broker  # noqa: E402
from queuekit.adapters.celery.gate import Gate  # noqa: E402
from queuekit.adapters.celery.tasks import UNKNOWN, DoorbellTask, TaskFailed, compile_task, make_app  # noqa: E402
from queuekit.app import current_app, use_default  # noqa: E402
from queuekit.execution import (  # noqa: E402
    Dropped,
    Ended,
    Failed,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.message import HEADER, Doorbell, InvalidMessage, Message, Publication  # noqa: E402
from queuekit.signing import Signer  # noqa: E402
from queuekit.testing import tasks  # noqa: E402
from queuekit.testing.bench import SLACK, WorkerBench  # noqa: E402
from queuekit.testing.outages import BACK  # noqa: E402
from queuekit.testing.proxy import Proxy  # noqa: E402
from queuekit.testing.target import find_targets  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuekit.testing import plugin
    from queuekit.testing.servers import RedisServer

MESSAGE = Message("j", "mod.task", [1, "ü"], {"k": [2]}, "q", "celery", priority=9, timeout=2.5)
FIRST = Publication(MESSAGE, 1, 1, "e")


@pytest.fixture
def adapter(queuekit_broker: plugin.Broker) -> Iterator[CeleryAdapter]:
    adapter = CeleryAdapter(Settings(**queuekit_broker.settings("celery")))
    yield adapter
    adapter.close()


@pytest.fixture
def messages(queuekit_broker: plugin.Broker) -> Any:
    """What waits in the broker, by (queue, kombu's priority), the oldest first."""

    def read(queue: str = "q", priority: int = 0) -> list[dict[str, Any]]:
        key = f"queuekit.{queuekit_broker.namespace}.{queue}" + (f"\x06\x16{priority}" if priority else "")
        with redis.Redis.from_url(queuekit_broker.url) as client:
            found = [json.loads(raw) for raw in reversed(client.lrange(key, 0, -1))]
        for one in found:
            one["body"] = json.loads(base64.b64decode(one["body"]))
        return found

    return read


# ---- taking --------------------------------------------------------------------------------------------------------


def test_what_a_worker_gives_back_is_in_the_queue_as_it_came(adapter: CeleryAdapter, messages: Any) -> None:
    """Its transport keeps what it has taken in its own memory: nothing of it is in Redis."""
    adapter.publish([replace(FIRST, number=n) for n in (1, 2, 3)])
    first, second, third = messages()
    taken: list[Any] = []
    options: dict[str, Any] = {"transport": "queuekit.adapters.celery.transport:Transport"}
    options["transport_options"] = adapter.broker.transport_options(5.0)
    with Connection(adapter.broker.url(), **options) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 2, False)
        with Consumer(channel, [adapter.broker.queue("q")], accept=["json"], on_message=taken.append):
            while len(taken) < 2:
                connection.drain_events(timeout=5)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.2)  # it has two already
            assert [one.headers["id"] for one in taken] == [first["headers"]["id"], second["headers"]["id"]]
            taken[0].ack()
            assert messages() == [third]
            taken[1].reject(requeue=True)  # behind all others, as kombu does
            for place in second["headers"], second["properties"]["delivery_info"]:
                place["redelivered"] = True
            assert messages() == [third, second]
            connection.drain_events(timeout=5)
    # What was left of it at the connection's end is taken next.
    for place in third["headers"], third["properties"]["delivery_info"]:
        place["redelivered"] = True
    assert messages() == [third, second]


@pytest.mark.parametrize(
    ("settings", "kept"), [({}, False), ({"adopt": "true"}, True), ({"store_lost": "adopt"}, True)]
)
def test_what_the_record_may_not_know_is_written_down_when_it_is_taken(
    bench: WorkerBench, settings: dict[str, str], kept: bool
) -> None:
    bench.start_worker(**settings)
    job = tasks.sleep.enqueue(1)
    bench.started(job)
    with redis.Redis.from_url(bench.settings["broker_url"]) as client:
        assert client.exists(f"queuekit.{bench.settings['namespace']}:unacked") == kept
    assert job.result(timeout=20) == "slept"


def test_what_runs_is_not_put_into_the_queue_again_when_its_connection_breaks(
    queuekit_broker: plugin.Broker, tmp_path: Path
) -> None:
    """As kombu would all that this connection has brought."""
    (target,) = find_targets(("celery-threads",))
    with Proxy(urlsplit(queuekit_broker.url).port or 0) as proxy:
        urls = {"broker_url": proxy.url(queuekit_broker.url), "store_url": queuekit_broker.url}
        bench = WorkerBench(target, tmp_path, **urls, concurrency=11)
        try:
            with bench.in_use():
                worker = bench.start_worker()
                jobs = [tasks.sleep.enqueue(60) for _ in range(10)]
                for job in jobs:
                    bench.started(job)
                proxy.cut()
                bench.until(lambda: "the connection for queuekit's queues" in worker.said(), "it notices")
                assert tasks.add.enqueue(1).result(timeout=BACK + SLACK) == 2
                assert [worker.said().count(f"[{job.id}] received") for job in jobs] == [1] * 10
        finally:
            bench.close()


# ---- publishing ----------------------------------------------------------------------------------------------------


def test_a_publication_is_a_celery_message_that_can_be_read(adapter: CeleryAdapter, messages: Any) -> None:
    adapter.publish([FIRST, Publication(MESSAGE, 2, 2, "e")])
    first, second = messages()
    headers = first["headers"]
    assert first["body"][:2] == [[1, "ü"], {"k": [2]}]
    assert (headers["task"], headers["id"], headers["root_id"]) == ("mod.task", "j", "j")
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1, 'ü')", "{'k': [2]}")
    assert headers["timelimit"] == [7.5, None]
    assert headers[HEADER] == dict(FIRST.header())
    assert first["content-type"] == "application/json"
    assert (second["headers"]["id"], second["headers"]["root_id"]) == ("j-2", "j")


@pytest.mark.parametrize(("priority", "native"), [(9, 0), (7, 3), (6, 3), (3, 6), (2, 9), (0, 9)])
def test_a_level_is_kombus_priority_turned_round(
    adapter: CeleryAdapter, messages: Any, priority: int, native: int
) -> None:
    message = Message("j", "t", [], {}, "q", "celery", priority=priority)
    adapter.publish([Publication(message, 1, 1, "e")])
    assert len(messages(priority=native)) == 1
    routes = [f"celery:q:{level}" for level in (0, 3, 6, 9)]
    assert [adapter.depth(route) for route in routes] == [int(route == message.route) for route in routes]


def test_a_private_job_shows_nothing(adapter: CeleryAdapter, messages: Any) -> None:
    adapter.publish(
        [Publication(Message("p", "t", ["secret"], {"k": "secret"}, "q", "celery", private=True), 1, 1, "e")]
    )
    (found,) = messages(priority=9)
    assert "secret" not in json.dumps(found)
    assert found["headers"][HEADER]["private"] is True


def test_arguments_that_kombu_would_read_as_objects_stay_in_the_record(adapter: CeleryAdapter, messages: Any) -> None:
    args = [{"__type__": "decimal", "__value__": "no number"}]
    adapter.publish([Publication(Message("p", "t", args, {}, "q", "celery"), 1, 1, "e")])
    (found,) = messages(priority=9)
    assert found["body"][0] == ["(in the record)"]
    header = found["headers"][HEADER]
    assert (header["private"], header["left_out"]) == (False, True)  # placeholders: never to be adopted


def test_long_arguments_are_cut_for_the_monitors_alone(adapter: CeleryAdapter, messages: Any) -> None:
    adapter.publish([Publication(Message("p", "t", ["x" * 5000], {}, "q", "celery"), 1, 1, "e")])
    (found,) = messages(priority=9)
    assert len(found["headers"]["argsrepr"]) == 1024
    assert found["body"][0] == ["x" * 5000]


def test_many_at_a_time_keep_their_order(adapter: CeleryAdapter, messages: Any) -> None:
    adapter.publish([Publication(MESSAGE, number, number, "e") for number in range(1, 1201)])
    assert [one["headers"][HEADER]["pseq"] for one in messages()] == list(range(1, 1201))


def test_threads_share_an_adapter(adapter: CeleryAdapter, messages: Any) -> None:
    def publish(thread: int) -> None:
        for number in range(20):
            adapter.publish([Publication(MESSAGE, thread * 100 + number + 1, 2, "e")])

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {one["headers"][HEADER]["pseq"] for one in messages()}
    assert found == {thread * 100 + number + 1 for thread in range(6) for number in range(20)}


def test_a_forked_child_publishes_by_a_connection_of_its_own(adapter: CeleryAdapter, messages: Any) -> None:
    adapter.publish([FIRST])
    child = multiprocessing.get_context("fork").Process(
        target=lambda: adapter.publish([Publication(MESSAGE, 2, 2, "e")])
    )
    child.start()
    child.join(20)
    assert child.exitcode == 0
    adapter.publish([Publication(MESSAGE, 3, 3, "e")])
    assert [one["headers"][HEADER]["pseq"] for one in messages()] == [1, 2, 3]


@pytest.mark.parametrize("silent", [False, True])
def test_a_broker_that_is_away_does_not_keep_anybody(silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:  # it accepts, and says nothing
            listener.listen(50)
        url = f"redis://user:hidden@127.0.0.1:{listener.getsockname()[1]}/0"
        adapter = CeleryAdapter(Settings(backend="celery", broker_url=url, enqueue_timeout=1))
        for ask in (lambda: adapter.publish([FIRST]), lambda: adapter.depth(MESSAGE.route)):
            before = time.monotonic()
            with pytest.raises(BrokerAway) as caught:
                ask()
            assert time.monotonic() - before < 1.5
            assert "hidden" not in str(caught.value)
        adapter.close()


def test_a_broker_that_falls_silent_later_does_not_keep_anybody_either(server: RedisServer) -> None:
    adapter = CeleryAdapter(Settings(backend="celery", broker_url=server.url, enqueue_timeout=1))
    adapter.publish([FIRST])
    server.freeze()
    try:
        before = time.monotonic()
        with pytest.raises(BrokerAway):
            adapter.publish([FIRST])
        assert time.monotonic() - before < 1.5
    finally:
        server.thaw()
    adapter.publish([FIRST])
    adapter.close()


def test_a_broker_that_was_restarted_meanwhile_is_found_again(server: RedisServer) -> None:
    adapter = CeleryAdapter(Settings(backend="celery", broker_url=server.url))
    adapter.publish([FIRST])
    server.restart(empty=True)
    adapter.publish([FIRST])
    assert adapter.depth(MESSAGE.route) == 1
    adapter.close()
    adapter.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    from queuekit.testing.plugin import a_server

    with a_server(tmp_path / "server") as server:
        yield server


@pytest.mark.parametrize(
    ("url", "native", "ssl"),
    [
        ("redis://u:p@h:1/2", "redis://u:p@h:1/2", None),
        ("rediss://h/0", "redis://h/0", {"ssl_cert_reqs": "required"}),
        ("rediss://h/0?ssl_cert_reqs=none", "redis://h/0?ssl_cert_reqs=none", None),
        ("unix:///run/r.sock?db=3", "redis+socket:///run/r.sock?virtual_host=3", None),
        ("amqp://u:p@h//", "amqp://u:p@h//", None),
        ("amqps://h//", "amqps://h//", {"server_hostname": "h"}),
    ],
)
def test_urls(url: str, native: str, ssl: Any) -> None:
    broker = Broker(Settings(backend="celery", broker_url=url, store_url="redis://h/0"))
    assert broker.url() == native
    assert broker.ssl == ssl
    assert broker.priority(9) == (9 if url.startswith("amqp") else 0)


# ---- native --------------------------------------------------------------------------------------------------------


def test_the_native_task_is_there_once_and_is_not_to_be_sent_by_hand(adapter: CeleryAdapter) -> None:
    native = adapter.native(tasks.add)
    assert adapter.native(tasks.add) is native
    assert (native.name, native.acks_late, native.max_retries) == (tasks.add.name, True, 0)
    with pytest.raises(TypeError, match="enqueue"):
        native.delay(1)
    with pytest.raises(RuntimeError, match="queuekit worker"):
        native(1)


def test_a_programs_own_celery_app_stays_the_current_one(adapter: CeleryAdapter) -> None:
    from celery import current_app

    before = current_app._get_current_object()
    adapter.native(tasks.add)
    assert current_app._get_current_object() is before


def test_an_unknown_pool_is_refused(adapter: CeleryAdapter) -> None:
    with pytest.raises(ConfigError, match="'eventlet'.*prefork, threads, solo"):
        adapter.run_worker(SimpleNamespace(pool="eventlet"))  # type: ignore[arg-type]


# ---- the gate ------------------------------------------------------------------------------------------------------


class Native:
    """A message as kombu delivers it."""

    content_type = "application/json"

    def __init__(self, **changes: Any) -> None:
        self.headers: Any = {"task": "mod.task", "id": "j", HEADER: dict(FIRST.header()), "timelimit": [0.001, 0.001]}
        self.headers.update(changes.pop("headers", {}))
        self.body = changes.pop("body", [[1], {}, {"chain": None}])

    def decode(self) -> Any:
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


@pytest.fixture
def gate(adapter: CeleryAdapter) -> Gate:
    compile_task(adapter.app, "mod.task", adapter.broker)
    return Gate(adapter.app.tasks)


def test_a_doorbell_passes_and_only_its_own_words_count(gate: Gate) -> None:
    message = Native(headers={"eta": "2099-01-01", "expires": "2000-01-01", "group": "g", "stamped_headers": ["x"]})
    gate.admit(message)
    assert message.headers["task"] == "mod.task"
    assert message.headers["timelimit"] == [7.5, None]
    assert message.headers.keys().isdisjoint({"eta", "expires", "group", "stamped_headers"})


def test_a_task_that_is_not_known_here_goes_to_the_execution_all_the_same(gate: Gate) -> None:
    header = dict(FIRST.header(), task="new.task")
    message = Native(headers={"task": "new.task", HEADER: header})
    gate.admit(message)
    assert (message.headers["task"], message.headers["shadow"]) == (UNKNOWN, "new.task")


def test_arguments_that_kombu_would_make_objects_of_are_left_out_under_a_signature_that_holds(
    adapter: CeleryAdapter, messages: Any
) -> None:
    signer = Signer(["0123456789abcdef"], "n")
    adapter.publish([Publication(replace(MESSAGE, args=[{"__type__": "uuid"}]), 1, 1, "e", signer)])
    (found,) = messages()
    bell = Doorbell.from_header(found["headers"][HEADER])
    signer.check_bell(bell)
    assert (bell.left_out, found["body"][0]) == (True, ["(in the record)"])


def test_celerys_own_tasks_are_not_run_under_our_header(gate: Gate) -> None:
    message = Native(headers={"task": "celery.map", HEADER: dict(FIRST.header(), task="celery.map")})
    gate.admit(message)
    assert message.headers["task"] == UNKNOWN


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"headers": {HEADER: None}}, "mapping"),
        ({"headers": {HEADER: dict(FIRST.header(), v=99)}}, "version"),
        ({"headers": {"task": "celery.map"}}, "another task"),
        ({"headers": {"id": 7}}, "no id"),
        ({"body": ValueError("not JSON")}, "cannot be read"),
        ({"body": {"args": [], "kwargs": {}}}, r"\[args, kwargs"),
        ({"body": [{}, {}, {}]}, r"\[args, kwargs"),
        ({"body": [[], {}, {"chain": [{"task": "os.system"}]}]}, r"\[args, kwargs"),
        ({"body": [[], {}, {"errbacks": ["x"]}]}, r"\[args, kwargs"),
        ({"body": None}, r"\[args, kwargs"),
    ],
)
def test_what_is_no_doorbell_does_not_pass(gate: Gate, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidMessage, match=why):
        gate.admit(Native(**changes))


@pytest.mark.parametrize("headers", [None, [], {}, {"task": "mod.task", "id": "j"}])
def test_without_our_header_nothing_passes(gate: Gate, headers: Any) -> None:
    message = Native()
    message.headers = headers
    with pytest.raises(InvalidMessage, match="header"):
        gate.admit(message)


# ---- outcomes ------------------------------------------------------------------------------------------------------


class Demanding(Exception):
    """As an SDK's: it cannot be made from its arguments alone, so that it cannot be pickled."""

    def __init__(self, *, response: str) -> None:
        super().__init__(response)


def say(adapter: CeleryAdapter, outcome: Any, *, private: bool = False) -> Any:
    task = compile_task(adapter.app, "mod.task", adapter.broker)
    bell = Publication(Message("j", "mod.task", [], {}, "q", "celery", private=private), 1, 1, "e").doorbell
    return task._say(outcome, bell)


def test_a_success_is_its_result(adapter: CeleryAdapter) -> None:
    assert say(adapter, Succeeded(object(), '{"a": 1}')) == {"a": 1}
    assert say(adapter, Succeeded(7, None)) is None
    assert say(adapter, Succeeded(7, "7"), private=True) is None


@pytest.mark.parametrize("private", [False, True])
def test_a_retry_and_a_failure_can_travel_from_a_child_to_its_parent(adapter: CeleryAdapter, private: bool) -> None:
    error = Demanding(response="the secret")
    with pytest.raises(Retry) as retry:
        say(adapter, Retried(3.5, "rule x: the secret", error), private=private)
    with pytest.raises(TaskFailed) as failed:
        say(adapter, Failed("no rule: the secret", error), private=private)
    for caught in (retry.value, failed.value):
        copy = pickle.loads(pickle.dumps(caught))
        assert ("the secret" in str(copy)) is not private
        assert (caught.__cause__ is error) is not private
    assert retry.value.when == 3.5
    assert "Demanding" in str(failed.value)
    assert ("the secret" in repr(retry.value.exc)) is not private


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Released("the worker stopped"), Retry),
        (Dropped("it has succeeded"), Ignore),
        (Stale(), Ignore),
        (Ended("by the user"), Ignore),
        (Unrecorded("the store is away"), Reject),
    ],
)
def test_other_outcomes(adapter: CeleryAdapter, outcome: Any, said: type[Exception]) -> None:
    with pytest.raises(said) as caught:
        say(adapter, outcome)
    assert getattr(caught.value, "requeue", True) is True


def test_no_new_job_is_begun_while_the_worker_stops(adapter: CeleryAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = threading.Event()
    stopping.set()
    monkeypatch.setattr(DoorbellTask, "worker", SimpleNamespace(stopping=stopping))
    task = compile_task(adapter.app, "mod.task", adapter.broker)
    task.push_request(**{HEADER: dict(FIRST.header())})
    try:
        with pytest.raises(Reject) as caught:
            task.run(1)
    finally:
        task.pop_request()
    assert caught.value.requeue is True


# ---- a real worker -------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(queuekit_broker: plugin.Broker, tmp_path: Path) -> Iterator[WorkerBench]:
    (target,) = find_targets(("celery-prefork",))
    bench = WorkerBench(target, tmp_path, broker_url=queuekit_broker.url)
    with bench.in_use():
        yield bench
    bench.close()


def watch(bench: WorkerBench, ids: list[str], ends: int) -> dict[str, list[dict[str, Any]]]:
    """Celery's events, by task id, until so many tasks have ended of the jobs in `ids`, which may come later.

    A worker of an earlier test tells its last events on the same server.
    """
    app = make_app(bench.app.adapter.broker)  # type: ignore[attr-defined]
    seen: dict[str, list[dict[str, Any]]] = {}
    final = {"task-succeeded", "task-failed", "task-retried", "task-revoked"}
    with app.connection_for_read() as connection:

        def note(event: dict[str, Any]) -> None:
            if event["type"].startswith("task-"):
                seen.setdefault(event["uuid"], []).append(event)
            ours = [events for id, events in seen.items() if id.startswith(tuple(ids))]
            if sum(one["type"] in final for events in ours for one in events) >= ends:
                receiver.should_stop = True

        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.capture(limit=None, timeout=30, wakeup=False)
    return seen


def test_monitors_see_each_outcome_and_nothing_private(bench: WorkerBench) -> None:
    bench.start_worker()
    found: dict[str, list[dict[str, Any]]] = {}
    ids: list[str] = []
    watcher = threading.Thread(target=lambda: found.update(watch(bench, ids, 6)))
    watcher.start()
    with redis.Redis.from_url(bench.settings["broker_url"]) as client:
        bench.until(client.pubsub_numpat, "somebody listens to the events")
    time.sleep(monitoring.ASK)  # until the worker asks again: it had a job before, to say that it is there
    good, bad = tasks.add.enqueue(1), tasks.without_policy.enqueue(["bug"])
    again, secret = tasks.follow.enqueue(["timeout"]), tasks.confidential.enqueue("hush")
    stopped = tasks.sleep_async.enqueue(30)
    ids += [job.id for job in (good, bad, again, secret, stopped)]
    bench.started(stopped)
    stopped.cancel("enough")
    watcher.join(40)
    assert not watcher.is_alive()

    def kinds(id: str) -> list[str]:
        return [event["type"] for event in found[id]]

    assert kinds(good.id) == ["task-received", "task-started", "task-succeeded"]
    assert (found[good.id][0]["args"], found[good.id][2]["result"]) == ("(1,)", "2")
    assert kinds(bad.id)[-1] == "task-failed"
    assert "KeyError" in found[bad.id][-1]["exception"]
    assert kinds(again.id)[-1] == "task-retried"
    second = next(id for id in found if id.startswith(f"{again.id}-"))
    assert kinds(second)[-1] == "task-succeeded"
    assert found[second][0]["root_id"] == again.id
    assert kinds(stopped.id)[-1] == "task-revoked"
    assert "hush" not in repr(found[secret.id]).lower()
    with pytest.raises(JobFailed):
        bad.result(timeout=0)


def test_a_signal_to_the_whole_group_leaves_the_children_to_their_parent(bench: WorkerBench) -> None:
    """As a service manager sends it: the running job has its grace."""
    worker = bench.start_worker()
    bench.ended(tasks.add.enqueue(1))
    job = tasks.sleep.enqueue(1.5)
    bench.started(job)
    os.killpg(worker.pid, signal.SIGTERM)
    assert job.result(timeout=20) == "slept"
    worker.wait(20)
    assert worker.exit_code == 0
    assert [one.outcome for one in job.info().attempts] == ["succeeded"]
    with redis.Redis.from_url(bench.settings["broker_url"]) as client:
        left = [key for key in client.keys(f"queuekit.{bench.settings['namespace']}*") if b"unacked" in key]
    assert left == []


@pytest.mark.parametrize(
    "raw",
    [
        "[" * 100_000,  # deeper than the parser goes
        '{"__type__": "decimal", "__value__": "no number"}',  # kombu's JSON makes an object of it, or fails
        '{"properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": {}, "body": "x"}',
        '{"properties": {"delivery_tag": "t", "body_encoding": "base64"}, "headers": {}, "body": "!"}',
        '{"properties": {"delivery_tag": "t", "body_encoding": "rot13"}, "headers": {}, "body": "x"}',
        '{"properties": {"delivery_tag": "t"}, "headers": 7, "body": [], "content-type": {}}',
    ],
    ids=["deep", "object", "delivery_info", "base64", "encoding", "types"],
)
def test_what_breaks_the_reader_goes_to_quarantine(bench: WorkerBench, raw: str) -> None:
    worker = bench.start_worker()
    with redis.Redis.from_url(bench.settings["broker_url"]) as client:
        client.lpush(f"queuekit.{bench.settings['namespace']}.default", raw)
    assert bench.until(lambda: bench.app.store.quarantined(10), "it is in quarantine")
    assert tasks.add.enqueue(1).result(timeout=20) == 2
    assert worker.exit_code is None


DEAF = """
import signal, time
from queuekit import agent_task

@agent_task
def deaf(seconds: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
    time.sleep(seconds)
"""


def test_a_child_that_no_limit_reaches_is_killed_by_celery(
    bench: WorkerBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record ends the attempt 2 s after its limit, and Celery's own limit frees the child's place."""
    module = tmp_path / "deaf_tasks.py"
    module.write_text(DEAF)
    monkeypatch.syspath_prepend(str(tmp_path))
    import deaf_tasks  # type: ignore[import-not-found]

    bench.start_worker("queuekit.testing.tasks", str(module), concurrency=1)
    job = deaf_tasks.deaf.options(timeout=0.3).enqueue(60)
    assert bench.ended(job, within=20).attempts[-1].category == "time_limit"
    assert tasks.add.enqueue(1).result(timeout=20) == 2


def test_rabbitmq_needs_a_store_and_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"amqp://u:\*\*\*@h.* cannot keep records.*QUEUEKIT_STORE_URL=redis://"):
        Settings(backend="celery", broker_url="amqp://u:secret@h//").resolve()


# ---- beside a user's app -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "timeout", "said"),
    [
        ((None, None), None, [None, None]),
        ((None, None), 2.0, [7.0, None]),
        ((3.0, None), None, [1e9, None]),  # the app's own limit would strike
        ((3.0, 2.0), None, [1e9, 1e9]),
        ((None, 2.0), 2.0, [7.0, 7.0]),
    ],
)
def test_an_apps_own_limits_do_not_reach_our_tasks(
    adapter: CeleryAdapter, limits: Any, timeout: float | None, said: list[float | None]
) -> None:
    bell = Publication(Message("j", "mod.task", [], {}, "q", "celery", timeout=timeout), 1, 1, "e")
    message = Native(headers={HEADER: dict(bell.header())})
    Gate(adapter.app.tasks, limits=limits).admit(message)
    assert message.headers["timelimit"] == said


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"accept_content": ["pickle"]}, [("accept_content", True)]),
        ({"accept_content": ["application/json"]}, []),
        ({"worker_pool_start_method": "spawn"}, [("worker_pool_start_method", True)]),
        ({"worker_prefetch_multiplier": 0}, [("worker_prefetch_multiplier", False)]),
        ({"task_always_eager": True}, [("task_always_eager", False)]),
        ({"task_annotations": {"*": {"rate_limit": "1/s"}}}, [("task_annotations", False)]),
        ({"task_annotations": {"shop.add": {"rate_limit": "1/s"}}}, []),
        ({"worker_max_tasks_per_child": 1}, [("worker_max_tasks_per_child", False)]),
        (
            {"worker_cancel_long_running_tasks_on_connection_loss": True},
            [("worker_cancel_long_running_tasks_on_connection_loss", False)],
        ),
        ({"broker_use_ssl": {"ssl_cert_reqs": "none"}}, [("broker_use_ssl", False)]),
        ({"broker_transport_options": {"global_keyprefix": "x"}}, [("broker_transport_options", False)]),
        ({"broker_url": "redis://h/0"}, [("broker_transport_options['socket_timeout']", False)]),
        ({"broker_url": "redis://h/0", "broker_transport_options": {"socket_timeout": 5}}, []),
        ({"broker_url": "amqp://h//"}, []),
        # These reach no task of ours, which has its own.
        ({"task_acks_late": False, "task_reject_on_worker_lost": True, "task_time_limit": 3}, []),
        ({"task_default_rate_limit": "1/m", "task_ignore_result": False, "task_serializer": "pickle"}, []),
    ],
)
def test_what_stands_against_a_promise_is_found_and_not_changed(
    settings: dict[str, Any], found: list[tuple[str, bool]]
) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update({"worker_prefetch_multiplier": 1, **settings})
    before = {name: copy.deepcopy(app.conf[name]) for name in app.conf}
    assert [(one.setting, one.fatal) for one in check(app)] == found
    assert all(one.why and one.line and one.setting in str(one) for one in check(app))
    assert {name: app.conf[name] for name in app.conf} == before


def test_an_apps_defaults_are_not_those_of_our_tasks(adapter: CeleryAdapter) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        task_acks_late=False,
        task_acks_on_failure_or_timeout=False,
        task_reject_on_worker_lost=True,
        task_retry_on_worker_lost=True,
        task_default_rate_limit="1/m",
        task_ignore_result=False,
        task_track_started=True,
        task_store_errors_even_if_ignored=True,
        task_serializer="pickle",
    )
    task = compile_task(app, "mod.task", adapter.broker)
    assert (task.acks_late, task.acks_on_failure_or_timeout, task.ignore_result) == (True, True, True)
    assert not (task.reject_on_worker_lost or task.retry_on_worker_lost or task.rate_limit or task.track_started)
    assert (task.store_errors_even_if_ignored, task.serializer) == (False, "json")


def test_a_native_task_keeps_its_name(adapter: CeleryAdapter) -> None:
    app = Celery("shop", set_as_current=False)

    @app.task(name="mod.task")
    def mine() -> None: ...

    app.finalize()
    with pytest.raises(ConfigError, match="'mod.task' of its own.*another name="):
        compile_task(app, "mod.task", adapter.broker)


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.app._default", None)
    for name in [name for name in os.environ if name.startswith("QUEUEKIT_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_default")
def test_install_takes_the_apps_broker_when_it_is_asked_for() -> None:
    app = Celery("shop", set_as_current=False)
    ours = install(app, namespace="shop")
    app.conf.broker_url = "redis://u:p@h:1/2"  # configured after install(): nothing was read before
    assert current_app() is ours
    assert (ours.settings.backend, ours.settings.broker_url) == ("celery", "redis://u:p@h:1/2")
    assert (ours.settings.namespace, ours.settings.source("broker_url")) == ("shop", "the celery application")
    with pytest.raises(ConfigError, match="for this Celery app already"):
        install(app)


@pytest.mark.usefixtures("no_default")
@pytest.mark.parametrize(
    ("give", "why"),
    [
        (lambda: install("shop"), "give a celery.Celery"),
        (lambda: install(Celery("x", set_as_current=False), backend="rq"), r"backend='rq' is set \(configure"),
        (lambda: install(Celery("x", set_as_current=False), namespac="x"), "namespace"),
        (lambda: _settings_of("redis://a/0;redis://b/0"), "2 broker URLs.*QUEUEKIT_BROKER_URL"),
        (lambda: _settings_of("amqp://h//"), "cannot keep records.*QUEUEKIT_STORE_URL"),
        (lambda: _settings_of("sqs://"), "Amazon SQS"),
    ],
)
def test_install_refuses(give: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        give()


def _settings_of(url: str) -> Settings:
    app = Celery("x", set_as_current=False)
    app.conf.broker_url = url
    return install(app).settings


@pytest.mark.usefixtures("no_default")
def test_install_beside_a_default_app_goes_by_its_settings() -> None:
    """As where `queuekit worker` imports the module."""
    default = App(Settings(backend="celery", broker_url="redis://h/0", namespace="shop"))
    use_default(default)
    with pytest.raises(ConfigError, match="another namespace"):
        install(Celery("x", set_as_current=False), namespace="other")
    app = Celery("x", set_as_current=False)
    assert install(app, namespace="shop") is default
    assert default.adapter.app is app  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_default")
def test_install_for_the_memory_backend_leaves_the_app_alone() -> None:
    app = Celery("x", set_as_current=False)
    ours = install(app, backend="memory")
    with ours.activate():
        assert tasks.add.enqueue(1).result() == 2
    assert not app.steps["worker"]
    assert not app.steps["consumer"]
