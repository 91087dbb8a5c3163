"""A model that never answers, over HTTP on loopback: when it is asked, and when it sees that nobody waits any more."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SilentModel"]


class SilentModel:
    """It reads a request whose JSON body has the `job`, and waits for the end of the connection. A context manager.

    Attributes:
        port: where it listens, on 127.0.0.1.
        asked, closed: by job, when the request was there and when its connection ended: time.monotonic().
    """

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.closed: dict[str, float] = {}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="silent-model", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data, job = b"", ""
        while True:
            try:
                chunk = connection.recv(65536)
            except OSError:  # a reset is an end too
                chunk = b""
            if not chunk:
                break
            data += chunk
            _head, found, body = data.partition(b"\r\n\r\n")
            if found and not job and b"}" in body:
                job = json.loads(body)["job"]
                self.asked[job] = time.monotonic()
        if job:
            self.closed[job] = time.monotonic()
        connection.close()
