"""A worker process for each engine, as `queuekit worker` starts it, none of which outlives the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["Workers", "worker_environment"]

STOP: Final = 5.0  # seconds that a worker has to end, before it is killed
CONCURRENCY: Final = 2
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})

# The owner's death closes the pipe, also by SIGKILL, when nothing of the owner can act any more. A worker leads a
# process group of its own, whose number is its pid.
_LEASH: Final = """
while read -r pid; do [ "$pid" = done ] && exit; pids="$pids $pid"; done
for pid in $pids; do kill -s TERM -- "-$pid"; done
sleep 3
for pid in $pids; do kill -s KILL -- "-$pid"; done
"""


def worker_environment(
    engine: str, *, broker_url: str, namespace: str, seed: int, model_url: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of an engine's worker: nothing but QUEUEKIT_BACKEND and the namespace tells the engines apart."""
    # Neither the user's own settings nor a key have a place in a demonstration, nor a proxy on the way to loopback.
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("QUEUEKIT_", "OPENAI_")) and name.lower() not in _PROXIES
    }
    if "PYTHONPATH" in kept:  # the worker runs in another folder
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(part).absolute()) for part in kept["PYTHONPATH"].split(os.pathsep)
        )
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "QUEUEKIT_BACKEND": engine,
        "QUEUEKIT_BROKER_URL": broker_url,
        "QUEUEKIT_NAMESPACE": namespace,
        "QUEUEKIT_SEED": str(seed),
        "QUEUEKIT_CONCURRENCY": str(CONCURRENCY),
        "QUEUEKIT_GRACE": "1",
        "QUEUEKIT_LEASE": "10",  # also how long a steward looks for a store that has gone with the demo
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": "demo",
    }


class Workers:
    """The worker processes. Use it as a context manager: at the end they are gone. Logs are in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._leash: subprocess.Popen[bytes] | None = None

    def start(self, engine: str, modules: Sequence[str], environ: Mapping[str, str]) -> None:
        """`queuekit worker MODULE...`, in a session of its own: Ctrl-C in the terminal reaches the demo only."""
        with self.log(engine).open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "queuekit", "worker", *modules],
                cwd=self._folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[engine] = worker
        self._tell(str(worker.pid))

    def log(self, engine: str) -> Path:
        return self._folder / f"{engine}.log"

    def tail(self, engine: str, lines: int = 15) -> str:
        """The last lines that the worker wrote."""
        said = self.log(engine).read_text("utf-8", "replace").splitlines()
        return "\n".join(said[-lines:]) or "(it wrote nothing)"

    def dead(self) -> dict[str, int]:
        """The exit codes of those that have ended, by engine: none of them should."""
        return {engine: code for engine, one in self._running.items() if (code := one.poll()) is not None}

    def stop(self) -> None:
        """End them all: SIGTERM, and SIGKILL for what is left of their groups. Harmless when called twice."""
        for worker in self._running.values():
            _signal(worker.pid, signal.SIGTERM, alone=worker.poll() is None)
        until = time.monotonic() + STOP
        for worker in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, until - time.monotonic()))
        for worker in self._running.values():
            _signal(worker.pid, signal.SIGKILL, alone=False)
            worker.wait()
        self._running.clear()
        if self._leash is not None:
            self._tell("done")
            assert self._leash.stdin is not None
            self._leash.stdin.close()
            self._leash.wait()
            self._leash = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tell(self, word: str) -> None:
        if self._leash is None:
            self._leash = subprocess.Popen(
                ["/bin/sh", "-c", _LEASH],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._leash.stdin is not None
        with suppress(BrokenPipeError):
            self._leash.stdin.write(f"{word}\n".encode())
            self._leash.stdin.flush()


def _signal(pid: int, number: signal.Signals, *, alone: bool) -> None:
    """To the process alone, or to all that is left of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number) if alone else os.killpg(pid, number)
