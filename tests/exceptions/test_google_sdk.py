"""google-genai."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from expecting import SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("google.genai", reason="missing: google-genai (nox -s exceptions)")


def client(url: str) -> Any:
    from google import genai

    options = genai.types.HttpOptions(base_url=url, timeout=1000)  # milliseconds
    return genai.Client(api_key="k", vertexai=False, http_options=options)


def generate(url: str) -> Any:
    them = client(url)  # it closes its connections when nobody holds it any more
    return them.models.generate_content(model="gemini-x", contents="hello")


def generate_async(url: str) -> Any:
    import asyncio

    async def call() -> Any:
        them = client(url)
        return await them.aio.models.generate_content(model="gemini-x", contents="hello")

    return asyncio.run(call())


def stream(url: str) -> Any:
    them = client(url)
    return list(them.models.generate_content_stream(model="gemini-x", contents="hello"))


def error(code: int, status: str, *details: dict[str, Any], **headers: str) -> Answer:
    body = {"error": {"code": code, "message": "no", "status": status, "details": list(details)}}
    return Answer(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}


def quota_failure(name: str) -> dict[str, Any]:
    violations = [{"quotaMetric": "m", "quotaId": name, "quotaValue": "20"}]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


def reason(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


PER_DAY = quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
PER_MINUTE = quota_failure("GenerateRequestsPerMinutePerProjectPerModel")

STATUSES = [
    case("429", error(429, "RESOURCE_EXHAUSTED"), Category.rate_limit),
    case("429-info", error(429, "RESOURCE_EXHAUSTED", PER_MINUTE, RETRY_INFO), Category.rate_limit, 36.0),
    case("429-header", error(429, "RESOURCE_EXHAUSTED", retry_after="20"), Category.rate_limit, 20.0),
    case("429-day", error(429, "RESOURCE_EXHAUSTED", PER_DAY, RETRY_INFO), Category.quota, 36.0),
    case("400-key", error(400, "INVALID_ARGUMENT", reason("API_KEY_INVALID")), Category.auth),
    case("401", error(401, "UNAUTHENTICATED"), Category.auth),
    case("403", error(403, "PERMISSION_DENIED"), Category.auth),
    case("404", error(404, "NOT_FOUND"), Category.not_found),
    case("400", error(400, "INVALID_ARGUMENT"), Category.bad_request),
    case("400-billing", error(400, "FAILED_PRECONDITION"), Category.bad_request),
    case("409", error(409, "ABORTED"), Category.conflict),
    case("500", error(500, "INTERNAL"), Category.server),
    case("502-html", Answer(502, {"content-type": "text/html"}, "<html>bad gateway</html>"), Category.server),
    case("503", error(503, "UNAVAILABLE"), Category.overloaded),
    case("503-seconds", error(503, "UNAVAILABLE", retry_after="7"), Category.overloaded, 7.0),
    case("504", error(504, "DEADLINE_EXCEEDED"), Category.timeout),
]


@pytest.mark.parametrize("call", [generate, generate_async, stream])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint, answer.status)


@pytest.mark.parametrize("call", [generate, generate_async, stream])
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(call: Any, server: Any, category: Category) -> None:
    if call is generate_async and category is Category.timeout and version("google-genai").startswith("1."):
        pytest.skip("the async client of google-genai 1 takes no notice of its timeout: give the task one")
    check(raised(call, server()), category)


def test_a_prompt_that_is_too_long_is_said_in_words_alone() -> None:
    words = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    answer = Answer(400, {}, {"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}})
    check(raised(generate, endpoint(answer)), Category.context_length)


def test_a_body_that_is_no_json() -> None:
    check(raised(generate, endpoint(Answer(200, body='{"candidates": [}'))), Category.bad_output)


CHUNK = 'data: {"candidates":[{"content":{"parts":[{"text":"so far"}],"role":"model"},"index":0}]}'


@pytest.mark.parametrize(
    ("then", "category"), [("cut", Category.connection), ("close", Category.connection), ("silence", Category.timeout)]
)
def test_a_stream_that_breaks_off(then: Any, category: Category) -> None:
    check(raised(stream, endpoint(Answer(body=[CHUNK], then=then))), category)


def test_an_error_inside_a_stream_on_status_200() -> None:
    said = 'data: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}'
    check(raised(stream, endpoint(Answer(body=[CHUNK, said]))), Category.overloaded)
