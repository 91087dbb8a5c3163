"""A RabbitMQ node of a test's own: on loopback, on a free port, without plugins, with its data in a folder of the test.

It takes about six seconds to start. It has an epmd of its own, by which its tools find it: that of the machine may be
in any state, and a node does not start without.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from queuekit.testing.servers import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

__all__ = ["RabbitServer", "confirmed_channel", "find_rabbitmq"]

DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on PATH wants to be root, and becomes another user


def find_rabbitmq() -> Path:
    """The binary. Raises LookupError with what to install."""
    found = str(DEBIAN) if DEBIAN.is_file() else shutil.which("rabbitmq-server")
    if found is None:
        raise LookupError("rabbitmq: no rabbitmq-server on PATH; install the system's package rabbitmq-server")
    return Path(found)


@contextmanager
def confirmed_channel(url: str) -> Iterator[Any]:
    """A channel to that broker, on a connection of its own, whose publishes are confirmed."""
    import amqp

    parts = urlsplit(url)
    with amqp.Connection(
        f"{parts.hostname}:{parts.port or 5672}",
        userid=parts.username or "guest",
        password=parts.password or "guest",
        confirm_publish=True,
    ) as connection:
        yield connection.channel()


class Epmd(Server):
    """Erlang's port mapper, which ends with the node that it is for."""

    @property
    def url(self) -> str:
        return f"epmd://127.0.0.1:{self.port}"

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        return [str(self._binary), "-address", "127.0.0.1", "-port", str(self.port)], None

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as conversation:
                conversation.sendall(b"\x00\x01n")  # its names
                return conversation.recv(4) == self.port.to_bytes(4, "big")
        except OSError:
            return False


class RabbitServer(Server):
    """`options` go into rabbitmq.conf: {"consumer_timeout": 60_000}. restart() keeps what is durable."""

    start_timeout = 120.0

    def __init__(self, binary: Path, folder: Path, *, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(binary, folder)
        self._options = dict(options or {})
        self._other_port = 0  # for other nodes, of which there are none
        self._started = False  # as its tools have it, who refuse to look before; it takes connections sooner
        found = shutil.which("epmd")  # where it is not on PATH, the node looks for that of the machine, or starts it
        self._epmd = Epmd(Path(found), folder.with_name(f"{folder.name}-epmd")) if found is not None else None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        self._other_port, self._started = self._other_port or free_port(), False
        folder = self._folder
        said = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "log.console": "true",
            "log.file": "false",
            **self._options,
        }
        (folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in said.items()))
        (folder / "plugins").write_text("[].\n")
        if self._epmd is not None:
            self._epmd.start()
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        return [str(self._binary)], {
            **theirs,
            **self._erlang,
            "RABBITMQ_NODENAME": f"queuekit{os.getpid()}x{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._other_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",  # one thread that does not spin
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the server, and no shell stands between
        }

    @property
    def _erlang(self) -> dict[str, str]:
        """How the node and its tools find its cookie and its epmd."""
        epmd = {} if self._epmd is None else {"ERL_EPMD_PORT": str(self._epmd.port)}
        return {"HOME": str(self._folder), **epmd}

    def _end(self, how: str) -> None:
        super()._end(how)
        if self._epmd is not None:
            self._epmd.kill()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as conversation:
                conversation.sendall(b"AMQP\x00\x00\x09\x01")
                return conversation.recv(8)[:1] == b"\x01"  # its first method
        except OSError:
            return False

    # ---- what is in it ----------------------------------------------------------------------------------------------

    def control(self, *command: str) -> str:
        """What rabbitmqctl says to that. Raises CalledProcessError."""
        if not self._started:
            self._control("await_startup")
            self._started = True
        return self._control(*command)

    def _control(self, *command: str) -> str:
        import subprocess

        name = f"queuekit{os.getpid()}x{self.port}@localhost"
        done = subprocess.run(
            [str(self._binary.with_name("rabbitmqctl")), "-n", name, "-q", *command],
            env={**os.environ, **self._erlang},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(f"{done.stdout}{done.stderr}".strip())
            raise error
        return done.stdout

    def queues(self) -> list[str]:
        """The names of the queues of the virtual host /."""
        return [line for line in self.control("list_queues", "name").splitlines() if line and line != "name"]

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        import amqp

        with amqp.Connection(f"127.0.0.1:{self.port}", userid="guest", password="guest") as connection:
            yield connection.channel()

    def empty(self) -> None:
        """Its queues are deleted under their consumers, with what was delivered and not acknowledged."""
        names = self.queues()
        with self._channel() as channel:
            for name in names:
                channel.queue_delete(name)

    def lose_one(self, random: Random) -> bool:
        """Take a waiting message out of some queue, and let it go. False: there is none."""
        names = self.queues()
        random.shuffle(names)
        with self._channel() as channel:
            return any(channel.basic_get(name, no_ack=True) is not None for name in names)

    def values(self) -> list[bytes]:
        """The bodies of the waiting messages, and their properties and headers as JSON. They stay where they are."""
        found = []
        names = self.queues()
        with self._channel() as channel:
            for name in names:
                while (message := channel.basic_get(name)) is not None:  # back in the queue when the channel closes
                    body = message.body
                    found.append(body if isinstance(body, bytes) else body.encode())
                    found.append(json.dumps(message.properties, default=repr).encode())
        return found
