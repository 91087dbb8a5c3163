"""Real errors of a real client, from answers of a fake transport: what the table of names leans on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from queuekit.retry import Category, DoNotRetry, Fail, Retry, RetryPolicy, RetryState, classify, describe_error

openai = pytest.importorskip("openai", reason="the openai client is not installed: pip install openai")
# openai 3 sends with httpx2, openai 2 with httpx: use the one that its client is made of.
_client_module = next(
    c for c in inspect.getmro(openai.DefaultHttpxClient) if c.__module__.startswith("httpx")
).__module__
httpx = pytest.importorskip(_client_module.partition(".")[0], reason="the HTTP client of openai is not installed")


def raised_by(answer: Callable[[Any], Any]) -> BaseException:
    """What a call raises when the provider answers so. max_retries=0: the waits are queuekit's."""
    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport) as http:
        client = openai.OpenAI(api_key="k", base_url="http://model.invalid/v1", max_retries=0, http_client=http)
        with pytest.raises(Exception) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    return caught.value


def answers(status: int, headers: dict[str, str] | None = None, **error: Any) -> Callable[[Any], Any]:
    return lambda request: httpx.Response(status, headers=headers, json={"error": {"message": "no", **error}})


def raises(make: Callable[[Any], BaseException]) -> Callable[[Any], Any]:
    def answer(request: Any) -> Any:
        raise make(request)

    return answer


CASES = [
    pytest.param(answers(401, type="invalid_request_error", code="invalid_api_key"), Category.auth, None, 401, id="401"),
    pytest.param(answers(403), Category.auth, None, 403, id="403"),
    pytest.param(answers(429, {"Retry-After": "20"}, code="rate_limit_exceeded"), Category.rate_limit, 20.0, 429, id="429"),
    pytest.param(answers(429, {"retry-after-ms": "1500"}), Category.rate_limit, 1.5, 429, id="429-ms"),
    pytest.param(
        answers(429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}),
        Category.rate_limit, 360.0, 429, id="429-bucket",
    ),
    pytest.param(answers(429, type="insufficient_quota", code="insufficient_quota"), Category.quota, None, 429, id="quota"),
    pytest.param(answers(500), Category.server, None, 500, id="500"),
    pytest.param(answers(503, {"Retry-After": "7"}), Category.overloaded, 7.0, 503, id="503"),
    pytest.param(lambda r: httpx.Response(502, text="<html>bad gateway</html>"), Category.server, None, 502, id="502-html"),
    pytest.param(answers(408), Category.timeout, None, 408, id="408"),
    pytest.param(answers(409), Category.conflict, None, 409, id="409"),
    pytest.param(answers(404, code="model_not_found"), Category.not_found, None, 404, id="404"),
    pytest.param(answers(400, code="context_length_exceeded"), Category.context_length, None, 400, id="context"),
    pytest.param(answers(400, code="content_filter"), Category.content_filter, None, 400, id="filter"),
    pytest.param(answers(422), Category.bad_request, None, 422, id="422"),
    pytest.param(raises(lambda r: httpx.ReadTimeout("slow", request=r)), Category.timeout, None, None, id="timeout"),
    pytest.param(raises(lambda r: httpx.ConnectError("refused", request=r)), Category.connection, None, None, id="connect"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "category", "hint", "status"), CASES)
def test_what_a_call_raises_is_understood(
    answer: Callable[[Any], Any], category: Category, hint: float | None, status: int | None
) -> None:
    exc = raised_by(answer)
    found = classify(exc)
    assert (found.category, found.hint, found.status) == (category, hint, status)
    assert describe_error(exc).error_type.startswith("openai.")


def test_the_preset_obeys_the_wait_and_stops_at_an_empty_account() -> None:
    policy = RetryPolicy.for_llm()
    limited = policy.decide(raised_by(answers(429, {"Retry-After": "120"})), RetryState(), now=0.0, u=0.5)
    assert isinstance(limited, Retry)
    assert limited.delay >= 120
    empty = policy.decide(raised_by(answers(429, code="insufficient_quota")), RetryState(), now=0.0, u=0.5)
    assert isinstance(empty, Fail)
    assert empty.category is Category.quota


def test_an_engines_soft_limit_inside_a_call_is_found() -> None:
    """openai 2 catches it and raises an APIConnectionError from it; openai 3 lets it through."""
    soft_limit = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "billiard.exceptions"})
    exc = raised_by(raises(lambda request: soft_limit()))
    assert isinstance(exc, (soft_limit, openai.APIConnectionError))
    assert classify(exc).category is Category.time_limit


def test_what_a_task_says_inside_a_call_is_heard() -> None:
    exc = raised_by(raises(lambda request: DoNotRetry()))
    decision = RetryPolicy.for_llm().decide(exc, RetryState(), now=0.0, u=0.0)
    assert isinstance(decision, Fail)
    assert "the task said not to retry" in decision.reason


def test_a_request_id_is_kept() -> None:
    exc = raised_by(answers(500, {"x-request-id": "req-9"}))
    assert describe_error(exc).request_id == "req-9"


def test_the_class_calls_itself_as_people_import_it() -> None:
    assert f"{openai.RateLimitError.__module__}.{openai.RateLimitError.__qualname__}" == "openai.RateLimitError"
