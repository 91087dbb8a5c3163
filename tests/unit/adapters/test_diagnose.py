"""What adapters say to `queuekit doctor`: of the user's own app, and of RabbitMQ's consumer_timeout."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.adapters import Diagnosing, consumer_timeout, load_adapter
from queuekit.adapters.findings import Finding, Severity
from queuekit.settings import Settings
from queuekit.testing.plugin import a_rabbitmq
from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from queuekit.testing.plugin import Broker
    from queuekit.testing.rabbit import RabbitServer

PROJ = """
from celery import Celery
from queuekit import agent_task
from queuekit.adapters.celery import install

app = Celery("proj", broker={broker!r})
app.conf.update({conf!r})
install(app, namespace={namespace!r}, store_url={store!r})

@app.task(acks_late=True, time_limit=7200)
def slow(): ...

@app.task
def quick(): ...

@agent_task(timeout=86400)
def summarise(text: str) -> str:
    return text
"""
GOOD = {
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {"socket_timeout": 5, "socket_connect_timeout": 5},
}


def diagnosed(
    folder: Path, broker: str, store: str, namespace: str, *args: str, **conf: Any
) -> tuple[int, dict[str, list[Any]]]:
    """The exit code, and the findings by check: of a process of its own, since install() makes the default App."""
    (folder / "proj.py").write_text(PROJ.format(broker=broker, store=store, namespace=namespace, conf={**GOOD, **conf}))
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "doctor", "proj.py", "--json", *args],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout, done.stderr
    by: dict[str, list[Any]] = {}
    for one in json.loads(done.stdout)["findings"]:
        by.setdefault(one["check"], []).append(one)
    return done.returncode, by


def bad(by: dict[str, list[Any]]) -> set[tuple[str, str]]:
    return {
        (one["check"], one["severity"])
        for some in by.values()
        for one in some
        if one["severity"] in {"warning", "error"}
    }


def test_a_celery_app_that_queuekit_is_installed_into(queuekit_broker: Broker, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    url, namespace = queuekit_broker.url, queuekit_broker.namespace
    code, by = diagnosed(tmp_path, url, url, namespace)
    assert (code, bad(by)) == (0, set())
    assert {one["severity"] for one in by["prefetch"] + by["app-settings"]} == {"ok"}
    code, by = diagnosed(
        tmp_path, url, url, namespace,
        worker_prefetch_multiplier=4, task_annotations={"*": {"rate_limit": "1/s"}}, worker_pool_start_method="spawn",
    )  # fmt: skip
    assert (code, bad(by)) == (1, {("prefetch", "warning"), ("app-settings", "warning"), ("app-settings", "error")})
    assert by["prefetch"][0]["remedy"] == "worker_prefetch_multiplier = 1"
    assert "up to 4 native tasks a process" in by["prefetch"][0]["why"]
    assert "consumer-timeout" not in by, "there is no RabbitMQ"
    away = f"redis://127.0.0.1:{free_port()}/0"
    code, by = diagnosed(tmp_path, url, url, namespace, "--broker-url", away)
    assert (code, bad(by)) == (1, {("broker", "error")}), "the command line goes before what install() says"
    assert {one["severity"] for one in by["app-settings"]} == {"ok"}, "and the Celery app is looked at all the same"


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """With a consumer_timeout of its own, which its rabbitmqctl tells: found first on PATH, and told which node."""
    with (
        a_rabbitmq(tmp_path_factory.mktemp("rabbit"), consumer_timeout=600_000) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        _, environ = server.prepare()
        assert environ is not None
        for name in ("RABBITMQ_NODENAME", "HOME", "ERL_EPMD_PORT"):
            patch.setenv(name, environ[name])
        patch.setenv("PATH", f"{server._binary.parent}:{environ['PATH']}")
        yield server


@pytest.mark.timeout(180)
def test_a_consumer_timeout_below_the_limit_of_a_native_task(
    rabbit: RabbitServer, queuekit_broker: Broker, tmp_path: Path
) -> None:
    pytest.importorskip("celery")
    assert consumer_timeout.read(rabbit.url) == 600.0
    elsewhere = f"amqp://127.0.0.1:{rabbit.port + 1}//"
    assert consumer_timeout.read(elsewhere) is None, "that node has no such port: it is another broker"
    assert consumer_timeout.read("amqp://rabbit.internal:5672//") is None
    code, by = diagnosed(tmp_path, rabbit.url, queuekit_broker.url, f"test_{secrets.token_hex(4)}")
    ours, native = by["consumer-timeout"]
    assert (code, bad(by)) == (1, {("consumer-timeout", "error")})
    assert ours["severity"] == "ok", "the task of queuekit's may take a day"
    assert "consumer_timeout is 600 s, below the time limit of the native proj.slow" in native["found"]
    assert "consumer_timeout = MILLISECONDS in rabbitmq.conf" in native["remedy"]


@pytest.mark.parametrize(
    ("known", "held", "severities"),
    [
        (600.0, {"a": 900.0, "b": 60.0}, ["error"]),
        (600.0, {"a": None}, ["warning"]),
        (600.0, {"a": 60.0}, ["ok"]),
        (float("inf"), {"a": None, "b": 1e6}, ["ok"]),
        (None, {"a": 3600.0, "b": None}, ["warning", "unchecked"]),
        (None, {"a": 60.0}, ["ok"]),
        (None, {}, []),
    ],
)
def test_native_tasks_that_are_acknowledged_late(
    monkeypatch: pytest.MonkeyPatch, known: float | None, held: dict[str, float | None], severities: list[str]
) -> None:
    monkeypatch.setattr(consumer_timeout, "read", lambda url: known)
    found = list(consumer_timeout.about_native("amqp://x", held))
    assert [one.severity for one in found] == severities
    assert all(one.remedy for one in found if one.severity is not Severity.ok)
    assert known is not None or all("cannot be read from here" in one.found for one in found)


def test_actors_of_dramatiq_and_what_their_workers_take_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    dramatiq = pytest.importorskip("dramatiq")
    pytest.importorskip("pika")
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    monkeypatch.setattr(consumer_timeout, "read", lambda url: 1800.0)
    broker = RabbitmqBroker(url="amqp://guest:guest@127.0.0.1:5672/%2F")
    for name, options in (
        ("usual", {}),
        ("long", {"time_limit": 7_200_000}),
        ("endless", {"time_limit": float("inf")}),
    ):
        dramatiq.actor(lambda: None, actor_name=name, broker=broker, **options)
    settings = Settings(
        backend="dramatiq", broker_url="amqp://guest:guest@127.0.0.1:5672//", store_url="redis://127.0.0.1:6379/0"
    )

    def found() -> dict[tuple[str, str], str]:
        adapter = load_adapter("dramatiq")(settings, native=broker)
        assert isinstance(adapter, Diagnosing)
        return {(one.check, str(one.severity)): one.found for one in adapter.diagnose([])}

    said = found()
    assert set(said) == {("consumer-timeout", level) for level in ("ok", "error", "warning")} | {("prefetch", "ok")}
    assert "the native long," in said["consumer-timeout", "error"]
    assert "the native endless," in said["consumer-timeout", "warning"]
    monkeypatch.setenv("dramatiq_queue_prefetch", "500")
    assert "dramatiq_queue_prefetch=500" in found()["prefetch", "warning"]


def test_findings_are_ordered() -> None:
    ranks = [Finding("x", one, "y").rank for one in (Severity.ok, Severity.unchecked, Severity.warning, Severity.error)]
    assert ranks == sorted(set(ranks))
