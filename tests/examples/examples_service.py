"""A web service of the examples, under a real server."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from examples_place import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Service:
    port: int
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.load(answer))
        finally:
            connection.close()


@contextmanager
def serve(app: str, environ: dict[str, str], log: Path, *options: str) -> Iterator[Service]:
    """It answers, and its output goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", app, "--port", "0", *options],
            cwd=EXAMPLES,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Service(port_of(process, log), process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()  # what does not end fails the test, and is not left behind
            print(log.read_text("utf-8", "replace")[-4000:])


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """It takes one that is free, and says which."""
    end = time.monotonic() + 60
    while not (found := re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace"))):
        assert process.poll() is None, "the service has ended"
        assert time.monotonic() < end, "the service does not start"
        time.sleep(0.05)
    return int(found[1])
