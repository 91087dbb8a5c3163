"""The examples on real engines: one server, one misbehaving model and one worker a backend serve all the scripts."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from examples_place import EXAMPLES, Place, environment, installed

from queuekit.demo.endpoint import Endpoint
from queuekit.testing.plugin import a_server
from queuekit.testing.process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.servers import RedisServer

BACKENDS = ("celery", "rq", "dramatiq")
# What the worker serves. The others are none: an endpoint, and web services whose tasks are those of other scripts.
MODULES = sorted(
    str(path)
    for path in EXAMPLES.glob("*.py")
    if path.name not in {"model_endpoint.py", "fastapi_app.py", "fastapi_events.py"}
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        item.add_marker(pytest.mark.timeout(300))  # dozens of processes, on a machine that may be busy
        backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        if backend and config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(f"examples-{backend}"))


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(runpy.run_path(str(EXAMPLES / "model_endpoint.py"))["Moody"]()) as running:
        yield running


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def place(
    backend: str, endpoint: Endpoint, queuekit_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """Of one backend, without a worker."""
    installed(backend, "openai")
    folder = tmp_path_factory.mktemp(f"examples-{backend}")
    more = {
        "QUEUEKIT_BROKER_URL": queuekit_server.url,
        "QUEUEKIT_NAMESPACE": folder.name,
        "QUEUEKIT_CONCURRENCY": "2",
        "QUEUEKIT_TICK": "0.2",
        "QUEUEKIT_LEASE": "5",
    }
    return Place(backend, {**environment(endpoint, backend, folder), **more}, folder)


@pytest.fixture(scope="session")
def worker(place: Place) -> Iterator[WorkerProcess]:
    """One for all the scripts."""
    # Loaded before RQ forks for each job: the client imports its parts when they are first asked for.
    process = WorkerProcess([*MODULES, "queuekit.demo.warm"], place.environ, place.folder)
    yield process
    process.kill_all()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[[], RedisServer]]:
    """Servers of the test's own, to be killed."""
    made: list[RedisServer] = []

    def make() -> RedisServer:
        server = a_server(tmp_path / f"server-{len(made)}")
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture(autouse=True)
def _what_the_worker_said(request: pytest.FixtureRequest) -> Iterator[None]:
    """A failed test shows it."""
    yield
    found = request.node.funcargs.get("worker")
    if isinstance(found, WorkerProcess):
        print(found.said()[-6000:])


@pytest.fixture
def until() -> Callable[..., object]:
    def wait(true: Callable[[], object], what: str, within: float = 60.0) -> object:
        end = time.monotonic() + within
        while not (found := true()):
            assert time.monotonic() < end, f"not within {within} s: {what}"
            time.sleep(0.05)
        return found

    return wait
