"""docs/how-to/adopt-rq.md, from top to bottom, on a Redis."""

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

pytest.importorskip("rq", reason="RQ is not installed")

from queuekit.testing.plugin import a_server  # noqa: E402
from queuekit.testing.process import WorkerProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/how-to/adopt-rq.md"
ADDRESS = "redis://localhost:6379/0"


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
            assert program.stdin is not None and program.stdout is not None
            program.stdin.write(json.dumps(code) + "\n")
            program.stdin.flush()
            assert program.stdout.readline() == "ok\n", f"{code}\n{[worker.said() for worker in workers]}"

        for language, text in blocks:
            block = text.replace(ADDRESS, server.url)
            file = re.match(r"# (\w+)\.(?:py|toml)\n", block)
            if file is not None:
                (tmp_path / file[0][2:].strip()).write_text(block)
                run(f"sys.modules.pop({file[1]!r}, None)")  # it is loaded anew, as by a deploy
            elif language == "python":
                if "in in_flight" in block and "assert" in block:
                    until_said(workers[0], "Job OK", times=3)
                run(block)
            elif block.startswith("$ rq worker"):
                command = block.removeprefix("$ ").split()
                ours = {"QUEUEKIT_ADOPT": "true"} if "-w" in command else {}
                workers.append(WorkerProcess((), {**environ, **ours}, tmp_path, command=command))
            else:
                assert "waiting" in said_by(block.removeprefix("$ ").split(), tmp_path, environ)
        program.communicate(timeout=30)
        assert program.returncode == 0
        native, ours = workers
        until_said(native, "Job OK", times=5)  # three in flight, one that was not changed yet, one on the way back
        assert "serves default" in ours.said()
        for worker in workers:
            worker.terminate()
            assert worker.wait(30) == 0


def said_by(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def until_said(worker: WorkerProcess, words: str, times: int = 1) -> None:
    end = time.monotonic() + 30
    while worker.said().count(words) < times:
        assert time.monotonic() < end, worker.said()
        time.sleep(0.1)


PROGRAM = """
import json, sys
sys.path.insert(0, ".")
sys.dont_write_bytecode = True
names = {"__name__": "page", "sys": sys}
for line in sys.stdin:
    exec(compile(json.loads(line), "adopt-rq.md", "exec"), names)
    print("ok", flush=True)
"""
