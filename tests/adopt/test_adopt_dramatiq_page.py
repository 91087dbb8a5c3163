"""docs/how-to/adopt-dramatiq.md, from top to bottom, on a Redis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("dramatiq", reason="Dramatiq is not installed")

from queuekit.testing.plugin import a_server  # noqa: E402  # after the check
from queuekit.testing.process import WorkerProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/how-to/adopt-dramatiq.md"
ADDRESS = "redis://localhost:6379/0"

PROGRAM = """
import json, sys
sys.path.insert(0, ".")
sys.dont_write_bytecode = True
names = {"__name__": "page"}
for line in sys.stdin:
    exec(compile(json.loads(line), "adopt-dramatiq.md", "exec"), names)
    print("ok", flush=True)
"""


@pytest.fixture
def workers() -> Iterator[list[WorkerProcess]]:
    started: list[WorkerProcess] = []
    yield started
    for worker in started:
        worker.kill_all()


def test_the_page(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, workers: list[WorkerProcess]) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    environ = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    with a_server(tmp_path_factory.mktemp("server")) as server:
        program = subprocess.Popen(  # the user's program: all blocks of Python in one process
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def run(code: str) -> None:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(json.dumps(code) + "\n")
            program.stdin.flush()
            assert program.stdout.readline() == "ok\n", f"{code}\n{[worker.said() for worker in workers]}"

        for language, text in blocks:
            block = text.replace(ADDRESS, server.url)
            file = re.match(r"# (\w+)\.py\n", block)
            if file is not None:
                (tmp_path / f"{file[1]}.py").write_text(block)
                run("import sys; [sys.modules.pop(name, None) for name in ('shop', 'reports')]")  # as by a deploy
            elif language == "python":
                if "in_flight = " in block:
                    stop(workers[0])  # the worker before the deploy: they wait for the one after it
                run(block)
            elif block.startswith("$ dramatiq"):
                command = [*block.removeprefix("$ ").split(), "--processes", "1"]
                path = {**environ, "PYTHONPATH": ".", "QUEUEKIT_ADOPT": "true"}
                workers.append(WorkerProcess((), path, tmp_path, command=command))
            else:
                said = subprocess.run(
                    block.removeprefix("$ ").split(),
                    cwd=tmp_path,
                    env=environ,
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=60,
                )
                assert json.loads(said.stdout)
        program.communicate(timeout=30)
        assert program.returncode == 0
        before, after = workers
        assert "queuekit" not in before.said()
        assert len(after.stewards()) == 1
        stop(after)


def stop(worker: WorkerProcess) -> None:
    end = time.monotonic() + 30
    while "ready for action" not in worker.said():
        assert time.monotonic() < end, worker.said()
        time.sleep(0.05)
    worker.terminate()
    assert worker.wait(30) == 0, worker.said()
