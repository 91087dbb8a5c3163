"""A TCP proxy that stands between workers and their broker or store, and takes it away from them in every way that a
network knows.

    with Proxy(server.port) as proxy:
        bench = new_bench(broker_url=proxy.url(server.url))
        proxy.refuse()          nothing listens: connections are reset, and new ones refused at once
        proxy.silence()         packets go nowhere: what is open answers no more, what is new is not accepted
        proxy.restore()         all is well again, and what was open goes on where it was
        proxy.restore(old="silent")   the same, but what was open stays silent for ever, without a reset: its peer, or a
                                firewall between, has forgotten it
        proxy.cut()             what is open is reset; new connections are accepted
        proxy.point(port)       what is new leads to another server: a failover

It runs in a thread of its own. Any thread may call it; each call returns when it is so.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from queuekit.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self

__all__ = ["Proxy"]

BACKLOG: Final = 512
PLUGS: Final = 8  # connections of our own that fill the listener's queue: it takes one more than its backlog
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


class _Pair:
    """One connection and the one behind it."""

    def __init__(self, near: socket.socket, gate: asyncio.Event, turn: Callable[[], None]) -> None:
        self.near, self.far = near, socket.socket()
        self.turn = turn
        self.speaks: socket.socket | None = None  # whose words were passed on last
        self.gate = gate  # open: what comes is passed on
        self.task: asyncio.Task[None] | None = None

    async def run(self, to: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        for one in (self.near, self.far):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps: list[asyncio.Task[None]] = []
        try:
            await self.gate.wait()
            await loop.sock_connect(self.far, to)
            ways = [(self.near, self.far), (self.far, self.near)]
            pumps += [loop.create_task(self._pump(*way)) for way in ways]
            await asyncio.gather(*pumps)
        except OSError:
            self.reset()
        finally:
            # Before the sockets are closed: the loop would watch their numbers on, which the next ones have.
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def close(self) -> None:
        self.near.close()
        self.far.close()

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(source, 65536)
            await self.gate.wait()
            if not data:
                with suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            if source is self.near and self.speaks is not source:
                self.turn()
            self.speaks = source
            await loop.sock_sendall(sink, data)

    def reset(self) -> None:
        for one in (self.near, self.far):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Proxy:
    """Listens on a free port of loopback, and keeps it until close(). `port` and `host`: of the server behind it."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._to = (host, port)
        self.port = 0
        self.turns = 0  # how often a client has spoken first, or after an answer: the round trips
        self._held: socket.socket | None = None  # bound, never listening: nobody else gets the port while we refuse
        self._listener: socket.socket | None = None
        self._plugs: list[socket.socket] = []
        self._pairs: set[_Pair] = set()
        self._gate: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def url(self, of: str) -> str:
        """The server's URL with the proxy's port in its place."""
        parts = urlsplit(of)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}")) if "//" in of else of

    @property
    def connections(self) -> int:
        """How many are open, the silent ones too."""
        return len(self._pairs)

    # ---- what a test says -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Harmless when it does."""
        if self._thread is not None:
            return
        self.port = self.port or free_port()
        self._held = self._bound()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._start)

    def refuse(self) -> None:
        """Nothing listens here: what is open is reset, what is new is refused at once."""
        self._do(self._refuse)

    def cut(self) -> None:
        """What is open is reset. What is new is accepted."""
        self._do(self._cut)

    def silence(self) -> None:
        """As if each packet were dropped: what is open passes nothing on in either direction, and says no end; what is
        new is not accepted, nor refused (its connect() waits until it times out)."""
        self._do(self._silence)

    def restore(self, *, old: Literal["resume", "cut", "silent"] = "resume") -> None:
        """Listen, and pass on again. `old`: what becomes of the connections that were silenced: they go on, are reset,
        or stay silent for ever."""
        self._do(lambda: self._restore(old))

    def point(self, port: int, host: str = "127.0.0.1") -> None:
        """New connections lead there; cut() ends those that are open."""
        self._to = (host, port)

    def close(self) -> None:
        """Reset all, and give the port back. Harmless when called twice."""
        if self._thread is None or self._loop is None:
            return
        self._do(self._refuse)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._thread = self._loop = None
        if self._held is not None:
            self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- in its thread ----------------------------------------------------------------------------------------------

    def _do(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._loop is None:
            raise RuntimeError("the proxy is not started")
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)

    def _bound(self) -> socket.socket:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", self.port))
        one.setblocking(False)
        return one

    async def _start(self) -> None:
        if self._gate is None:
            self._gate = asyncio.Event()
        self._gate.set()
        if self._listener is None:
            self._listener = self._bound()
        self._listener.listen(BACKLOG)
        # Not by sock_accept(), which may have taken a connection when it is called off.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._gate is not None
        try:
            near, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        pair = _Pair(near, self._gate, self._count)
        self._pairs.add(pair)
        pair.task = asyncio.get_running_loop().create_task(pair.run(self._to))
        pair.task.add_done_callback(partial(self._over, pair))

    def _count(self) -> None:
        self.turns += 1

    def _over(self, pair: _Pair, _task: object) -> None:
        self._pairs.discard(pair)
        pair.close()

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)

    async def _cut(self) -> None:
        tasks = []
        for pair in self._pairs:
            pair.reset()
            if pair.task is not None:
                pair.task.cancel()
                tasks.append(pair.task)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # their callbacks

    async def _refuse(self) -> None:
        self._stop_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._unplug()
        await self._cut()

    async def _silence(self) -> None:
        self._stop_accepting()
        assert self._gate is not None
        self._gate.clear()
        if self._listener is None:  # it refused before
            self._listener = self._bound()
        # With its queue full the system drops what would come in, and the other side tries again without an answer.
        self._listener.listen(0)
        while len(self._plugs) < PLUGS:
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", self.port))
            self._plugs.append(plug)

    def _unplug(self) -> None:
        for plug in self._plugs:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            plug.close()
        self._plugs.clear()

    async def _restore(self, old: str) -> None:
        if old == "cut":
            await self._cut()
        elif old == "silent" and self._gate is not None and not self._gate.is_set():
            self._gate = asyncio.Event()  # nobody sets the one that those wait for
        self._unplug()
        await self._start()
