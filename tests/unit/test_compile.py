"""The compile report: what follows from capabilities, what each engine adds, and that its options are what is sent."""

from __future__ import annotations

import base64
import json
import re
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import Backoff, ConfigError, RetryPolicy, RetryRule, Settings, agent_task
from queuekit import task as task_module
from queuekit.adapters import Capabilities, Pool, load_adapter
from queuekit.adapters.report import FAULTS, Level, Row, compile_task, refuse_faults, report, sample
from queuekit.testing.target import find_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing import plugin
    from queuekit.testing.servers import RabbitServer

POLICY = RetryPolicy(
    [RetryRule("category:rate_limit", Backoff(30), max_attempts=4), RetryRule("category:auth", action="fail")],
    max_attempts=6,
    max_elapsed=3600,
)


@agent_task(queue="documents", retry=POLICY, timeout=300, soft_timeout=280, priority=7)
async def summarise(text: str) -> str:
    return text


@agent_task(queue="documents", timeout=60.5, private=True, result_ttl=120)
def fetch(url: str) -> str:
    return url


@agent_task
def plain() -> None: ...


class Anonymous:
    """An engine of somebody else's, without a compile() of its own."""

    name = "other"
    capabilities = Capabilities(
        pools=(
            Pool("forks", processes=True, interrupts_sync=True, shared_loop=False, concurrent=True),
            Pool("threads", processes=False, interrupts_sync=False, shared_loop=True, concurrent=False),
        ),
        default_pool="forks",
        gaps={"C15:forks": "each job has a process", "C6": "its broker forgets"},
    )


SETTINGS = Settings(backend="rq", broker_url="redis://127.0.0.1:1/0")


def rows_of(task: Any, pool: str, *, settings: Settings = SETTINGS, adapter: Any = None) -> dict[str, Row]:
    adapter = adapter or Anonymous()
    kind = next(one for one in adapter.capabilities.pools if one.name == pool)
    rows = compile_task(adapter, task, kind, settings)
    assert len({row.field for row in rows}) == len(rows)
    return {row.field: row for row in rows}


# ---- by the capabilities alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "pool", "level"),
    [
        (fetch, "forks", Level.emulated),
        (fetch, "threads", Level.degraded),
        (summarise, "forks", Level.emulated),
        (summarise, "threads", Level.emulated),
        (plain, "threads", Level.emulated),  # it asks for no limit
    ],
)
def test_a_limit_of_a_function_in_a_thread_is_degraded(task: Any, pool: str, level: Level) -> None:
    row = rows_of(task, pool)["timeout"]
    assert row.level is level
    assert ("takes its worker along" in row.becomes) is (level is Level.degraded)
    assert bool(row.remedy) is (level is Level.degraded)


def test_the_remedy_of_a_limit_names_the_pools_that_would_keep_it() -> None:
    assert "or choose the pool forks" in rows_of(fetch, "threads")["timeout"].remedy


def test_a_pool_without_a_loop_that_lives_on_degrades_async_tasks_alone() -> None:
    row = rows_of(summarise, "forks")["shared_loop"]
    assert (row.level, row.why) == (Level.degraded, "each job has a process")
    assert "threads" in row.remedy
    assert "shared_loop" not in rows_of(fetch, "forks")
    assert rows_of(summarise, "threads")["shared_loop"].level is Level.emulated


def test_a_gap_that_no_field_shows_has_a_row_of_its_own() -> None:
    row = rows_of(plain, "forks")["contract.C6"]
    assert (row.level, row.why) == (Level.degraded, "its broker forgets")
    assert "contract.C15" not in rows_of(plain, "forks")  # a task that is not async asks for no loop


def test_a_gap_of_one_broker_is_shown_on_that_broker() -> None:
    class OnRabbit(Anonymous):
        capabilities = replace(Anonymous.capabilities, gaps={"C3:rabbitmq": "its clock is another"})

    assert "contract.C3" not in rows_of(plain, "forks", adapter=OnRabbit())
    settings = SETTINGS.replace(broker_url="amqp://127.0.0.1:1//")
    assert rows_of(plain, "forks", settings=settings, adapter=OnRabbit())["contract.C3"].level is Level.degraded


def test_each_rule_of_the_policy_is_a_row() -> None:
    rows = rows_of(summarise, "forks")
    assert rows["retry"].asked == "6 attempts in all, crashes included, within 60 min of the first failure"
    assert "waits 30 s to 37.5 s, 60 s to 75 s" in rows["retry.rate_limit"].becomes
    assert "failure 4 ends the job" in rows["retry.rate_limit"].becomes
    assert rows["retry.auth"].becomes == "fails the job at once"


def test_options_of_a_copy_are_what_is_reported() -> None:
    copy = summarise.options(queue="fast", priority=9, timeout=5, soft_timeout=2, retry=RetryPolicy(max_attempts=2))
    rows = rows_of(copy, "forks")
    assert [rows[name].asked for name in ("queue", "priority", "timeout", "soft_timeout")] == [
        "fast",
        "9",
        "5 s, async",
        "2 s, async",
    ]
    assert rows["retry"].asked.startswith("2 attempts")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test declares is no task of a worker that a later test starts in this process."""
    monkeypatch.setattr(task_module, "_registry", dict(task_module._registry))


def test_a_policy_that_nobody_knows_is_refused_with_the_reason(forgotten: None) -> None:
    @agent_task(name="test_compile.unknown_policy", retry="nobody-knows-it")
    def unknown_policy() -> None: ...

    row = rows_of(unknown_policy, "forks")["retry"]
    assert row.level is Level.refused
    assert "nobody-knows-it" in row.why
    assert row.remedy


def test_arguments_that_cannot_travel_are_refused(forgotten: None) -> None:
    @agent_task(name="test_compile.cannot_travel")
    def cannot_travel(thing: threading.Event) -> None: ...

    row = rows_of(cannot_travel, "forks")["arguments"]
    assert row.level is Level.refused
    assert row.why


def test_what_ends_code_over_its_limit_is_said() -> None:
    assert "the child is killed" in rows_of(fetch, "forks")["overrun"].becomes
    assert "leaves with exit code 75" in rows_of(fetch, "threads")["overrun"].becomes
    assert "swallows its cancellation" in rows_of(summarise, "threads")["overrun"].becomes


def test_more_jobs_at_a_time_than_a_pool_runs_is_degraded() -> None:
    settings = SETTINGS.replace(concurrency=4)
    assert rows_of(plain, "threads", settings=settings)["concurrency"].level is Level.degraded
    assert rows_of(plain, "forks", settings=settings)["concurrency"].level is Level.native


# ---- strict --------------------------------------------------------------------------------------------------------


def test_strict_names_task_field_pool_and_remedy() -> None:
    with pytest.raises(ConfigError) as error:
        refuse_faults(Anonymous(), [fetch, summarise], "threads", SETTINGS)  # type: ignore[arg-type]
    text = str(error.value)
    assert "other's pool 'threads'" in text
    assert f"{fetch.name}, timeout (60.5 s, sync)" in text
    assert "choose the pool forks" in text
    assert f"{summarise.name}, timeout" not in text


def test_strict_lets_pass_what_holds() -> None:
    class Whole(Anonymous):
        capabilities = replace(Anonymous.capabilities, gaps={})

    refuse_faults(Whole(), [fetch, plain], "forks", SETTINGS)  # type: ignore[arg-type]


# ---- the engines ---------------------------------------------------------------------------------------------------

TARGETS = [one for one in find_targets() if one.real and one.capabilities is not None]


def backends() -> list[str]:
    return sorted({target.backend for target in TARGETS})


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("task", [summarise, fetch, plain], ids=lambda task: task.__name__)
def test_the_report_covers_every_field_on_every_pool_and_broker(backend: str, task: Any) -> None:
    engine = report(task, Settings(), backend)
    has = load_adapter(backend).capabilities
    assert not engine.missing
    assert {(one.pool, one.broker) for one in engine.targets} == {
        (pool.name, broker) for pool in has.pools for broker in pool.brokers or has.brokers
    }
    assert engine.lowered is not None
    for target in engine.targets:
        fields = [row.field for row in target.rows]
        assert {"queue", "priority", "id", "arguments", "retry", "wait", "expires", "timeout", "soft_timeout"} <= {
            *fields
        }
        assert {"result", "result_ttl", "private", "late_ack", "cancel", "crash_detection", "overlap", "overrun"} <= {
            *fields
        }
        assert ("shared_loop" in fields) is task.is_async
        for row in target.rows:
            assert row.becomes, row
            assert row.remedy or row.level not in FAULTS, row


def test_pools_that_are_not_run_are_refused_with_a_reason() -> None:
    pytest.importorskip("celery")
    engine = report(plain, Settings(), "celery")
    assert "one system thread" in engine.refused["gevent"]
    assert not engine.refuses(None)
    assert report(plain, Settings(), "celery", "gevent").refuses("gevent")
    assert not report(plain, Settings(), "celery", "prefork").refused


def test_a_pool_that_does_not_exist_is_an_error_that_lists_them() -> None:
    pytest.importorskip("rq")
    with pytest.raises(ConfigError, match="'forks': rq has worker, simple"):
        report(plain, Settings(), "rq", "forks")


def test_the_settings_of_an_installed_app_are_rows() -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("theirs", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.worker_prefetch_multiplier = 8
    settings = Settings(backend="celery", broker_url="redis://127.0.0.1:1/0")
    adapter = load_adapter("celery")(settings, native=app)
    engine = report(plain, settings, "celery", installed=adapter)
    on_redis = next(one for one in engine.targets if one.broker == "redis")
    row = next(row for row in on_redis.rows if row.field == "app.worker_prefetch_multiplier")
    assert (row.level, row.asked, row.remedy) == (Level.degraded, "8", "worker_prefetch_multiplier = 1")
    assert app.conf.worker_prefetch_multiplier == 8


# ---- the options are what is sent ----------------------------------------------------------------------------------
# Each option of the report is read again from what the broker holds after a publication, by code that knows only the
# engine's own format.


def find(thing: Any, path: str) -> Any:
    for part in path.split("."):
        thing = thing[part]
    return thing


def sent_by_celery_on_redis(url: str, namespace: str) -> Callable[[str], Any]:
    with redis.Redis.from_url(url) as client:
        (key,) = (one.decode() for one in client.keys(f"queuekit.{namespace}.*") if client.type(one) == b"list")
        (raw,) = client.lrange(key, 0, -1)
    told = json.loads(raw)
    properties = told["properties"]
    message = {
        "headers": told["headers"],
        "content_type": told["content-type"],
        "priority": properties["priority"],
        "correlation_id": properties["correlation_id"],
        "body": json.loads(base64.b64decode(told["body"])),
    }
    name, _, priority = key.partition("\x06\x16")
    assert int(priority or 0) == properties["priority"]  # the list of that priority
    return lambda option: name if option == "queue.name" else find({"message": message}, option)


def sent_by_rq(url: str, namespace: str) -> Callable[[str], Any]:
    with redis.Redis.from_url(url) as client:
        ((key, ids),) = (
            (one.decode(), client.lrange(one, 0, -1)) for one in client.keys(f"rq:queue:queuekit.{namespace}.*")
        )
        told = {name.decode(): value for name, value in client.hgetall(b"rq:job:" + ids[0]).items()}
    function, instance, args, kwargs = json.loads(zlib.decompress(told["data"]))
    assert instance is None
    job = {
        "id": ids[0].decode(),
        "args": args,
        "kwargs": kwargs,
        "serializer": "JSONSerializer",  # it was read as JSON
        "description": told["description"].decode(),
        "timeout": int(told["timeout"]),
        "result_ttl": int(told["result_ttl"]),
        "retries_left": told.get("retries_left"),
        "meta": json.loads(told["meta"]),
        "function": function,
    }
    return lambda option: find({"job": job, "queue": {"name": key.removeprefix("rq:queue:")}}, option)


def sent_by_dramatiq_on_redis(url: str, namespace: str) -> Callable[[str], Any]:
    with redis.Redis.from_url(url) as client:
        ((key, bodies),) = (
            (one.decode(), client.hvals(one)) for one in client.keys(f"dramatiq:queuekit.{namespace}.*.msgs")
        )
    message = json.loads(bodies[0])
    assert key == f"dramatiq:{message['queue_name']}.msgs"
    return lambda option: find({"message": message}, option)


REDIS = {"celery": sent_by_celery_on_redis, "rq": sent_by_rq, "dramatiq": sent_by_dramatiq_on_redis}


@pytest.fixture(params=[summarise, fetch, plain], ids=lambda task: task.__name__)
def task(request: pytest.FixtureRequest) -> Any:
    return request.param


def native_value(adapter: Any, task: Any, option: str) -> Any:
    """Of the object that is the engine's own."""
    thing = adapter.native(task)
    for part in option.split(".")[1:]:
        thing = thing[part] if isinstance(thing, dict) else getattr(thing, part)
    return thing


def options_of(adapter: Any, task: Any, settings: Settings) -> Iterator[tuple[str, Any]]:
    for pool in adapter.capabilities.pools:
        for row in compile_task(adapter, task, pool, settings):
            yield from row.options.items()


@pytest.mark.parametrize("backend", backends())
def test_the_options_are_what_lies_in_redis(backend: str, task: Any, queuekit_broker: plugin.Broker) -> None:
    settings = Settings(**queuekit_broker.settings(backend)).resolve()
    adapter = load_adapter(backend)(settings)
    try:
        adapter.publish([sample(task, settings, backend)])
        sent = REDIS[backend](queuekit_broker.url, queuekit_broker.namespace)
        compared = 0
        for option, claimed in options_of(adapter, task, settings):
            if option.startswith("worker."):  # of the worker, and not of the task
                continue
            native = option.startswith(("task.", "actor."))
            assert claimed == (native_value(adapter, task, option) if native else sent(option)), option
            compared += 1
        assert compared > 10
    finally:
        adapter.close()


@pytest.mark.parametrize("backend", [one for one in ("celery", "dramatiq") if one in backends()])
def test_the_options_are_what_lies_in_rabbitmq(
    backend: str, task: Any, queuekit_rabbitmq: RabbitServer, queuekit_broker: plugin.Broker
) -> None:
    if "rabbitmq" not in load_adapter(backend).capabilities.brokers:
        pytest.skip(f"{backend} does not run on RabbitMQ")
    amqp = pytest.importorskip("amqp")
    namespace = queuekit_broker.namespace
    settings = Settings(
        backend=backend, broker_url=queuekit_rabbitmq.url, store_url=queuekit_broker.url, namespace=namespace
    ).resolve()
    adapter = load_adapter(backend)(settings)
    try:
        adapter.publish([sample(task, settings, backend)])
        claims = dict(options_of(adapter, task, settings))
        name = claims["queue.name" if backend == "celery" else "message.queue_name"]
        with amqp.Connection(f"127.0.0.1:{queuekit_rabbitmq.port}") as connection:
            found = connection.channel().basic_get(name, no_ack=True)
        assert found is not None, f"nothing lies in the queue {name}"
        if backend == "celery":
            told = {**found.properties, "headers": found.properties["application_headers"]}
        else:
            told = json.loads(found.body)
        for option, claimed in claims.items():
            if option.startswith("message."):
                assert claimed == find({"message": told}, option), option
    finally:
        adapter.close()


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_explains_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/compile.md").read_text()
    explained = set(re.findall(r"^\| `([a-z_.]+)", page, re.MULTILINE))
    shown = {
        row.field
        for task in (summarise, fetch)
        for pool in ("forks", "threads")
        for row in rows_of(task, pool).values()
    }
    families = {name.partition(".")[0] + "." if "." in name else name for name in shown}
    assert families - {one.rstrip("*") for one in explained} == set()


# ---- caps ----------------------------------------------------------------------------------------------------------


@agent_task(queue="documents", max_concurrency=3)
async def capped() -> None: ...


@pytest.mark.parametrize(
    ("backend", "levels"),
    [
        ("celery", {
            ("prefork", "redis"): "refused", ("threads", "redis"): "refused", ("solo", "redis"): "native",
            ("async", "redis"): "emulated", ("prefork", "rabbitmq"): "refused", ("threads", "rabbitmq"): "refused",
            ("solo", "rabbitmq"): "native", ("async", "rabbitmq"): "emulated",
        }),
        ("rq", {("worker", "redis"): "native", ("simple", "redis"): "native", ("async", "redis"): "emulated"}),
        ("dramatiq", {
            ("threads", "redis"): "emulated", ("async", "redis"): "emulated", ("threads", "rabbitmq"): "refused",
            ("async", "rabbitmq"): "emulated",
        }),
    ],
)  # fmt: skip
def test_caps_pool_by_pool(backend: str, levels: dict[tuple[str, str], str]) -> None:
    pytest.importorskip(backend)
    settings = Settings(queue_concurrency={"documents": 5, "elsewhere": 1})
    told = report(capped, settings, backend)
    assert not told.missing
    for field, asked in (("max_concurrency", "3"), ("queue_concurrency", "5")):
        found = {(one.pool, one.broker): row for one in told.targets for row in one.rows if row.field == field}
        assert {place: row.level.value for place, row in found.items()} == levels
        assert all(row.asked == f"{asked} in each worker process" for row in found.values())
        assert all(row.remedy for row in found.values() if row.level is Level.refused)
    assert not told.refuses(None), "one of its pools runs it"
    assert not report(capped, settings, backend, "async").refuses("async")


def test_a_pool_that_refuses_a_cap_refuses_the_task() -> None:
    pytest.importorskip("celery")
    assert report(capped, Settings(), "celery", "prefork").refuses("prefork")
    assert not report(capped, Settings(concurrency=3), "celery", "prefork").refuses("prefork")
    adopting = report(capped, Settings(adopt=True), "celery", "async")
    found = {
        one.broker: row.level.value for one in adopting.targets for row in one.rows if row.field == "max_concurrency"
    }
    assert found == {"redis": "refused", "rabbitmq": "emulated"}, "on Redis its messages come by kombu"
    fields = {row.field for one in report(plain, Settings(), "celery").targets for row in one.rows}
    assert not fields & {"max_concurrency", "queue_concurrency"}, "nothing is said of what nobody asks for"
