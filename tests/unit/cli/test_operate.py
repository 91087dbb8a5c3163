"""One pass as an operator goes, with real workers: a job fails on one engine, and succeeds on another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from queuekit.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.testing.plugin import Broker

DEADLINE = 60.0

TASKS = """
import os
from pathlib import Path
from queuekit import agent_task

@agent_task(queue="reports")
def report(name: str) -> str:
    if not Path("repaired").exists():
        raise ValueError(f"no page for {name}")
    return f"{name} by {os.environ['QUEUEKIT_BACKEND']}"

@agent_task(queue="reports")
async def forever() -> None:
    import asyncio
    await asyncio.sleep(600)
"""


@contextmanager
def worker(folder: Path, broker: Broker, backend: str) -> Iterator[None]:
    with (folder / f"{backend}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "queuekit", "worker", "operated.py", "--concurrency", "1"],
            cwd=folder,
            env=broker.environ(backend, lease=4, grace=2),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("first", "second"), [("celery", "rq"), ("rq", "dramatiq"), ("dramatiq", "celery")], ids=lambda name: name
)
def test_a_dead_letter_goes_to_another_engine(
    queuekit_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    for name in (first, second):
        pytest.importorskip(name)
    (tmp_path / "operated.py").write_text(TASKS)
    python = [sys.executable, "-c", "import operated; print(operated.report.enqueue('q3').id)"]
    environ = queuekit_broker.environ(first)
    id = subprocess.run(python, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    none = {name: None for name in os.environ if name.startswith("QUEUEKIT_")}
    named = {"QUEUEKIT_BROKER_URL": queuekit_broker.url, "QUEUEKIT_NAMESPACE": queuekit_broker.namespace}

    def queuekit(*args: str) -> str:
        done = CliRunner().invoke(cli, args, env={**none, **named})  # no backend is needed
        assert done.exit_code == 0, done.output
        return done.stdout

    def rows(*args: str) -> list[Any]:
        return [json.loads(line) for line in queuekit(*args, "--json").splitlines()]

    def until(true: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + DEADLINE
        while not (found := true()):
            logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
            assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}\n{logs[-4000:]}"
            time.sleep(0.2)
        return found

    (queue,) = rows("queues")
    assert (queue["queue"], queue["backend"], queue["waiting"], queue["in_broker"]) == ("reports", first, 1, 1)
    with worker(tmp_path, queuekit_broker, first):
        (dead,) = until(lambda: rows("dead", "list"), "it is a dead letter")
        (running,) = rows("workers")
        assert (dead["id"], dead["backend"], dead["attempts"]) == (id, first, 1)
        assert (running["backend"], running["queues"], running["concurrency"]) == (first, ["default", "reports"], 1)
        assert rows("queues")[0]["workers"] == 1
    assert "no page for q3" in queuekit("dead", "show", id)
    until(lambda: rows("workers") == [], "its steward has taken leave of the store")

    (tmp_path / "repaired").touch()
    (tmp_path / "new.json").write_text(json.dumps({"args": [], "kwargs": {"name": "q4"}}))
    assert f"{id}: queued on {second}" in queuekit("dead", "retry", id, "--backend", second, "--arguments", "new.json")
    with worker(tmp_path, queuekit_broker, second):
        (job,) = until(
            lambda: [row for row in rows("jobs", "show", id) if row["status"] == "succeeded"], "it has succeeded"
        )
        assert (job["result"], job["backend"]) == (f"q4 by {second}", second)
        assert [(one["number"], one["outcome"]) for one in job["attempts"]] == [(1, "failed"), (2, "succeeded")]
        assert rows("dead", "list") == []

        code = "import operated; [print(operated.forever.enqueue().id) for _ in range(3)]"
        two = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, env=queuekit_broker.environ(second), capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        until(lambda: rows("workers")[0]["running"], "one of them runs")
        (runs,) = rows("workers")[0]["jobs"]
        assert queuekit("purge", "reports", "--yes") == "2 jobs cancelled\n"
        assert "was asked to end" in queuekit("jobs", "cancel", runs)
        until(lambda: rows("jobs", "show", runs)[0]["status"] == "cancelled", "it has ended")
        assert {row["id"] for row in rows("jobs", "list", "--status", "cancelled")} == set(two)
        (row,) = [row for row in rows("queues") if row["backend"] == second]
        assert (row["waiting"], row["parked"], row["running"]) == (0, 0, 0)
        assert runs in two
