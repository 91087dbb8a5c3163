"""docs/how-to/adopt-celery.md, from top to bottom, on a Redis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from queuekit.testing.plugin import a_server  # noqa: E402  # after the check that Celery is there
from queuekit.testing.process import WorkerProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/how-to/adopt-celery.md"
ADDRESS = "redis://localhost:6379/"


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
        address = server.url.removesuffix("0")
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
            said = [program.stdout.readline()]
            while said[-1] not in {"ok\n", ""}:  # what the block prints
                said.append(program.stdout.readline())
            assert said[-1] == "ok\n", f"{code}\n{[worker.said() for worker in workers]}"

        for language, text in blocks:
            block = text.replace(ADDRESS, address)
            file = re.match(r"# (\w+)\.(?:py|toml)\n", block)
            if file is not None:
                (tmp_path / file[0][2:].strip()).write_text(block)
                run(f"from queuekit.app import use_default; use_default(None); sys.modules.pop({file[1]!r}, None)")
            elif language == "python":
                run(block)
            elif block.startswith("$ celery"):
                ours = {"QUEUEKIT_ADOPT": "true", "QUEUEKIT_CELERY_RESULT": "true"}
                command = block.removeprefix("$ ").split()
                workers.append(WorkerProcess((), {**environ, **ours}, tmp_path, command=command))
            else:
                command = block.removeprefix("$ ").split()
                said = subprocess.run(
                    command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=60
                ).stdout
                found = [json.loads(line) for line in said.splitlines()]
                assert found
                assert all(one["waiting"] == one["running"] == 0 for one in found), said
        program.communicate(timeout=30)
        assert program.returncode == 0
        (worker,) = workers
        worker.terminate()
        assert worker.wait(30) == 0


PROGRAM = """
import json, sys
sys.path.insert(0, ".")
sys.dont_write_bytecode = True
names = {"__name__": "page", "sys": sys}
for line in sys.stdin:
    exec(compile(json.loads(line), "adopt-celery.md", "exec"), names)
    print("ok", flush=True)
"""
