"""A loopback endpoint that misbehaves in one way: an HTTP answer, a stream, or a socket, as a provider's may fail.

    with endpoint(Answer(429, {"Retry-After": "20"}, {"error": {...}})) as url:
        client_of_some_sdk(base_url=url)...

It speaks HTTP/1.1 byte by byte where that is the point: a body that is cut off is no answer of any HTTP library.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

LONGEST_SILENCE = 20.0  # seconds that a client may wait at the most: it gives up long before


@dataclass(frozen=True)
class Answer:
    """What every request gets.

    Attributes:
        body: JSON where it is no text. A list of texts: server-sent events, with "" for the pause between two.
        then: "end" in good order; "cut": the connection is reset in the middle of the body; "close": it is closed
            there, as a proxy does; "silence": nothing more is sent, and the connection stays open.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = ""
    then: Literal["end", "cut", "close", "silence"] = "end"

    def sent(self) -> bytes:
        """The bytes on the wire."""
        stream = isinstance(self.body, list)
        text = "".join(f"{event}\n\n" for event in self.body) if stream else self.body
        data = (text if isinstance(text, str) else json.dumps(text)).encode()
        headers = {"content-type": "text/event-stream" if stream else "application/json", "connection": "close"}
        if not stream or self.then != "end":  # more is announced than comes
            headers["content-length"] = str(len(data) + (0 if self.then == "end" else 1000))
        headers |= {name.lower(): value for name, value in self.headers.items()}
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Unassigned"
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


NOTHING = Answer(status=0, then="close")  # the connection is closed without a word
SILENCE = Answer(status=0, then="silence")


@contextmanager
def endpoint(answer: Answer) -> Iterator[str]:
    """The URL of an endpoint that gives this answer to whatever it is asked."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=_serve, args=(server, answer, over), name="misbehaving", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join(10)


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


def _serve(server: socket.socket, answer: Answer, over: threading.Event) -> None:
    while not over.is_set():
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        threading.Thread(target=_converse, args=(client, answer, over), daemon=True).start()


def _converse(client: socket.socket, answer: Answer, over: threading.Event) -> None:
    client.settimeout(LONGEST_SILENCE)
    with client, suppress(OSError):
        _read_request(client)
        if answer.status:
            client.sendall(answer.sent())
        if answer.then == "silence":
            over.wait(LONGEST_SILENCE)
        elif answer.then == "cut":
            # What was sent has to arrive first: a reset throws away what the client has not read.
            over.wait(0.3)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _read_request(client: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    headers = {name.strip(): value.strip() for name, _, value in lines}
    if headers.get(b"expect") == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"chunked" in headers.get(b"transfer-encoding", b""):
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(65536)
        return
    left = int(headers.get(b"content-length", 0)) - len(body)
    while left > 0:
        left -= len(client.recv(65536))
