"""The pytest plugin: light where it is not used, and honest in its table."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from queuekit.adapters import Capabilities, Pool
from queuekit.errors import ConfigError
from queuekit.testing import servers
from queuekit.testing.report import GAP, NOT_APPLICABLE, NOTE, PROPERTY, Collector
from queuekit.testing.target import Target, find_targets

pytest_plugins = ["pytester"]


def test_it_brings_nothing_heavy_into_every_test_run() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import queuekit.testing.plugin, queuekit.testing.report; "
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "queuekit.testing.plugin" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"redis", "pydantic", "celery", "rq", "dramatiq", "click"}
    assert not {"asyncio", "queuekit.store", "queuekit.app"} & set(loaded)


def test_a_run_that_does_not_use_it_shows_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= queuekit =*")


def test_queuekit_memory(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from queuekit import agent_task

        @agent_task
        def double(x: int) -> int:
            return 2 * x

        def test_at_once(queuekit_memory):
            assert double.enqueue(4).result() == 8

        def test_time(queuekit_memory):
            job = double.options(delay=30).enqueue(1)
            assert queuekit_memory.run_until_idle(wait=False) == 0
            queuekit_memory.advance(30)
            assert queuekit_memory.run_until_idle(wait=False) == 1
            assert job.result(timeout=0) == 2

        def test_another_one_each_time(queuekit_memory):
            assert queuekit_memory.store.routes("memory") == []
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("1", "errors")])
def test_a_server_that_is_missing_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    monkeypatch.setenv("QUEUEKIT_TEST_REQUIRE_SERVICES", required)

    def find_server(kind: str) -> None:
        raise LookupError(f"{kind} is not there")

    monkeypatch.setattr(servers, "find_server", find_server)
    pytester.makepyfile("def test_broker(queuekit_broker): pass")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*missing: a Redis or Valkey server (valkey is not there; redis is not there)*"])


def test_queuekit_broker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import redis

        seen = []

        def test_server(queuekit_broker):
            seen.append(queuekit_broker)
            assert redis.Redis.from_url(queuekit_broker.url).ping()

        def test_namespace(queuekit_broker):
            assert queuekit_broker.url == seen[0].url
            assert queuekit_broker.namespace != seen[0].namespace

        def test_environ(queuekit_broker, monkeypatch):
            monkeypatch.setenv("QUEUEKIT_LEASE", "99")
            environ = queuekit_broker.environ("rq", tick=0.2)
            assert (environ["QUEUEKIT_BACKEND"], environ["QUEUEKIT_TICK"]) == ("rq", "0.2")
            assert environ["QUEUEKIT_BROKER_URL"] == queuekit_broker.url
            assert "QUEUEKIT_LEASE" not in environ
            assert "PATH" in environ
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


# ---- targets ---------------------------------------------------------------------------------------------------------

POOL = Pool("simple", processes=False, interrupts_sync=True, shared_loop=True, concurrent=False)


def test_gaps_of_an_adapter_and_of_a_pool() -> None:
    capabilities = Capabilities((POOL,), "simple", gaps={"C1": "never", "C2:simple": "not so", "C3:other": "elsewhere"})
    target = Target("mine", "mine", capabilities, "simple")
    assert [target.gap(clause) for clause in ("C1", "C2", "C3", "C4")] == ["never", "not so", None, None]


def test_find_targets() -> None:
    assert [target.name for target in find_targets(("memory",))] == ["memory"]
    assert find_targets(("rq-simple",))[0].pool.name == "simple"
    assert {target.backend for target in find_targets()} >= {"memory", "celery", "rq", "dramatiq"}
    with pytest.raises(ConfigError, match="rq-simple"):
        find_targets(("rq-nothing",))


# ---- the table -------------------------------------------------------------------------------------------------------


def collector(*, check_gaps: bool = False) -> Collector:
    options = {"--queuekit-report": None, "--queuekit-check-gaps": check_gaps}
    return Collector(SimpleNamespace(getoption=options.__getitem__))  # type: ignore[arg-type]


def report(outcome: str, *, clause: str = "C1", target: str = "memory", reason: str = "", **more: Any) -> Any:
    said = {"clause": clause, "title": f"Title of {clause}", "target": target, "test": "test_it"}
    return SimpleNamespace(
        user_properties=[(PROPERTY, said)],
        when=more.pop("when", "call"),
        outcome=outcome,
        passed=outcome == "passed",
        skipped=outcome == "skipped",
        duration=0.5,
        longrepr=("file", 1, f"Skipped: {reason}"),
        **more,
    )


def cells(found: Collector, *reports: Any) -> dict[str, str]:
    for one in reports:
        found.pytest_runtest_logreport(one)
    return {clause: found.cell(clause, "memory") for clause, _ in found.clauses}


def test_cells() -> None:
    assert cells(
        collector(),
        report("passed"),
        report("passed", when="setup"),
        report("passed", clause="C2"),
        report("failed", clause="C2"),
        report("skipped", clause="C3", reason=f"{GAP}the engine cannot", when="setup"),
        report("skipped", clause="C4", reason="missing: a Redis or Valkey server", when="setup"),
        report("skipped", clause="C5", reason=f"{NOT_APPLICABLE}no child processes"),
        report("passed", clause="C6"),
        report("skipped", clause="C6", reason=f"{NOT_APPLICABLE}no child processes"),
        report("passed", clause="C10"),
        report("skipped", clause="C10", reason="missing: a Redis or Valkey server", when="setup"),
        report("failed", clause="C11", when="teardown"),
    ) == {
        "C1": "PASSED 1",
        "C2": "FAILED 1 of 2",
        "C3": "GAP",
        "C4": "SKIPPED",
        "C5": "n/a",
        "C6": "PASSED 1",
        "C10": "PASSED 1, 1 skipped",
        "C11": "FAILED 1 of 1",
    }


def test_a_gap_is_never_silent() -> None:
    found = collector()
    cells(found, report("skipped", reason=f"{GAP}the engine cannot", when="setup"))
    assert "C1, gap: the engine cannot [memory]" in found.as_markdown()
    assert json.loads(found.as_json())["tests"][0]["outcome"] == "gap"


def test_a_gap_that_holds_is_an_error() -> None:
    session = SimpleNamespace(exitstatus=0)
    half = collector(check_gaps=True)
    cells(half, report("passed", wasxfail="cannot"), report("skipped", wasxfail="cannot"))
    half.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus == 0
    whole = collector(check_gaps=True)
    assert cells(whole, report("passed", wasxfail="cannot")) == {"C1": "GAP"}
    whole.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus == 1
    assert "C1 holds on memory: the declared gap can go" in whole.as_markdown()


def test_tests_without_a_clause_are_none_of_its_business() -> None:
    found = collector()
    found.pytest_runtest_logreport(SimpleNamespace(user_properties=[(NOTE, "seen")], when="teardown"))  # type: ignore[arg-type]
    assert (found.results, found.said) == ([], ["seen"])
