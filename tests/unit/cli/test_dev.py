"""`queuekit worker --dev` as a stranger uses it: one folder, two terminals, no broker URL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from queuekit.testing.plugin import require
from queuekit.testing.servers import find_server

pytest.importorskip("rq", reason="RQ is not installed")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASKS = """
from queuekit import agent_task

@agent_task
def answer() -> int:
    return 41
"""
ASK = "import tasks; print(tasks.answer.enqueue().result(timeout=30))"
DEADLINE = 30.0


def environ() -> dict[str, str]:
    # A steward whose store has gone with its worker looks for it for a lease.
    return {**os.environ, "QUEUEKIT_BACKEND": "rq", "QUEUEKIT_LEASE": "4"}


def ask(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK], cwd=folder, env=environ(), capture_output=True, text=True, check=False, timeout=60
    )


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.1)


def family(folder: Path) -> list[int]:
    """The processes that run in the folder, or in one below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve().is_relative_to(folder) and (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    try:
        find_server("valkey")
    except LookupError as error:
        require(str(error))
    if not Path("/proc").is_dir():
        require("/proc, to see the processes")
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "queuekit", "worker", "tasks.py", "--dev"],
            cwd=folder,
            env=environ(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until(lambda: "serves default" in said(folder), "the worker is there")
    yield process
    for pid in family(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def said(folder: Path) -> str:
    return (folder / "dev.log").read_text()


def test_without_it_the_error_has_both_remedies(folder: Path) -> None:
    done = ask(folder)
    assert done.returncode == 1
    assert "QUEUEKIT_BROKER_URL=" in done.stderr
    assert "queuekit worker --dev" in done.stderr


def test_it_serves_reloads_and_leaves_nothing(folder: Path, dev: subprocess.Popen[bytes]) -> None:
    assert ask(folder).stdout == "41\n"

    (folder / "tasks.py").write_text(TASKS.replace("41", "42"))
    until(lambda: said(folder).count("serves default") == 2, "the worker has started again")
    assert ask(folder).stdout == "42\n"

    (folder / "tasks.py").write_text("this is no Python")
    until(lambda: "it starts again when a file changes" in said(folder), "the worker has ended")
    (folder / "tasks.py").write_text(TASKS.replace("41", "43"))
    until(lambda: said(folder).count("serves default") == 3, "the worker has started again")
    assert ask(folder).stdout == "43\n"

    dev.send_signal(signal.SIGTERM)
    assert dev.wait(DEADLINE) == 0
    until(lambda: family(folder) == [], "worker, steward and server are gone")
    assert "QUEUEKIT_BROKER_URL=" in ask(folder).stderr  # nobody is attached to what is gone


def test_its_sudden_death_takes_worker_and_server_along(folder: Path, dev: subprocess.Popen[bytes]) -> None:
    dev.kill()
    dev.wait()
    until(lambda: family(folder) == [], "worker, steward and server are gone")


def test_a_broker_of_ones_own_and_a_development_server_are_one_too_many(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "queuekit", "worker", "tasks.py", "--dev", "--broker-url", "redis://127.0.0.1/0"],
        cwd=folder, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--dev brings a server of its own" in done.stderr
