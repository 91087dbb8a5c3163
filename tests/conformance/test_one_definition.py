"""One module, one script, four backends: nothing but QUEUEKIT_BACKEND is changed between the runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from queuekit.testing.plugin import a_server
from queuekit.testing.process import WorkerProcess

MODULE = """
import asyncio
from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job

class Overloaded(Exception):
    status_code = 529

POLICY = RetryPolicy(
    [
        RetryRule("category:overloaded", Backoff(0.2)),
        RetryRule(TimeoutError, Backoff(0.1, factor=3)),
        RetryRule("category:auth", action="fail"),
    ],
    max_attempts=5,
)

def answer(text, fails):
    number = current_job().attempt
    if number <= len(fails):
        raise {"overloaded": Overloaded(), "timeout": TimeoutError("slow"), "bug": KeyError("x")}[fails[number - 1]]
    return f"{text.upper()} at attempt {number}"

@agent_task(retry=POLICY)
def summarise(text: str, fails: list[str]) -> str:
    return answer(text, fails)

@agent_task(retry=POLICY)
async def asummarise(text: str, fails: list[str]) -> str:
    await asyncio.sleep(0)
    return answer(text, fails)
"""

SCRIPT = """
import json
from queuekit import JobFailed
from flow import asummarise, summarise

PLANS = [[], ["overloaded"], ["timeout", "timeout", "overloaded"], ["overloaded", "bug"], ["overloaded"] * 5]
jobs = [
    task.options(id=f"{kind}-{number}").enqueue("text", plan)
    for kind, task in (("sync", summarise), ("async", asummarise))
    for number, plan in enumerate(PLANS)
]
told = {}
for job in jobs:
    try:
        result = job.result(timeout=60)
    except JobFailed as error:
        result = [str(error.category), error.error_type, error.error_message]
    info = job.info()
    told[job.id] = {
        "result": result,
        "status": info.status,
        "attempts": [[one.number, one.outcome, one.category, one.error_type, one.delay] for one in info.attempts],
    }
print(json.dumps(told))
"""


def run(backend: str, environ: dict[str, str], folder: Path) -> dict[str, object]:
    environ = {**environ, "QUEUEKIT_BACKEND": backend}
    worker = WorkerProcess(["flow"], environ, folder) if backend != "memory" else None
    try:
        done = subprocess.run(
            [sys.executable, "ask.py"], cwd=folder, env=environ, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr + (worker.said() if worker else "")
    finally:
        if worker is not None:
            worker.kill_all()
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.timeout(400)
def test_the_same_everywhere(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(MODULE)
    (tmp_path / "ask.py").write_text(SCRIPT)
    told = {}
    with a_server(tmp_path / "server") as server:
        environ = {**os.environ, "QUEUEKIT_BROKER_URL": server.url, "QUEUEKIT_SEED": "one definition"}
        for backend in ("memory", "celery", "rq", "dramatiq"):
            told[backend] = run(backend, environ, tmp_path)
            server.restart(empty=True)  # the ids are the same again, and nothing else is told apart
    expected = told["memory"]
    assert len(expected) == 10
    delays = [attempt[4] for job in expected.values() for attempt in job["attempts"] if attempt[4] is not None]  # type: ignore[index]
    assert len(delays) == len(set(delays)) > 10, "each wait has a jitter of its own"
    for backend in ("celery", "rq", "dramatiq"):
        assert told[backend] == expected, backend
