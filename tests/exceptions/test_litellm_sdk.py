"""litellm, in front of an endpoint that speaks as OpenAI's or as Anthropic's does."""

from __future__ import annotations

from typing import Any

import pytest
from expecting import SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category, classify

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def installed() -> None:
    litellm = pytest.importorskip("litellm", reason="missing: litellm (nox -s exceptions)")
    litellm.suppress_debug_info = True
    litellm.num_retries = 0


def completion(url: str, **options: Any) -> Any:
    import litellm

    asked = {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "k", "timeout": 1.0, "max_retries": 0}
    return litellm.completion(**asked, messages=MESSAGES, **options)


def acompletion(url: str) -> Any:
    import asyncio

    import litellm

    async def call() -> Any:
        asked = {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "k", "timeout": 1.0, "max_retries": 0}
        return await litellm.acompletion(**asked, messages=MESSAGES)

    return asyncio.run(call())


def stream(url: str) -> Any:
    return list(completion(url, stream=True))


def claude(url: str) -> Any:
    import litellm

    asked = {"model": "anthropic/m", "api_base": url, "api_key": "k", "timeout": 1.0, "max_retries": 0}
    return litellm.completion(**asked, messages=MESSAGES)


def error(status: int, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return Answer(
        status, headers or {}, {"error": {"message": "no", "type": None, "param": None, "code": None} | fields}
    )


STATUSES = [
    case("429-seconds", error(429, {"Retry-After": "20"}, code="rate_limit_exceeded"), Category.rate_limit, 20.0),
    case("quota", error(429, code="insufficient_quota", message="You exceeded your current quota, please check your plan"), Category.quota),
    case("401", error(401, code="invalid_api_key"), Category.auth),
    case("403", error(403), Category.auth),
    case("404", error(404, code="model_not_found"), Category.not_found),
    case("408", error(408), Category.timeout),
    case("context", error(400, code="context_length_exceeded", message="maximum context length is 8 tokens"), Category.context_length),
    case("policy", error(400, code="content_policy_violation", message="content_policy_violation: no"), Category.content_filter),
    case("400", error(400, type="invalid_request_error"), Category.bad_request),
    case("422", error(422), Category.bad_request),
    case("500", error(500), Category.server),
    case("503", error(503, {"Retry-After": "7"}), Category.overloaded, 7.0),
    case("504", error(504), Category.timeout),
]  # fmt: skip


@pytest.mark.parametrize("call", [completion, acompletion])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint)


def kind(status: int, name: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, {"type": "error", "error": {"type": name, "message": "no"}})


ANTHROPIC = [
    case("429", kind(429, "rate_limit_error", {"retry-after": "20"}), Category.rate_limit, 20.0),
    case("401", kind(401, "authentication_error"), Category.auth),
    case("500", kind(500, "api_error"), Category.server),
    case("503", kind(503, "api_error"), Category.overloaded),
    case("529", kind(529, "overloaded_error"), Category.overloaded),
]


@pytest.mark.parametrize(("answer", "category", "hint"), ANTHROPIC)
def test_answers_of_anthropic(answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(claude, endpoint(answer)), category, hint)


@pytest.mark.parametrize("call", [completion, acompletion])
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(request: pytest.FixtureRequest, call: Any, server: Any, category: Category) -> None:
    if call is acompletion and "in-body" in request.node.name or "cut-off" in request.node.name:
        # litellm 1.80 reads the half of the body that came, and calls what is wrong with it a server's error.
        category = classify(raised(call, server())).category
        assert category in {Category.connection, Category.server, Category.timeout}
        return
    check(raised(call, server()), category)


CHUNK = (
    'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    '[{"index":0,"delta":{"content":"so far"},"finish_reason":null}]}'
)


@pytest.mark.parametrize(
    ("then", "category"),
    [("cut", Category.connection), ("close", Category.connection), ("silence", Category.timeout)],
)
def test_a_stream_that_breaks_off(then: Any, category: Category) -> None:
    check(raised(stream, endpoint(Answer(body=[CHUNK], then=then))), category)


def test_an_error_inside_a_stream() -> None:
    said = 'data: {"error":{"message":"overloaded","type":"server_error","code":"server_is_overloaded"}}'
    check(raised(stream, endpoint(Answer(body=[CHUNK, said]))), Category.overloaded)


def test_a_budget_that_is_used_up() -> None:
    import litellm

    check(litellm.exceptions.BudgetExceededError(current_cost=2.0, max_budget=1.0), Category.quota)
