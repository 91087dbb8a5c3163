"""What the clauses ask for.

bench         an App with the suite's tasks and a worker that runs them, on each target; its namespace is shared by
              the tests of a target
workers       the same, for what needs worker processes
new_bench     makes one with servers, workers and settings of its own
new_broker    makes a broker of the target's kind that a test may stop, freeze and empty; new_server a Redis or Valkey
              server for the store
foreign       the module that knows how to put foreign messages into the engine's queues
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest

from queuekit.testing.bench import Bench, MemoryBench, WorkerBench
from queuekit.testing.plugin import a_rabbitmq, a_server, require
from queuekit.testing.report import GAP, PROPERTY
from queuekit.testing.target import Target, find_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.raw import Foreign
    from queuekit.testing.servers import RedisServer, Server

__all__ = [
    "bench",
    "foreign",
    "main_bench",
    "new_bench",
    "new_broker",
    "new_server",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "target",
    "workers",
]

# ---- hooks ----------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        targets = find_targets(tuple(metafunc.config.getoption("--queuekit-backend") or ()))
        # The scope groups the tests by target: the workers of one are up at a time.
        metafunc.parametrize("target", targets, indirect=True, scope="session", ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    away = [item for item in items if _needs_workers(item) and not item.callspec.params["target"].real]  # type: ignore[attr-defined]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]
    for item in items:
        clause = getattr(getattr(item, "cls", None), "clause", None)
        if not isinstance(item, pytest.Function) or clause is None or not hasattr(item, "callspec"):
            continue
        target = cast("Target", item.callspec.params["target"])
        title = (item.cls.__doc__ or "").partition("\n")[0]
        said = {"clause": clause, "title": title, "target": target.name, "test": item.originalname}
        item.user_properties.append((PROPERTY, said))
        if config.pluginmanager.hasplugin("xdist"):  # -n 3 --dist loadgroup: three targets at a time
            item.add_marker(pytest.mark.xdist_group(target.name))
        gap = target.gap(clause)
        if gap is None:
            continue
        if config.getoption("--queuekit-check-gaps"):
            item.add_marker(pytest.mark.xfail(reason=gap, strict=False))
        else:
            item.add_marker(pytest.mark.skip(reason=GAP + gap))


def _needs_workers(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "target" in names and not {"workers", "new_bench", "new_broker", "new_server", "foreign"}.isdisjoint(names)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows what its workers said meanwhile."""
    report = yield
    if report.failed:
        found = getattr(item, "funcargs", {}).values()
        for bench in {id(one): one for one in found if isinstance(one, WorkerBench)}.values():
            for worker in bench.workers:
                said = worker.said(getattr(item, "_queuekit_said", {}).get(worker.pid, 0))
                if said:
                    report.sections.append((f"worker {worker.pid}, exit code {worker.exit_code}", said[-6000:]))
    return report


# ---- fixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    if found.missing:
        require(found.missing)
    if found.broken:
        pytest.fail(found.broken, pytrace=False)
    return found


@pytest.fixture(scope="session")
def main_bench(
    target: Target, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(target.name)
    bench = WorkerBench(target, folder, **_urls(target, request)) if target.real else MemoryBench(target, folder)
    yield bench
    bench.close()


@pytest.fixture
def bench(main_bench: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if isinstance(main_bench, WorkerBench):
        main_bench.ensure_worker()
        request.node._queuekit_said = {one.pid: one.log.stat().st_size for one in main_bench.workers}
    with main_bench.in_use():
        yield main_bench


@pytest.fixture
def workers(bench: Bench) -> WorkerBench:
    assert isinstance(bench, WorkerBench)
    return bench


def _urls(target: Target, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of the servers that all tests of the session share."""
    store = request.getfixturevalue("queuekit_server").url
    if target.broker == "rabbitmq":
        return {"broker_url": request.getfixturevalue("queuekit_rabbitmq").url, "store_url": store}
    return {"broker_url": store}


@pytest.fixture
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RedisServer]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(a_server(tmp_path_factory.mktemp("server")))


@pytest.fixture
def new_broker(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    make: Callable[[Path], Server] = a_rabbitmq if target.broker == "rabbitmq" else a_server
    with ExitStack() as stack:
        yield lambda: stack.enter_context(make(tmp_path_factory.mktemp("broker")))


@pytest.fixture
def new_bench(
    target: Target, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., WorkerBench]]:
    """WorkerBench(**settings) in use, on the session's server where no broker_url is given; without a worker."""
    with ExitStack() as stack:

        def make(**settings: Any) -> WorkerBench:
            if "broker_url" not in settings:
                settings = {**_urls(target, request), **settings}
            made = WorkerBench(target, tmp_path_factory.mktemp(target.name), **settings)
            request.node.funcargs[f"bench {id(made)}"] = made  # for the report of a failure
            stack.callback(made.close)
            stack.enter_context(made.in_use())
            return made

        yield make


@pytest.fixture
def foreign(target: Target, request: pytest.FixtureRequest) -> Foreign:
    name = request.config.getoption("--queuekit-foreign") or f"queuekit.testing.raw.{target.backend}"
    try:
        return cast("Foreign", importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        pytest.skip(f"missing: --queuekit-foreign=MODULE for the backend {target.backend}: see queuekit.testing.raw")
