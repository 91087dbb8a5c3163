"""The endpoint, asked by the real client: what it does is what the policy takes it for."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed: pip install 'queuekit[demo]'")

from queuekit.demo.endpoint import MODEL, Endpoint  # noqa: E402
from queuekit.demo.plan import Plan  # noqa: E402
from queuekit.retry import Category, Fail, Retry, RetryPolicy, RetryState, classify  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS = [f"document-{n}" for n in range(12)]
TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. Foxes are quick. A fox is no dog."


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(Plan(1, IDS)) as endpoint:
        yield endpoint


def ask(endpoint: Endpoint, engine: str, document: str, **options: object) -> str:
    with openai.OpenAI(
        api_key="demo", base_url=endpoint.url(engine), max_retries=0, timeout=options.pop("timeout", 30)
    ) as client:
        answer = client.chat.completions.create(
            model="stand-in",
            messages=[{"role": "system", "content": "Summarise."}, {"role": "user", "content": TEXT}],
            extra_headers={"X-Client-Request-Id": document},
            **options,
        )
    assert answer.model == MODEL
    assert answer.usage.total_tokens > 0
    return answer.choices[0].message.content


def error_of(endpoint: Endpoint, engine: str, document: str, timeout: float = 30) -> BaseException:
    with pytest.raises(openai.OpenAIError) as caught:
        ask(endpoint, engine, document, timeout=timeout)
    return caught.value


def with_first_failure(plan: Plan, category: Category) -> str:
    return next(id for id in IDS if plan.failures(id) and plan.failures(id)[0].category is category)


@pytest.mark.parametrize(
    "category", [Category.rate_limit, Category.overloaded, Category.server, Category.timeout, Category.auth]
)
def test_each_kind_of_failure_is_taken_for_what_was_planned(endpoint: Endpoint, category: Category) -> None:
    document = with_first_failure(endpoint.plan, category)
    failure = endpoint.plan.failures(document)[0]
    error = error_of(endpoint, "rq", document, timeout=0.2 if failure.status is None else 30)
    found = classify(error)
    assert (found.category, found.hint) == (category, failure.retry_after)
    decision = RetryPolicy.for_llm(scale=1 / 20).decide(error, RetryState(), now=0.0, u=0.5)
    assert isinstance(decision, Fail if failure.final else Retry)
    assert decision.category is category
    if failure.retry_after is not None:
        assert decision.delay >= failure.retry_after


def test_a_document_meets_its_failures_in_order_and_then_gets_its_answer(endpoint: Endpoint) -> None:
    document = with_first_failure(endpoint.plan, Category.rate_limit)
    for failure in endpoint.plan.failures(document):
        assert classify(error_of(endpoint, "rq", document)).category is failure.category
    said = ask(endpoint, "rq", document)
    assert said.startswith("The quick brown fox jumps over the lazy dog, and the dog sleeps on. (22 words;")
    assert "most often: quick, brown, foxes, jumps" in said
    assert endpoint.calls["rq", document] == len(endpoint.plan.failures(document)) + 1


def test_each_engine_meets_the_plan_from_its_beginning(endpoint: Endpoint) -> None:
    document = with_first_failure(endpoint.plan, Category.overloaded)
    for engine in ("celery", "rq", "dramatiq"):
        assert classify(error_of(endpoint, engine, document)).category is Category.overloaded
        assert endpoint.calls[engine, document] == 1


def test_a_refused_key_is_refused_each_time(endpoint: Endpoint) -> None:
    document = with_first_failure(endpoint.plan, Category.auth)
    for _ in range(2):
        assert isinstance(error_of(endpoint, "rq", document), openai.AuthenticationError)


def test_it_says_that_it_does_not_stream(endpoint: Endpoint) -> None:
    with pytest.raises(openai.BadRequestError, match="does not stream"):
        ask(endpoint, "rq", "document-0", stream=True)
    assert not endpoint.calls


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/rq/v1/models", None, 404),
        ("POST", "/rq/v1/completions", "{}", 404),
        ("POST", "/rq/v1/embeddings", "{}", 400),
        ("POST", "/rq/v1/embeddings", '{"input": 1}', 400),
        ("POST", "/rq/v1/chat/completions", "{", 400),
        ("POST", "/rq/v1/chat/completions", "[]", 400),
        ("POST", "/rq/v1/chat/completions", '{"messages": [1]}', 400),
    ],
)
def test_what_it_does_not_know_is_refused_in_openais_words(
    endpoint: Endpoint, method: str, path: str, body: str | None, status: int
) -> None:
    host = endpoint.url("rq").split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(method, path, body)
    answer = connection.getresponse()
    assert answer.status == status
    assert json.loads(answer.read())["error"]["message"]
    connection.close()


def embed(endpoint: Endpoint, *texts: str) -> list[list[float]]:
    with openai.OpenAI(api_key="demo", base_url=endpoint.url("rq"), max_retries=0, timeout=30) as client:
        answer = client.embeddings.create(
            model="stand-in", input=list(texts), extra_headers={"X-Client-Request-Id": "texts"}
        )
    return [one.embedding for one in answer.data]


def test_texts_that_have_words_in_common_have_vectors_near_each_other(endpoint: Endpoint) -> None:
    fox, foxes, tax, nothing = embed(endpoint, TEXT, f"{TEXT} And so on.", "Payment is due in March.", "")
    near, far = (sum(a * b for a, b in zip(fox, other, strict=True)) for other in (foxes, tax))
    assert 1 > near > 0.95 > far
    assert nothing == [0.0] * len(fox)
    assert endpoint.calls["rq", "texts"] == 1


def test_a_vector_meets_the_failures_of_its_document(endpoint: Endpoint) -> None:
    document = with_first_failure(endpoint.plan, Category.overloaded)
    with (
        openai.OpenAI(api_key="demo", base_url=endpoint.url("rq"), max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.embeddings.create(model="stand-in", input=TEXT, extra_headers={"X-Client-Request-Id": document})


def test_a_call_that_is_left_without_an_answer_does_not_hold_up_the_end() -> None:
    with Endpoint(Plan(1, IDS)) as endpoint:
        error_of(endpoint, "rq", with_first_failure(endpoint.plan, Category.timeout), timeout=0.1)
    with pytest.raises(openai.APIConnectionError):
        ask(endpoint, "rq", "document-0")
