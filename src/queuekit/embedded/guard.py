"""The guard: a small process between the owner and its server, so that the server goes when the owner goes.

It is run as a script, in a session of its own, with the standard library alone, and it is the server's parent:

    owner --(pipe: the request; then end of file = the owner is gone)--> guard --(PR_SET_PDEATHSIG on Linux)--> server

End of file comes also when the owner was killed by SIGKILL. A pidfd on the owner stands beside the pipe, because a
child that was forked behind Python's back could hold the pipe's other end open.

Below are also the few lines that the owner's side shares with it: the protocol, and whether a process lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOCK = "data.lock"
RECORD = "server.json"
LOG = "server.log"
DATA = "data"

STOP_TIMEOUT = 15.0
"""Seconds that a server has to end by itself (it writes its file to the disk first) before it is killed."""

READY_TIMEOUT = 60.0
"""Seconds that a server has to become ready: it reads its data first."""


class Failed(Exception):
    """The server cannot be started; the text says why."""


# ---- shared with the owner's side ----------------------------------------------------------------------------------


def ask(port: int, password: str, *command: str, timeout: float = 2.0) -> str:
    """The first line of the server's answer to one command ("+PONG"), after AUTH. "" where there is none.

    Never raises: whatever goes wrong means that this is not a server of ours that can be used.
    """
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(_encode("AUTH", password))
        reader = connection.makefile("rb")
        if reader.readline().startswith(b"+OK"):
            connection.sendall(_encode(*command))
            return reader.readline().decode("utf-8", "replace").strip()
    return ""


def _encode(*words: str) -> bytes:
    """A command as RESP, the protocol of Redis and Valkey, wants it."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def started_at(pid: int) -> str | None:
    """When that process started, in the system's own terms; None where it is gone, or is a zombie.

    With the pid it names a process for good: the number alone is given again.
    """
    if sys.platform == "linux":
        try:
            # After the name, which is in brackets and may hold anything: state, then 18 more, then the start.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    else:
        shown = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state, _, start = shown.stdout.strip().partition(" ")
        return None if not start or state.startswith("Z") else start.strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step: a reader sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


# ---- the process ---------------------------------------------------------------------------------------------------


class Guard:
    """Starts one server for one owner, and ends it when the owner is gone, or when itself is told to by SIGTERM."""

    def __init__(self, request: dict[str, Any], owner_pipe: int) -> None:
        self.folder = Path(request["folder"])
        self.binary: str = request["binary"]
        self.port: int = request["port"]
        self.password: str = request["password"]
        self.owner: dict[str, Any] = request["owner"]
        self.server: subprocess.Popen[bytes] | None = None
        self.told_to_stop = False
        self._signals, wake = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        self._owner_signs = [owner_pipe, *self._owner_pidfd()]

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def _owner_pidfd(self) -> list[int]:
        if not hasattr(os, "pidfd_open"):  # macOS: the pipe alone
            return []
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(self.owner["pid"])
            if started_at(self.owner["pid"]) == self.owner["started"]:
                return [descriptor]
            os.close(descriptor)
        return []

    def over(self, timeout: float | None) -> bool:
        """Wait until something happens, at most `timeout` seconds. True: the owner is gone, or we are to stop."""
        ready, _, _ = select.select([*self._owner_signs, self._signals], [], [], timeout)
        if self._signals in ready:
            os.read(self._signals, 512)
        # The owner writes nothing after its request, so whatever comes from it is its end.
        return self.told_to_stop or any(sign in ready for sign in self._owner_signs)

    def begin(self) -> dict[str, Any]:
        """Start the server and wait until it answers. Gives the record of it, which is also in the folder by then."""
        lock = self._own_the_data()
        log = self.folder / LOG
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            os.dup2(output.fileno(), 2)  # our own errors too: the owner's terminal, or pipe, is the owner's
            for port in (self.port, 0, 0, 0):
                self.port = free_port(port)
                self.server = self._launch(lock, output.fileno())
                if self._ready():
                    break
                if b"ddress already in use" not in log.read_bytes():
                    raise Failed(f"the server {self.binary} ended at once: {self._last_words()}")
            else:
                raise Failed("no free port was found on 127.0.0.1")
        record = {
            "pid": self.server.pid,
            "port": self.port,
            "password": self.password,
            "owner": self.owner,
            "guard": os.getpid(),
            "binary": self.binary,
        }
        write_private(self.folder / RECORD, json.dumps(record))
        return record

    def _own_the_data(self) -> int:
        """The lock on the data, held by this process and by the server: it is free only when both are gone."""
        import fcntl

        lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + STOP_TIMEOUT + 5  # by then another guard has ended a server whose owner is gone
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise Failed(f"another server still holds {self.folder / DATA}") from None
                if self.over(0.02):
                    raise Failed("the owner is gone") from None
            else:
                return lock

    def _launch(self, lock: int, output: int) -> subprocess.Popen[bytes]:
        # By standard input: an argument is shown to everybody by ps, and the environment to every child.
        config = f"""\
bind 127.0.0.1
port {self.port}
requirepass {self.password}
daemonize no
logfile ""
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""
        data = self.folder / DATA
        data.mkdir(mode=0o700, exist_ok=True)
        server = subprocess.Popen(
            [self.binary, "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=data,
            pass_fds=[lock],
            preexec_fn=_end_with_parent(),  # noqa: PLW1509  there is one thread here
        )
        assert server.stdin is not None
        with contextlib.suppress(BrokenPipeError), server.stdin as stdin:
            stdin.write(config.encode())
        return server

    def _ready(self) -> bool:
        """Ready is an answer to AUTH and PING: a connection alone is accepted long before."""
        assert self.server is not None
        give_up = time.monotonic() + READY_TIMEOUT
        pause = 0.005
        while self.server.poll() is None:
            if ask(self.port, self.password, "PING") == "+PONG":
                return True
            if time.monotonic() > give_up:
                raise Failed(f"the server {self.binary} was not ready after {READY_TIMEOUT:g} s: {self._last_words()}")
            if self.over(pause):
                raise Failed("the owner is gone")
            pause = min(pause * 1.5, 0.1)
        return False

    def _last_words(self) -> str:
        lines = (self.folder / LOG).read_text(errors="replace").replace(self.password, "***").strip().splitlines()
        return " | ".join(lines[-3:]) or "it said nothing"

    def watch(self) -> None:
        """Return when the owner is gone, the server has ended, or we are to stop."""
        assert self.server is not None
        while self.server.poll() is None:
            if self.over(None):
                return

    def end(self) -> None:
        if self.server is None or self.server.poll() is not None:
            return
        self.server.terminate()  # it writes what it has to the disk, and exits
        try:
            self.server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


def free_port(port: int = 0) -> int:
    """That port if it is free: running workers reconnect to it. Else another one. Raises Failed.

    Below the ranges from which systems take the ports of outgoing connections (32768 on Linux, 49152 on macOS): one of
    those could have it when the next owner wants it again.
    """
    others = [20000 + int.from_bytes(os.urandom(2)) % 12000 for _ in range(50)]
    for candidate in [*([port] if port else []), *others, 0]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            number: int = probe.getsockname()[1]
            return number
    raise Failed("no free port was found on 127.0.0.1")


def _end_with_parent() -> Callable[[], None] | None:
    """What the server's process does before it becomes the server: ask the kernel for SIGTERM when its parent ends."""
    if sys.platform == "linux":
        try:
            import ctypes
        except ImportError:  # a Python that was built without libffi: the pipe alone
            return None
        prctl, parent, set_pdeathsig = ctypes.CDLL(None).prctl, os.getpid(), 1

        def ask_kernel() -> None:
            prctl(set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it ended before we asked
                os._exit(1)

        return ask_kernel
    else:
        return None


def main() -> int:
    # Ctrl-C, a closed terminal: the owner's affair. What the owner does about them, we see by its end.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.closerange(3, 65536)  # whatever the owner lets its children inherit is not meant for us
    os.umask(0o077)
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            return 0
        text += part
    guard = Guard(json.loads(text), owner_pipe=0)
    try:
        try:
            answer = guard.begin()
        except (Failed, OSError) as error:
            answer = {"error": str(error)}
        # Standard output stays open: its end of file tells the owner that the server is gone.
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps(answer).encode() + b"\n")
        if "error" not in answer:
            guard.watch()
    finally:
        guard.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
