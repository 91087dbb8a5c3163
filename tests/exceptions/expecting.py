"""One case: how the endpoint misbehaves, and what queuekit has to make of what the SDK raises then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from email.utils import formatdate
from typing import Any

import pytest
from misbehaving import NOTHING, SILENCE, Answer, endpoint, nobody

from queuekit.retry import Category, Fail, Retry, RetryPolicy, RetryState, classify

NOW = 1_900_000_000.0  # for hints that are dates
DATE = formatdate(NOW + 90, usegmt=True)

# Failures below HTTP, which are the same whoever is called.
SOCKETS = [
    pytest.param(nobody, Category.connection, id="refused"),
    pytest.param(lambda: endpoint(SILENCE), Category.timeout, id="silence"),
    pytest.param(lambda: endpoint(NOTHING), Category.connection, id="closed-without-a-word"),
    pytest.param(lambda: endpoint(Answer(200, body='{"id": "', then="cut")), Category.connection, id="reset-in-body"),
    pytest.param(lambda: endpoint(Answer(200, body='{"id": "', then="close")), Category.connection, id="cut-off-body"),
    pytest.param(
        lambda: endpoint(Answer(200, body='{"id": "', then="silence")), Category.timeout, id="silence-in-body"
    ),
]

LASTING = {
    Category.auth,
    Category.quota,
    Category.bad_request,
    Category.context_length,
    Category.content_filter,
    Category.not_found,
}
"""What another attempt does not mend: the preset for LLM calls gives up at once."""


def raised(call: Callable[[str], Any], server: AbstractContextManager[str]) -> BaseException:
    """What the call raises against this endpoint. A call that returns fails the test."""
    with server as url, pytest.raises(BaseException) as caught:
        call(url)
    if isinstance(caught.value, pytest.skip.Exception):  # the SDK is not installed
        raise caught.value
    assert not isinstance(caught.value, (pytest.fail.Exception, AssertionError)), caught.value
    return caught.value


def case(name: str, answer: Answer, category: Category, hint: float | None = None) -> Any:
    return pytest.param(answer, category, hint, id=name)


def check(error: BaseException, category: Category, hint: float | None = None, status: int | None = None) -> None:
    """The category, the wait, and what the preset does about it."""
    found = classify(error, now=NOW)
    said = f"{type(error).__module__}.{type(error).__qualname__}: {error!s:.300}; {found}"
    assert found.category is category, said
    assert found.hint == (None if hint is None else pytest.approx(hint)), said
    if status is not None:
        assert found.status == status, said
    decision = RetryPolicy.for_llm().decide(error, RetryState(), now=NOW, u=0.0)
    assert isinstance(decision, Fail if category in LASTING else Retry), (said, decision)
    assert decision.category is category, (said, decision)
    if isinstance(decision, Retry):
        assert decision.delay >= (hint or 0)
