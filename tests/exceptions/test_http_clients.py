"""httpx, httpx2 and requests, as a task uses them without an SDK."""

from __future__ import annotations

from typing import Any

import pytest
from expecting import DATE, SOCKETS, case, check, raised
from misbehaving import Answer, endpoint

from queuekit.retry import Category


def with_httpx(name: str) -> Any:
    def call(url: str) -> Any:
        them = pytest.importorskip(name, reason=f"missing: {name} (nox -s exceptions)")
        return them.post(f"{url}/x", json={}, timeout=1.0).raise_for_status().json()

    return call


def with_httpx_stream(name: str) -> Any:
    def call(url: str) -> Any:
        them = pytest.importorskip(name, reason=f"missing: {name} (nox -s exceptions)")
        with them.stream("GET", f"{url}/x", timeout=1.0) as response:
            response.raise_for_status()
            return list(response.iter_lines())

    return call


def with_requests(url: str) -> Any:
    them = pytest.importorskip("requests", reason="missing: requests (nox -s exceptions)")
    response = them.post(f"{url}/x", json={}, timeout=1.0)
    response.raise_for_status()
    return response.json()


def with_requests_stream(url: str) -> Any:
    them = pytest.importorskip("requests", reason="missing: requests (nox -s exceptions)")
    with them.get(f"{url}/x", timeout=1.0, stream=True) as response:
        response.raise_for_status()
        return list(response.iter_lines())


CALLS = [
    pytest.param(with_httpx("httpx"), id="httpx"),
    pytest.param(with_httpx("httpx2"), id="httpx2"),
    pytest.param(with_requests, id="requests"),
]
STREAMS = [
    pytest.param(with_httpx_stream("httpx"), id="httpx"),
    pytest.param(with_httpx_stream("httpx2"), id="httpx2"),
    pytest.param(with_requests_stream, id="requests"),
]

STATUSES = [
    case("429-seconds", Answer(429, {"Retry-After": "20"}), Category.rate_limit, 20.0),
    case("429-date", Answer(429, {"Retry-After": DATE}), Category.rate_limit, 90.0),
    case(
        "429-bucket",
        Answer(429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}),
        Category.rate_limit, 0.012,
    ),
    case("429-quota", Answer(429, body={"error": {"code": "insufficient_quota"}}), Category.quota),
    case("402", Answer(402), Category.quota),
    case("401", Answer(401), Category.auth),
    case("403", Answer(403), Category.auth),
    case("404", Answer(404), Category.not_found),
    case("400", Answer(400), Category.bad_request),
    case("400-context", Answer(400, body={"error": {"code": "context_length_exceeded"}}), Category.context_length),
    case("408", Answer(408), Category.timeout),
    case("500", Answer(500), Category.server),
    case("503", Answer(503, {"Retry-After": "7"}), Category.overloaded, 7.0),
    case("524", Answer(524), Category.timeout),
    case("529", Answer(529), Category.overloaded),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("answer", "category", "hint"), STATUSES)
def test_answers(call: Any, answer: Answer, category: Category, hint: float | None) -> None:
    check(raised(call, endpoint(answer)), category, hint, answer.status)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("server", "category"), SOCKETS)
def test_sockets(call: Any, server: Any, category: Category) -> None:
    check(raised(call, server()), category)


@pytest.mark.parametrize("call", CALLS)
def test_a_body_that_is_no_json(call: Any) -> None:
    check(raised(call, endpoint(Answer(body="{oops"))), Category.bad_output)


@pytest.mark.parametrize("call", STREAMS)
@pytest.mark.parametrize(
    ("then", "category"),
    [("cut", Category.connection), ("close", Category.connection), ("silence", Category.timeout)],
)
def test_a_stream_that_breaks_off(call: Any, then: Any, category: Category) -> None:
    check(raised(call, endpoint(Answer(body=["data: so far"], then=then))), category)


@pytest.mark.parametrize("call", STREAMS)
def test_the_body_of_a_stream_is_not_read_for_its_code(call: Any) -> None:
    """It was not read by the task either: the status has to do."""
    answer = Answer(429, {"Retry-After": "3"}, {"error": {"code": "insufficient_quota"}})
    error = raised(call, endpoint(answer))
    check(error, Category.rate_limit, 3.0)
