"""A process of its own for one attempt of a suspect: a job whose last attempt was lost, so that nothing else is to be
in the process that it may kill.

Where a worker runs several jobs in one process, the thread that got the delivery starts one and waits for it. It is
started anew and not forked, since the worker has threads. queuekit.alone is what runs in it; they talk in lines of
JSON: the order, and then "stop" or "cancel" one way, by its standard input; "claimed" and the outcome the other.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from queuekit.execution.outcomes import (
    Dropped,
    Ended,
    Failed,
    Outcome,
    Released,
    Retried,
    Stale,
    Succeeded,
    Unrecorded,
)
from queuekit.retry import describe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Apart", "RanApart", "read_outcome", "write_outcome"]

LOOK: Final = 0.25  # seconds between two looks whether it lives, where something it has left keeps the pipe open
GOES: Final = 5.0  # seconds that it has for its hooks' last words once its outcome is told


class RanApart(Exception):
    """The error of an attempt that ran in a process of its own. What is raised is a subclass with the name of the
    error's own class, its text, and its traceback as a note."""


class Apart:
    """The process, as the thread sees it that waits for it. stop(), cancel() and kill() may be called from any.

    Raises OSError: no memory, no descriptors, too many processes.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._lock = threading.RLock()  # a signal handler may interrupt the one who holds it
        self._heard, self._silent = b"", False
        self.killed = False
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: a file of the user's in the current folder is no module of ours. It gets this process's own path.
                [sys.executable, "-P", "-m", "queuekit.alone"],
                stdin=subprocess.PIPE,
                bufsize=0,
                pass_fds=[write],
                start_new_session=True,  # Ctrl-C is for the worker, which says when
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._read = read
        self._poll = select.poll()
        self._poll.register(read, select.POLLIN | select.POLLHUP)
        self._say({**order, "parent": os.getpid(), "reply": write})

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """The worker has to stop: it is to hand back its attempt, as Execution.interrupt_running() has it do."""
        self._say("stop")

    def cancel(self, reason: str) -> None:
        self._say({"cancel": reason})

    def kill(self) -> None:
        self.killed = True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def _say(self, word: object) -> None:
        with self._lock, suppress(OSError, ValueError):  # it has ended already: hear() says so
            assert self._process.stdin is not None
            data = memoryview(json.dumps(word, default=repr).encode() + b"\n")
            while data:
                data = data[self._process.stdin.write(data) :]

    def hear(self) -> dict[str, Any] | None:
        """What it says next; None: nothing within a moment. Raises EOFError once it has ended and said nothing more."""
        line, found, rest = self._heard.partition(b"\n")
        if found:
            self._heard = rest
            said: dict[str, Any] = json.loads(line)
            return said
        if not self._silent and self._poll.poll(LOOK * 1000):
            chunk = os.read(self._read, 1 << 16)
            self._heard += chunk
            self._silent = not chunk  # it has ended, or user code has closed all files that there are
            return None
        try:
            self._process.wait(LOOK if self._silent else 0)
        except subprocess.TimeoutExpired:
            return None
        raise EOFError

    def end(self) -> int:
        """Wait for its end, which is made to come. The exit code."""
        try:
            code = self._process.wait(GOES)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        with self._lock:
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
        os.close(self._read)
        return code


# ---- outcomes as JSON ----------------------------------------------------------------------------------------------

_KINDS: Final = {kind.__name__: kind for kind in (Dropped, Unrecorded, Ended, Released)}


def write_outcome(outcome: Outcome) -> dict[str, Any]:
    said: dict[str, Any] = {"outcome": type(outcome).__name__}
    match outcome:
        case Succeeded(text=text):
            return {**said, "text": text}
        case Retried(delay=delay, reason=reason, error=error):
            return {**said, "delay": delay, "reason": reason, "error": _write_error(error)}
        case Failed(reason=reason, error=error):
            return {**said, "reason": reason, "error": _write_error(error)}
        case Stale():
            return said
        case _:
            return {**said, "reason": outcome.reason}


def read_outcome(said: Mapping[str, Any]) -> Outcome:
    """A result is what its JSON text says, and an error a RanApart: neither needs to be pickled."""
    match said["outcome"]:
        case "Succeeded":
            text = said["text"]
            return Succeeded(None if text is None else json.loads(text), text)
        case "Retried":
            return Retried(said["delay"], said["reason"], _read_error(said["error"]))
        case "Failed":
            return Failed(said["reason"], _read_error(said["error"]))
        case "Stale":
            return Stale()
        case kind:
            return _KINDS[kind](said["reason"])


def _write_error(error: BaseException) -> dict[str, str]:
    said = describe_error(error)
    told = "".join(traceback.format_exception(error))[-20_000:]
    return {"type": said.error_type, "message": said.message, "traceback": told}


def _read_error(said: Mapping[str, str]) -> RanApart:
    module, _, name = said["type"].rpartition(".")
    kind = type(name, (RanApart,), {"__module__": module})
    error: RanApart = kind(said["message"])
    error.add_note(f"in the process that ran it alone:\n{said['traceback']}")
    return error
