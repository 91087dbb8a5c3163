"""The anthropic client."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from expecting import DATE, NOW, SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("anthropic", reason="missing: anthropic (nox -s exceptions)")


def client(url: str) -> Any:
    import anthropic

    return anthropic.Anthropic(api_key="k", base_url=url, max_retries=0, timeout=1.0)


def create(url: str) -> Any:
    return client(url).messages.create(**ASKED)


def create_async(url: str) -> Any:
    import asyncio

    import anthropic

    async def call() -> Any:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0, timeout=1.0) as them:
            return await them.messages.create(**ASKED)

    return asyncio.run(call())


def stream(url: str) -> Any:
    return list(client(url).messages.create(**ASKED, stream=True))


def stream_helper(url: str) -> Any:
    with client(url).messages.stream(**ASKED) as events:
        return events.get_final_message()


def said(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": "no", **more}, "request_id": "req_1"}


def error(status: int, kind: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    return Answer(status, headers or {}, said(kind, **more))


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat().replace("+00:00", "Z")


STATUSES = [
    case("429-seconds", error(429, "rate_limit_error", {"retry-after": "20"}), Category.rate_limit, 20.0),
    case("429-date", error(429, "rate_limit_error", {"retry-after": DATE}), Category.rate_limit, 90.0),
    case(
        "429-buckets",
        error(
            429,
            "rate_limit_error",
            {
                "anthropic-ratelimit-requests-remaining": "5", "anthropic-ratelimit-requests-reset": at(900),
                "anthropic-ratelimit-input-tokens-remaining": "0", "anthropic-ratelimit-input-tokens-reset": at(45),
            },
        ),
        Category.rate_limit, 45.0,
    ),
    case("429-spend", error(429, "rate_limit_error", error_code="enforced_spend_limit_reached"), Category.quota),
    case("402", error(402, "billing_error"), Category.quota),
    case("401", error(401, "authentication_error"), Category.auth),
    case("403", error(403, "permission_error"), Category.auth),
    case("404", error(404, "not_found_error"), Category.not_found),
    case("413", error(413, "request_too_large"), Category.bad_request),
    case("400", error(400, "invalid_request_error"), Category.bad_request),
    case("408", error(408, "timeout_error"), Category.timeout),
    case("409", error(409, "conflict_error"), Category.conflict),
    case("500", error(500, "api_error"), Category.server),
    case("502-html", Answer(502, {"content-type": "text/html"}, "<html>bad gateway</html>"), Category.server),
    case("503", error(503, "api_error", {"retry-after": "7"}), Category.overloaded, 7.0),
    case("504", error(504, "timeout_error"), Category.timeout),
    case("529", error(529, "overloaded_error"), Category.overloaded),
    case("529-seconds", error(529, "overloaded_error", {"retry-after": "12"}), Category.overloaded, 12.0),
]  # fmt: skip


@pytest.mark.parametrize("call", [create, create_async])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint, answer.status)


def test_a_prompt_that_is_too_long_is_said_in_words_alone() -> None:
    """The API has no code for it."""
    words = "prompt is too long: 210000 tokens > 200000 maximum"
    answer = Answer(400, {}, {"type": "error", "error": {"type": "invalid_request_error", "message": words}})
    check(raised(create, endpoint(answer)), Category.context_length)


@pytest.mark.parametrize("call", [create, create_async, stream])
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(call: Any, server: Any, category: Category) -> None:
    check(raised(call, server()), category)


def test_a_body_that_is_no_json() -> None:
    check(raised(create, endpoint(Answer(200, body='{"id": "x", "content": [}'))), Category.bad_output)


START = (
    'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    '"content":[],"model":"m","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}'
)


def event(kind: str) -> str:
    return f'event: error\ndata: {{"type":"error","error":{{"type":"{kind}","message":"no"}}}}'


@pytest.mark.parametrize("call", [stream, stream_helper])
@pytest.mark.parametrize(
    ("kind", "category"),
    [
        ("overloaded_error", Category.overloaded),
        ("api_error", Category.server),
        ("rate_limit_error", Category.rate_limit),
        ("authentication_error", Category.auth),
    ],
)
def test_an_error_inside_a_stream_on_status_200(call: Any, kind: str, category: Category) -> None:
    check(raised(call, endpoint(Answer(body=[START, event(kind)]))), category)


@pytest.mark.parametrize("call", [stream, stream_helper])
@pytest.mark.parametrize(
    ("then", "category"), [("cut", Category.connection), ("close", Category.connection), ("silence", Category.timeout)]
)
def test_a_stream_that_breaks_off(call: Any, then: Any, category: Category) -> None:
    check(raised(call, endpoint(Answer(body=[START], then=then))), category)


def test_a_stream_with_an_event_that_is_no_json() -> None:
    broken = "event: content_block_delta\ndata: {oops"
    check(raised(stream, endpoint(Answer(body=[START, broken]))), Category.bad_output)
