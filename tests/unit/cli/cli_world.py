"""A store with jobs in it, and the commands that look at it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import sys
import termios
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from queuekit.cli.commands import cli
from queuekit.message import Message
from queuekit.store import Claimed, IfEnded, NewJob
from queuekit.store.ends import write_end
from queuekit.store.redis import RedisStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.testing import Result

    from queuekit.testing.plugin import Broker

DIED = IfEnded(0.0, "", write_end("lost"), "its worker died")


class World:
    """`store` has the real clock. Nothing else than the store is named to the commands."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.store = RedisStore(broker.url, broker.namespace, timeout=10.0)
        self.environ = {"QUEUEKIT_STORE_URL": broker.url, "QUEUEKIT_NAMESPACE": broker.namespace}

    # ---- the commands -----------------------------------------------------------------------------------------------

    def run(self, *args: str, input: str | None = None, **environ: str) -> Result:
        """In this process: the standard output is no terminal, and neither is the input."""
        result = CliRunner().invoke(cli, args, input=input, env={**self.environ, **environ}, prog_name="queuekit")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def lines(self, *args: str) -> list[list[str]]:
        """The fields of each line."""
        result = self.run(*args)
        assert result.exit_code == 0, result.output
        return [line.split("\t") for line in result.stdout.splitlines()]

    def json(self, *args: str, code: int = 0) -> list[Any]:
        result = self.run(*args, "--json")
        assert result.exit_code == code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def new(
        self,
        id: str,
        status: str = "queued",
        *,
        task: str = "tasks.work",
        queue: str = "default",
        backend: str = "rq",
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        reason: str = "no rule for builtins.ValueError",
        error: str = "no such page",
        **more: Any,
    ) -> str:
        """A job in that state."""
        message = Message(id, task, args or [], kwargs or {}, queue, backend, **more)
        delay = 3600.0 if status == "scheduled" else None
        self.store.create(NewJob(id, message.seal(), message.digest, message.route, id, 86400.0, delay=delay))
        if status in {"queued", "scheduled"}:
            return id
        if status == "cancelled":
            self.store.cancel(id, reason)
            return id
        self.start(id, message.route)
        bad = write_end(
            "failed",
            error_type="builtins.ValueError",
            error_message=error,
            category="unknown",
            traceback="Traceback: x",
        )
        match status:
            case "succeeded":
                self.store.finish(id, id, write_end("succeeded"), json.dumps({"pages": 3}))
            case "failed":
                self.store.fail(id, id, bad, reason)
            case "retrying":
                self.store.retry(id, id, write_end("retried", category="rate_limit", delay=60.0), 60.0, "")
        return id

    def start(self, id: str, route: str) -> None:
        self.store.beat("host.1.aa", start=True, about=json.dumps({"backend": "rq", "queues": ["default"]}))
        claimed = self.store.claim(
            id=id, epoch=self.store.epoch(), pseq=1, route=route, worker="host.1.aa", process="1:1", token=id,
            timeout=None, seen="", on_lost=DIED, on_limit=DIED,
        )  # fmt: skip
        assert isinstance(claimed, Claimed)

    def status(self, id: str) -> str:
        return str(self.store.status(id))

    def message(self, id: str) -> Message:
        record = self.store.get(id)
        assert record is not None
        return Message.open(record.message)


def on_terminal(
    environ: Mapping[str, str], *args: str, columns: int = 80, answer: str = "", cwd: str | None = None
) -> tuple[int, list[str]]:
    """Run `queuekit` in a terminal of its own: the exit code, and the lines that one would see."""
    pid, end = pty.fork()
    if pid == 0:
        try:
            kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
            if cwd is not None:
                os.chdir(cwd)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            os.execve(
                sys.executable, [sys.executable, "-m", "queuekit", *args], {**kept, "TERM": "xterm-256color", **environ}
            )
        finally:
            os._exit(127)
    if answer:
        os.write(end, answer.encode())
    said = b""
    while True:
        try:
            part = os.read(end, 65536)
        except OSError:  # EIO: it has ended
            break
        if not part:
            break
        said += part
    _, status = os.waitpid(pid, 0)
    os.close(end)
    return os.waitstatus_to_exitcode(status), said.decode().replace("\r\n", "\n").splitlines()
