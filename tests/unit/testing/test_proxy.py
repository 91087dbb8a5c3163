"""The proxy takes a server away in the ways that it says."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from queuekit.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = 0.3  # seconds in which an answer would have come


class Echo:
    """Answers with its name and what it was told."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=[near], daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            while data := near.recv(1024):
                near.sendall(self.name + data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    one = Echo(b"a")
    yield one
    one.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as one:
        yield one


def ask(one: socket.socket, text: bytes = b"?") -> bytes:
    one.sendall(text)
    return one.recv(1024)


def dial(proxy: Proxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def test_it_passes_on(proxy: Proxy) -> None:
    with dial(proxy) as one, dial(proxy) as other:
        assert ask(one, b"1") == b"a1"
        assert ask(other, b"2") == b"a2"
        assert proxy.connections == 2


def test_it_refuses_and_comes_back_on_its_port(proxy: Proxy) -> None:
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            ask(one)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    with pytest.raises(OSError, match="in use"), socket.socket() as thief:
        thief.bind(("127.0.0.1", proxy.port))
    proxy.restore()
    with dial(proxy) as one:
        assert ask(one) == b"a?"


def test_cut_resets_what_is_open_alone(proxy: Proxy) -> None:
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            ask(one)
    with dial(proxy) as one:
        assert ask(one) == b"a?"


def test_what_breaks_leaves_nothing_to_what_comes_after(proxy: Proxy) -> None:
    """The next sockets have the numbers of those that are gone."""
    for _ in range(30):
        broken = [dial(proxy) for _ in range(3)]
        assert [ask(one) for one in broken] == [b"a?"] * 3
        for one in broken:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        with dial(proxy) as one:
            assert ask(one, b"well") == b"awell"


def test_silence_answers_nothing_and_accepts_nothing(proxy: Proxy) -> None:
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.silence()
        one.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            ask(one, b"later")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                dial(proxy, QUIET)
        proxy.restore()
        one.settimeout(5)
        assert one.recv(1024) == b"alater"
    with dial(proxy) as one:
        assert ask(one) == b"a?"


def test_what_was_silenced_can_stay_so(proxy: Proxy) -> None:
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.silence()
        proxy.restore(old="silent")
        one.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            ask(one)
        with dial(proxy) as other:
            assert ask(other) == b"a?"
    proxy.refuse()
    assert proxy.connections == 0


def test_what_was_silenced_can_be_reset(proxy: Proxy) -> None:
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.silence()
        proxy.restore(old="cut")
        with pytest.raises(ConnectionResetError):
            ask(one)


def test_silence_after_refusal(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.silence()
    with pytest.raises(TimeoutError):
        dial(proxy, QUIET)
    proxy.restore()
    with dial(proxy) as one:
        assert ask(one) == b"a?"


def test_a_failover(proxy: Proxy) -> None:
    other = Echo(b"b")
    with dial(proxy) as one:
        assert ask(one) == b"a?"
        proxy.point(other.port)
        assert ask(one) == b"a?"
        proxy.cut()
    with dial(proxy) as one:
        assert ask(one) == b"b?"
    other.listener.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:6379/3?x=1", "redis://127.0.0.1:7/3?x=1"),
        ("amqp://guest:guest@127.0.0.1:5672//", "amqp://guest:guest@127.0.0.1:7//"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    proxy = Proxy(1)
    proxy.port = 7
    assert proxy.url(url) == expected


def test_a_close_gives_the_port_back(echo: Echo) -> None:
    proxy = Proxy(echo.port)
    proxy.start()
    proxy.silence()
    proxy.close()
    proxy.close()
    with socket.socket() as next_one:
        next_one.bind(("127.0.0.1", proxy.port))
