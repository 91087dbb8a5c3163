"""`queuekit compile`, as a user calls it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from queuekit.settings import installed_backends

if TYPE_CHECKING:
    from pathlib import Path

ENGINES = [name for name in ("celery", "dramatiq", "rq") if installed_backends()[name]]

TASKS = """
from queuekit import RetryPolicy, agent_task

def helper() -> None: ...

@agent_task(queue="documents", retry=RetryPolicy.for_llm(), timeout=300, soft_timeout=280, priority=7)
async def summarise(text: str) -> str:
    return text

@agent_task(name="fetching", timeout=60)
def fetch(url: str) -> str:
    return url

@agent_task(retry="nobody-knows-it")
def unknown_policy() -> None: ...
"""

# Whoever asks for a connection or a name hears that there is no network.
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the report connects to something")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from queuekit.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(TASKS)
    return tmp_path


def compile(folder: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("QUEUEKIT_", "COLUMNS"))}
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "compile", *args],
        cwd=folder,
        env={**env, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_report_of_all_installed_engines_connects_to_nothing(folder: Path) -> None:
    done = compile(folder, "agents:summarise")
    assert (done.returncode, done.stderr) == (0, "")
    assert "agents.summarise  async, queue documents" in done.stdout
    assert "On every engine" in done.stdout or len(ENGINES) == 1
    assert [line.partition(" on ")[0] for line in done.stdout.splitlines() if " by default" in line] == [
        name for name in installed_backends() if name in ENGINES
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_pipe_it_is_plain_and_fits(folder: Path, columns: int) -> None:
    done = compile(folder, "agents.py:fetch", COLUMNS=str(columns))
    lines = done.stdout.splitlines()
    assert len(lines) > 30
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in lines)


def test_the_json_is_the_whole_report(folder: Path) -> None:
    done = compile(folder, "agents:fetch", "--json")
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("version", "task", "kind")} == {
        "version": 1,
        "task": "fetching",
        "kind": "sync",
    }
    assert sorted(engine["backend"] for engine in told["engines"]) == ENGINES
    for engine in told["engines"]:
        assert {*engine} == {
            "backend",
            "default_pool",
            "refused_pools",
            "missing_brokers",
            "targets",
            "native_retry",
        }
        assert {*engine["native_retry"]} == {"options", "losses"}
        for target in engine["targets"]:
            assert {*target} == {"pool", "broker", "fields"}
            for field in target["fields"]:
                assert {*field} == {"field", "asked", "level", "becomes", "why", "remedy", "options"}
                assert field["level"] in {"native", "emulated", "degraded", "refused"}


def test_one_engine_and_one_pool(folder: Path) -> None:
    pytest.importorskip("celery")
    told = json.loads(compile(folder, "agents:fetch", "--backend=celery", "--pool=threads", "--json").stdout)
    (engine,) = told["engines"]
    assert {target["pool"] for target in engine["targets"]} == {"threads"}
    assert engine["refused_pools"] == {}


def test_a_pool_is_looked_for_on_every_engine(folder: Path) -> None:
    pytest.importorskip("celery")
    pytest.importorskip("dramatiq")
    told = json.loads(compile(folder, "agents:fetch", "--pool=threads", "--json").stdout)
    assert sorted(engine["backend"] for engine in told["engines"]) == ["celery", "dramatiq"]


def test_exit_code_1_where_something_is_refused(folder: Path) -> None:
    pytest.importorskip("celery")
    refused = compile(folder, "agents:fetch", "--pool=gevent")
    assert refused.returncode == 1
    assert "refused: the pool gevent: its green threads share one system thread" in refused.stdout
    unknown = compile(folder, "agents:unknown_policy", "--backend=celery")
    assert unknown.returncode == 1
    assert "nobody-knows-it" in unknown.stdout
    assert compile(folder, "agents:fetch", "--backend=celery").returncode == 0  # degraded is not refused


WRONG = [
    (["agents"], "'agents': give MODULE:TASK, such as package.tasks:summarise or tasks.py:summarise"),
    (["agent:summarise"], "there is no module 'agent'"),
    (["agent.py:summarise"], "there is no file 'agent.py'"),
    (["agents:summarize"], "there is no task 'summarize' in agents. Did you mean 'summarise'?"),
    (["agents:zzz"], "Its tasks are fetch, summarise, unknown_policy"),
    (["agents:helper"], "'helper' in agents is no task but function: declare it with @agent_task"),
    (["agents:fetch", "--backend=celry"], "backend 'celry'"),
    (["agents:fetch", "--pool=threds"], "--pool 'threds'"),
]


def test_what_cannot_be_found_is_said(folder: Path) -> None:
    """All in one process: each is another call of the console script."""
    calls = [["queuekit", "compile", *args] for args, _ in WRONG]
    script = (
        "import json, sys\n"
        "from queuekit.cli import main\n"
        f"for sys.argv in {calls!r}:\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        print('exit', end.code, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    errors = re.split(r"\nexit 2\n", done.stderr)[:-1]
    assert len(errors) == len(WRONG)
    for error, (args, said) in zip(errors, WRONG, strict=True):
        assert said in error, args


def test_a_task_is_found_by_its_own_name_too(folder: Path) -> None:
    assert compile(folder, "agents:fetching", "--backend=rq").returncode == 0


def test_the_lines_that_an_installed_celery_app_needs_are_shown(folder: Path) -> None:
    pytest.importorskip("celery")
    (folder / "proj.py").write_text(
        "from celery import Celery\n"
        "from queuekit import agent_task\n"
        "from queuekit.adapters.celery import install\n"
        "app = Celery('proj', broker='redis://127.0.0.1:1/0')\n"
        "install(app)\n"
        "@agent_task\n"
        "def hello() -> None: ...\n"
    )
    done = compile(folder, "proj:hello", "--backend=celery")
    assert done.returncode == 0, done.stderr
    assert "worker_prefetch_multiplier = 1" in done.stdout


def test_a_module_that_configures_half_of_it_is_reported_all_the_same(folder: Path) -> None:
    pytest.importorskip("rq")
    (folder / "half.py").write_text(
        "from queuekit import agent_task, configure\n"
        "configure(namespace='prod')\n"
        "@agent_task\n"
        "def hello() -> None: ...\n"
    )
    assert compile(folder, "half:hello", "--backend=rq").returncode == 0


def test_strict_refuses_to_start_a_worker_and_names_the_remedy(folder: Path) -> None:
    pytest.importorskip("rq")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")},
        "QUEUEKIT_BACKEND": "rq",
        "QUEUEKIT_BROKER_URL": "redis://127.0.0.1:1/0",
        "QUEUEKIT_STRICT": "true",
    }
    (folder / "async_only.py").write_text(
        "from queuekit import agent_task\n@agent_task\nasync def think() -> None: ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "worker", "async_only.py", "--pool", "worker"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "strict: in rq's pool 'worker'" in done.stderr
    assert "async_only.think, shared_loop (async): degraded" in done.stderr
    assert "or choose the pool simple" in done.stderr
