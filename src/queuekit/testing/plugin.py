"""The pytest plugin of queuekit: fixtures for tests of programs that use it, and the options of the conformance suite.

    def test_summary(queuekit_memory):            jobs run in this process, on a clock that is moved by hand
        job = summarise.enqueue("...")
        queuekit_memory.advance(30)
        assert job.result() == "..."

    def test_worker(queuekit_broker):             a Redis or Valkey server of the tests' own
        environ = queuekit_broker.environ("rq")

pytest loads this module wherever queuekit is installed: it imports nothing but the standard library until a fixture is
asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queuekit import App
    from queuekit.testing.rabbit import RabbitServer
    from queuekit.testing.servers import RedisServer

__all__ = [
    "Broker",
    "a_rabbitmq",
    "a_server",
    "queuekit_broker",
    "queuekit_memory",
    "queuekit_rabbitmq",
    "queuekit_server",
    "require",
]

pytest.register_assert_rewrite("queuekit.testing.conformance", "queuekit.testing.bench")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("queuekit", "queuekit's conformance suite (pytest --pyargs queuekit.testing.conformance)")
    group.addoption(
        "--queuekit-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run it on this backend, or on one pool of it (celery-threads). Can be repeated. All by default",
    )
    group.addoption(
        "--queuekit-report", metavar="FILE", help="write the table of clauses and targets there: FILE.md or FILE.json"
    )
    group.addoption(
        "--queuekit-check-gaps",
        action="store_true",
        help="run what the adapters declare as gaps as well: a gap whose tests all pass is an error",
    )
    group.addoption(
        "--queuekit-foreign",
        metavar="MODULE",
        help="the module that puts foreign messages into the queues of your engine: see queuekit.testing.raw",
    )


def pytest_configure(config: pytest.Config) -> None:
    from queuekit.testing.report import Collector

    config.pluginmanager.register(Collector(config), "queuekit-report")


# ---- fixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def queuekit_memory() -> Iterator[App]:
    """An App on the memory backend, in use for the test. Jobs run when a result is awaited, or by its run_until_idle();
    time passes by its advance(seconds), or by itself where a result is awaited."""
    from queuekit import App, Settings

    with App(Settings(backend="memory")).activate() as app:
        yield app


@dataclass(frozen=True)
class Broker:
    """A namespace of its own on a Redis or Valkey server that is there for the tests."""

    url: str
    namespace: str

    def settings(self, backend: str, **others: Any) -> dict[str, Any]:
        """For Settings(**...), configure(**...)."""
        return {"backend": backend, "broker_url": self.url, "namespace": self.namespace, **others}

    def environ(self, backend: str, **others: Any) -> dict[str, str]:
        """The environment for a worker process: this one's, without its own QUEUEKIT_ variables."""
        ours = {f"QUEUEKIT_{name.upper()}": str(value) for name, value in self.settings(backend, **others).items()}
        return {**{name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}, **ours}


@pytest.fixture(scope="session")
def queuekit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole session. Skips where there is none: see require()."""
    with a_server(tmp_path_factory.mktemp("queuekit-server")) as server:
        yield server


@pytest.fixture(scope="session")
def queuekit_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One RabbitMQ node for the whole session. Skips where there is none: see require()."""
    with a_rabbitmq(tmp_path_factory.mktemp("queuekit-rabbitmq")) as server:
        yield server


@pytest.fixture
def queuekit_broker(queuekit_server: RedisServer) -> Broker:
    """A fresh namespace on the session's server."""
    import secrets

    return Broker(queuekit_server.url, f"test_{secrets.token_hex(4)}")


def a_server(folder: Path) -> RedisServer:
    """A server that is not started yet: Valkey, or else Redis."""
    from queuekit.testing.servers import RedisServer, find_server

    wanted: list[str] = []
    for kind in ("valkey", "redis"):
        try:
            return RedisServer(find_server(kind), folder)
        except LookupError as error:
            wanted.append(str(error))
    return require(f"a Redis or Valkey server ({'; '.join(wanted)})")


def a_rabbitmq(folder: Path, **options: Any) -> RabbitServer:
    """A RabbitMQ node that is not started yet; `options` for its rabbitmq.conf."""
    from queuekit.testing.rabbit import RabbitServer, find_rabbitmq

    try:
        return RabbitServer(find_rabbitmq(), folder, options=options)
    except LookupError as error:
        return require(f"RabbitMQ ({error})")


def require(what: str) -> NoReturn:
    """Skip the test for want of a service, by its name; with QUEUEKIT_TEST_REQUIRE_SERVICES=1 fail."""
    if os.environ.get("QUEUEKIT_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(f"missing: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")
