"""The openai client: of version 2, which sends with httpx, and of 3, which sends with httpx2."""

from __future__ import annotations

from typing import Any

import pytest
from expecting import DATE, SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("openai", reason="missing: openai (nox -s exceptions)")


def client(url: str, **options: Any) -> Any:
    import openai

    return openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, timeout=1.0, **options)


def chat(url: str) -> Any:
    return client(url).chat.completions.create(model="m", messages=MESSAGES)


def chat_async(url: str) -> Any:
    import asyncio

    import openai

    async def call() -> Any:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, timeout=1.0) as them:
            return await them.chat.completions.create(model="m", messages=MESSAGES)

    return asyncio.run(call())


def stream(url: str) -> Any:
    return list(client(url).chat.completions.create(model="m", messages=MESSAGES, stream=True))


def responses_stream(url: str) -> Any:
    return list(client(url).responses.create(model="m", input="hello", stream=True))


def error(status: int, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return Answer(
        status, headers or {}, {"error": {"message": "no", "type": None, "param": None, "code": None} | fields}
    )


STATUSES = [
    case("429-seconds", error(429, {"Retry-After": "20"}, code="rate_limit_exceeded"), Category.rate_limit, 20.0),
    case("429-ms", error(429, {"retry-after-ms": "1500"}), Category.rate_limit, 1.5),
    case("429-ms-over-seconds", error(429, {"retry-after-ms": "1500", "retry-after": "2"}), Category.rate_limit, 1.5),
    case("429-date", error(429, {"Retry-After": DATE}), Category.rate_limit, 90.0),
    case(
        "429-buckets",
        error(
            429,
            {
                "x-ratelimit-remaining-requests": "10", "x-ratelimit-reset-requests": "9h0m0s",
                "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s",
            },
        ),
        Category.rate_limit, 360.0,
    ),
    case("429-nonsense", error(429, {"Retry-After": "soon"}), Category.rate_limit),
    case("429-no-body", Answer(429), Category.rate_limit),
    case("quota", error(429, type="insufficient_quota", code="insufficient_quota"), Category.quota),
    case("402", error(402), Category.quota),
    case("401", error(401, type="invalid_request_error", code="invalid_api_key"), Category.auth),
    case("403", error(403, code="unsupported_country_region_territory"), Category.auth),
    case("404", error(404, code="model_not_found"), Category.not_found),
    case("408", error(408), Category.timeout),
    case("409", error(409), Category.conflict),
    case("context", error(400, type="invalid_request_error", code="context_length_exceeded"), Category.context_length),
    case("filter", error(400, type="invalid_request_error", code="content_filter"), Category.content_filter),
    case("policy", error(400, code="content_policy_violation"), Category.content_filter),
    case("400", error(400, type="invalid_request_error"), Category.bad_request),
    case("413", error(413), Category.bad_request),
    case("422", error(422), Category.bad_request),
    case("500", error(500, type="server_error"), Category.server),
    case("502-html", Answer(502, {"content-type": "text/html"}, "<html>bad gateway</html>"), Category.server),
    case("503", error(503, {"Retry-After": "7"}), Category.overloaded, 7.0),
    case("504", error(504), Category.timeout),
    case("529", error(529), Category.overloaded),
]  # fmt: skip


@pytest.mark.parametrize("call", [chat, chat_async])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint, answer.status)


@pytest.mark.parametrize("call", [chat, chat_async, stream])
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(call: Any, server: Any, category: Category) -> None:
    check(raised(call, server()), category)


def test_a_body_that_is_no_json() -> None:
    check(raised(chat, endpoint(Answer(200, body='{"id": "x", "choices": [}'))), Category.bad_output)


def chunk(text: str) -> str:
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        f'[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}'
    )


STREAMS = [
    case("server_error", '{"error":{"message":"The server had an error","type":"server_error","code":null}}', Category.server),
    case("overloaded", '{"error":{"message":"overloaded","type":"server_error","code":"server_is_overloaded"}}', Category.overloaded),
    case("rate", '{"error":{"message":"slow down","type":"tokens","code":"rate_limit_exceeded"}}', Category.rate_limit),
    case("quota", '{"error":{"message":"no money","type":"insufficient_quota","code":"insufficient_quota"}}', Category.quota),
    case("context", '{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}', Category.context_length),
]  # fmt: skip


@pytest.mark.parametrize(("event", "category", "hint"), STREAMS)
def test_an_error_inside_a_stream_that_began_well(event: str, category: Category, hint: None) -> None:
    check(raised(stream, endpoint(Answer(body=[chunk("so far"), f"data: {event}"]))), category, hint)


def test_an_error_inside_a_stream_of_the_responses_api() -> None:
    """Where it is an exception. Its own events `error` and `response.failed` are values: the task has to raise."""
    said = '{"type":"error","error":{"message":"slow down","type":"tokens","code":"rate_limit_exceeded"}}'
    check(raised(responses_stream, endpoint(Answer(body=[f"event: error\ndata: {said}"]))), Category.rate_limit)


@pytest.mark.parametrize("then", ["cut", "close"])
def test_a_stream_that_breaks_off(then: Any) -> None:
    check(raised(stream, endpoint(Answer(body=[chunk("so far")], then=then))), Category.connection)


def test_a_stream_that_falls_silent() -> None:
    check(raised(stream, endpoint(Answer(body=[chunk("so far")], then="silence"))), Category.timeout)


def test_a_stream_with_a_chunk_that_is_no_json() -> None:
    check(raised(stream, endpoint(Answer(body=[chunk("so far"), "data: {oops"]))), Category.bad_output)
