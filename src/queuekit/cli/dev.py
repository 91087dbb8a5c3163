"""`queuekit worker --dev`: a server of its own in ./.queuekit, and a worker that starts again when a file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queuekit.errors import ConfigError
from queuekit.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["run"]

LOOK = 0.5  # seconds between two looks at the files
SKIPPED = {".git", ".venv", "venv", "node_modules", "__pycache__", ".queuekit", ".nox", ".tox"}


def run(modules: Sequence[str], *, log_level: str, options: Mapping[str, Any]) -> int:
    from queuekit import embedded
    from queuekit.app import DEV_FOLDER

    if options.get("broker_url"):
        raise ConfigError("--dev brings a server of its own: leave --broker-url out, or leave out --dev")
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "queuekit", "worker", *modules, *given, f"--log-level={log_level}"]
    with embedded.start(Path(DEV_FOLDER)) as server:
        # By the environment, not by an argument: the URL has a password.
        environ = {**os.environ, "QUEUEKIT_BROKER_URL": server.url}
        environ.pop("QUEUEKIT_STORE_URL", None)
        click.echo(f"development server on 127.0.0.1:{server.port}, its data in {DEV_FOLDER}/; Ctrl-C ends both")
        return _supervise(command, environ)


def _supervise(command: list[str], environ: dict[str, str]) -> int:
    stopping = False
    told: set[int] = set()

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        tell()

    def tell() -> None:
        if worker.poll() is None:
            told.add(worker.pid)
            worker.send_signal(signal.SIGTERM)

    parent = os.getpid()

    def start() -> subprocess.Popen[bytes]:
        # Not in the terminal's foreground group: Ctrl-C is for this process, which tells the worker once.
        return subprocess.Popen(
            command,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),  # noqa: PLW1509  # there are no threads
        )

    worker = start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    seen = _stamps(Path.cwd())
    while not stopping:
        time.sleep(LOOK)
        now = _stamps(Path.cwd())
        if now != seen:
            changed = sorted(str(path) for path, _ in now ^ seen)
            click.echo(f"{changed[0]} changed: the worker starts again")
            seen = now
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                worker.wait()
            if not stopping:
                worker = start()
        elif worker.poll() is not None and not stopping:
            click.echo(f"the worker ended ({worker.returncode}): it starts again when a file changes")
            while _stamps(Path.cwd()) == seen and not stopping:
                time.sleep(LOOK)
    if worker.pid not in told:  # it was just being started
        tell()
    return worker.wait()


def _stamps(folder: Path) -> set[tuple[Path, int]]:
    found = set()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in files:
            if name.endswith((".py", ".toml")):
                path = Path(root, name)
                try:
                    found.add((path, path.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
    return found
