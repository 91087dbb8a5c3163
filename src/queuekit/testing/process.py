"""A real worker as a process that tests can look into, kill and stop."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from queuekit.processes import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["WorkerProcess", "living"]

MARK = "QUEUEKIT_TEST_WORKER"  # in the environment of the worker and of all that it starts: who belongs to it


class WorkerProcess:
    """`queuekit worker MODULES`, in a process group of its own, with its output in a file.

    Args:
        command: another one in its place, such as ["rq", "worker", ...], found where this Python's scripts are.

    Its children and its steward are known by a mark in their environment, also after the parent is gone. That needs
    /proc: on other systems only the parent is known.
    """

    def __init__(
        self, modules: Sequence[str], environ: Mapping[str, str], folder: Path, *, command: Sequence[str] = ()
    ) -> None:
        self._mark = secrets.token_hex(8)
        self.log = folder / f"worker-{self._mark}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]]
                if command
                else [sys.executable, "-m", "queuekit", "worker", *modules],
                cwd=folder,
                env={**environ, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # It waits for the end of the pipe, which comes also when this process is killed: no worker outlives its test.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The parent."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    # ---- its processes ----------------------------------------------------------------------------------------------

    def family(self) -> list[int]:
        """All its processes that live: the parent, the children, the steward."""
        if not Path("/proc").is_dir():
            return [self.pid] if self.exit_code is None else []
        mark = f"{MARK}={self._mark}".encode()
        running = (one for one in Path("/proc").iterdir() if one.name.isdigit())
        return [int(one.name) for one in running if mark in _read(one / "environ")]

    def stewards(self) -> list[int]:
        return [pid for pid in self.family() if b"queuekit.steward" in _read(Path(f"/proc/{pid}/cmdline"))]

    def children(self) -> list[int]:
        """What the engine forked: processes that may run user code."""
        others = {self.pid, *self.stewards()}
        return [
            pid
            for pid in self.family()
            if pid not in others and b"resource_tracker" not in _read(Path(f"/proc/{pid}/cmdline"))
        ]

    # ---- ending it --------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL the parent alone, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """SIGKILL parent, children and steward at once, as when a machine goes. Harmless when they are gone."""
        send(signal.SIGKILL, *self.family())
        self._process.wait()
        while left := self.family():  # forked in the meantime
            send(signal.SIGKILL, *left)
            time.sleep(0.01)
        with self._guard as guard:
            guard.kill()

    def freeze(self) -> list[int]:
        """SIGSTOP all its processes; those that were stopped."""
        family = self.family()
        send(signal.SIGSTOP, *family)
        return family

    def terminate(self, times: int = 1, pause: float = 0.05) -> None:
        """SIGTERM to the parent, as a supervisor does; again after so many seconds, since two that are pending at once
        are one for the kernel. Does not wait for the end."""
        for index in range(times):
            if index:
                time.sleep(pause)
            send(signal.SIGTERM, self.pid)

    def terminate_all(self) -> None:
        """SIGTERM to all its processes at once, as from a service manager that does not tell them apart."""
        send(signal.SIGTERM, *self.family())

    def wait(self, timeout: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after so many seconds."""
        return self._process.wait(timeout)

    # ---- what it said -----------------------------------------------------------------------------------------------

    def said(self, start: int = 0) -> str:
        """Its output from that position on."""
        return self.log.read_bytes()[start:].decode("utf-8", "replace")


def living(pids: Iterable[int]) -> list[int]:
    """Those that run: a zombie does not. Unlike WorkerProcess.family() it also knows processes without the mark."""
    return [pid for pid in pids if is_alive(f"{pid}:")]


def send(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _read(path: Path) -> bytes:
    """Nothing for a process that is gone, is a zombie or is not ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
