"""pydantic-ai, with its models for OpenAI and Anthropic."""

from __future__ import annotations

from typing import Any

import pytest
from expecting import SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("pydantic_ai", reason="missing: pydantic-ai (nox -s exceptions)")
    pytest.importorskip("openai", reason="missing: openai (nox -s exceptions)")


def chat_model(url: str) -> Any:
    import openai
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    them = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, timeout=1.0)
    return OpenAIChatModel("m", provider=OpenAIProvider(openai_client=them))


def run(url: str) -> Any:
    from pydantic_ai import Agent

    return Agent(chat_model(url)).run_sync("hello")


def run_claude(url: str) -> Any:
    anthropic = pytest.importorskip("anthropic", reason="missing: anthropic (nox -s exceptions)")
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    them = anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0, timeout=1.0)
    return Agent(AnthropicModel("m", provider=AnthropicProvider(anthropic_client=them))).run_sync("hello")


def run_fallback(url: str) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.fallback import FallbackModel

    return Agent(FallbackModel(chat_model(url), chat_model(url))).run_sync("hello")


def error(status: int, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return Answer(
        status, headers or {}, {"error": {"message": "no", "type": None, "param": None, "code": None} | fields}
    )


STATUSES = [
    case("429-seconds", error(429, {"Retry-After": "20"}), Category.rate_limit, 20.0),
    case("quota", error(429, code="insufficient_quota"), Category.quota),
    case("401", error(401, code="invalid_api_key"), Category.auth),
    case("403", error(403), Category.auth),
    case("404", error(404), Category.not_found),
    case("402", error(402), Category.quota),
    case("context", error(400, code="context_length_exceeded"), Category.context_length),
    case("400", error(400), Category.bad_request),
    case("500", error(500), Category.server),
    case("503", error(503, {"Retry-After": "7"}), Category.overloaded, 7.0),
    case("529", error(529), Category.overloaded),
]


@pytest.mark.parametrize("call", [run, run_fallback])
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint)


def test_an_overloaded_claude() -> None:
    answer = Answer(
        529, {"retry-after": "9"}, {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}
    )
    check(raised(run_claude, endpoint(answer)), Category.overloaded, 9.0)


@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(server: Any, category: Category) -> None:
    check(raised(run, server()), category)


def test_a_model_that_never_gives_what_was_asked_for() -> None:
    """It answers in words, where a number was asked for, until pydantic-ai has had enough."""
    from pydantic_ai import Agent

    message = {"role": "assistant", "content": "seven or so"}
    body = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip

    def call(url: str) -> Any:
        return Agent(chat_model(url), output_type=int).run_sync("how many?")

    check(raised(call, endpoint(Answer(body=body))), Category.bad_output)
