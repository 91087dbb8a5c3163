"""An OpenAI-compatible endpoint on loopback that fails as the plan says, and otherwise answers at once.

It speaks what the `openai` client needs of POST /v1/chat/completions, without streams, and of POST /v1/embeddings. The
engine is the first part of the path (/rq/v1/...), so that each engine meets the plan from its beginning; the document
is in X-Client-Request-Id.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from queuekit.demo.answers import embed, summarise

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from queuekit.demo.plan import Failure, Plan

__all__ = ["MODEL", "Endpoint"]

MODEL: Final = "stand-in (no model: computed from the text)"
LONGEST_SILENCE: Final = 30.0  # seconds after which a call that gets no answer is let go
_LARGEST_BODY: Final = 8 * 1024 * 1024


class Endpoint:
    """A server in a thread of this process: it is gone when the process is. Use it as a context manager.

    Attributes:
        calls: how many calls came, by (engine, document).
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.calls: Counter[tuple[str, str]] = Counter()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="queuekit-demo-endpoint",
            daemon=True,
        )

    def url(self, engine: str) -> str:
        """For OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{engine}/v1"

    def next_failure(self, engine: str, document: str) -> Failure | None:
        """Count a call, and say what is to become of it."""
        with self._lock:
            self.calls[engine, document] += 1
            return self.plan.failure(document, self.calls[engine, document])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a call that is left without an answer must not hold up the end
    request_queue_size = 128

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news: a timeout of the client is part of the plan."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for an answer: in two, the second would wait for the first to be acknowledged
    server_version = "queuekit-demo"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """The demo's screen is its own."""

    @property
    def _endpoint(self) -> Endpoint:
        assert isinstance(self.server, _Server)
        return self.server.endpoint

    def do_GET(self) -> None:
        self._error(404, "not_found", f"Unknown request URL: GET {self.path}")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            return self._error(411, "invalid_request_error", "Give a Content-Length of at most 8 MiB.")
        body = self.rfile.read(int(length))
        engine, _, path = self.path.strip("/").partition("/")
        if path not in {"v1/chat/completions", "v1/embeddings"}:
            return self._error(404, "not_found", f"Unknown request URL: POST {self.path}")
        try:
            asked = json.loads(body)
            answer = _embeddings(asked["input"]) if path == "v1/embeddings" else _completion(_said_by_user(asked))
            streams = asked.get("stream", False)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return self._error(400, "invalid_request_error", f"The body is no request of {path}: {error!r}")
        if streams:
            return self._error(400, "invalid_request_error", "This stand-in does not stream: stream=False.")
        failure = self._endpoint.next_failure(engine, self.headers.get("X-Client-Request-Id", ""))
        if failure is None:
            return self._send(200, answer)
        if failure.status is None:
            self._endpoint.closing.wait(LONGEST_SILENCE)
            self.close_connection = True
            return None
        headers = {} if failure.retry_after is None else {"Retry-After": str(failure.retry_after)}
        return self._error(failure.status, failure.code, failure.message, headers)

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        kinds = {429: "requests", 500: "server_error", 503: "service_unavailable_error"}
        self._send(
            status,
            {
                "error": {
                    "message": message,
                    "type": kinds.get(status, "invalid_request_error"),
                    "param": None,
                    "code": code,
                }
            },
            headers,
        )

    def _send(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _said_by_user(asked: Any) -> str:
    return "\n".join(str(m["content"]) for m in asked["messages"] if m["role"] == "user")


def _embeddings(asked: Any) -> dict[str, Any]:
    texts = [asked] if isinstance(asked, str) else [str(text) for text in asked]
    words = sum(len(text.split()) for text in texts)  # where a model would count tokens
    return {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": index, "embedding": embed(text)} for index, text in enumerate(texts)],
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def _completion(text: str) -> dict[str, Any]:
    said = summarise(text)
    asked, given = len(text.split()), len(said.split())  # words, where a model would count tokens
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
        "usage": {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given},
    }
