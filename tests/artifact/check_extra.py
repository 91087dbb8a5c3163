"""Run with the Python of an environment that has the wheel and at most one engine: what is there works, and what is
not says what to install.

    python check_extra.py none|celery|rq|dramatiq        with a redis-server or valkey-server on PATH
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ENGINES = ("celery", "rq", "dramatiq")
COMMAND = Path(sysconfig.get_path("scripts")) / "queuekit"
TASKS = """
from queuekit import agent_task

@agent_task
async def shout(text: str) -> str:
    return text.upper()
"""
ASK = """
from tasks import shout
print(shout.enqueue("it works").result(timeout=30))
"""


def run(*command: str | Path, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUEUEKIT_", "PYTHON"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_what_is_missing(missing: str, folder: Path) -> None:
    assert find_spec(missing) is None, f"{missing} is installed: this environment shows nothing"
    install = f"pip install 'queuekit[{missing}]'"
    environ = {"QUEUEKIT_BACKEND": missing, "QUEUEKIT_BROKER_URL": "redis://127.0.0.1:1/0"}
    for command in ((sys.executable, "-c", ASK), (COMMAND, "worker", "tasks.py")):
        done = run(*command, folder=folder, **environ)
        assert done.returncode != 0, done
        assert install in done.stderr, done.stderr


def check_a_job(engine: str, folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("QUEUEKIT_", "PYTHON"))}
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [COMMAND, "worker", "tasks.py", "--dev", "--backend", engine],
            cwd=folder,
            env=environ,
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 30
        while not (folder / ".queuekit" / "server.json").exists():
            assert worker.poll() is None, (folder / "worker.log").read_text()
            assert time.monotonic() < until, (folder / "worker.log").read_text()
            time.sleep(0.05)
        done = run(sys.executable, "ask.py", folder=folder, QUEUEKIT_BACKEND=engine)
        assert done.stdout.strip() == "IT WORKS", done.stderr + (folder / "worker.log").read_text()
    finally:
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(timeout=40)
    assert code in {0, 128 + signal.SIGTERM}, (code, (folder / "worker.log").read_text())


def main(extra: str) -> None:
    import queuekit

    assert "site-packages" in str(queuekit.__file__), f"not the wheel: {queuekit.__file__}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.py").write_text(TASKS)
        (folder / "ask.py").write_text(ASK)
        done = run(COMMAND, "--help", folder=folder)
        assert done.returncode == 0, done.stderr
        assert "worker" in done.stdout, done.stdout
        done = run(sys.executable, "ask.py", folder=folder, QUEUEKIT_BACKEND="memory")
        assert done.stdout == "IT WORKS\n", done.stderr
        done = run(sys.executable, "ask.py", folder=folder)
        assert "no backend is set" in done.stderr, done.stderr
        assert "Installed: " in done.stderr, done.stderr
        for engine in ENGINES:
            if engine == extra:
                check_a_job(engine, folder)
            else:
                check_what_is_missing(engine, folder)
    print(f"{extra}: as it should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
