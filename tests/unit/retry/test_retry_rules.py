from __future__ import annotations

import pickle
from typing import Any

import pytest
from retry_fakes import fake, fake_class, litellm_error, openai_error, response

from queuekit.errors import ConfigError
from queuekit.retry import Backoff, DoNotRetry, Fail, Lost, Retry, RetryPolicy, RetryRule, RetryState, TimeLimit


def matches(on: Any, exc: BaseException) -> bool:
    return isinstance(RetryPolicy([RetryRule(on)]).decide(exc, RetryState(), now=0.0, u=0.0), Retry)


def transient(exc: BaseException) -> bool:
    return "again" in str(exc)


LIMIT = openai_error("RateLimitError", 429)


@pytest.mark.parametrize(
    ("on", "exc", "expected"),
    [
        (ValueError, ValueError(), True),
        (ValueError, UnicodeError(), True),
        (ValueError, KeyError(), False),
        (Exception, ValueError(), True),
        (fake_class("openai.RateLimitError"), LIMIT, True),
        ("openai.RateLimitError", LIMIT, True),
        ("openai.APIError", LIMIT, True),
        ("openai.BadRequestError", LIMIT, False),
        ("*.RateLimitError", LIMIT, True),
        ("*.LimitError", LIMIT, False),
        ("ValueError", ValueError(), True),
        ("builtins.ValueError", ValueError(), True),
        ("litellm.RateLimitError", litellm_error("RateLimitError", "APIError", 429), True),
        ("litellm.exceptions.RateLimitError", litellm_error("RateLimitError", "APIError", 429), True),
        ("other.RateLimitError", litellm_error("RateLimitError", "APIError", 429), False),
        ("asyncio.TimeoutError", TimeoutError(), True),
        ("category:rate_limit", LIMIT, True),
        ("category:server", LIMIT, False),
        ("category:server", openai_error("InternalServerError", 503), True),
        ("category:overloaded", openai_error("InternalServerError", 500), False),
        ("status:429", LIMIT, True),
        ("status:4xx", LIMIT, True),
        ("status:5xx", LIMIT, False),
        ("status:5xx", fake("myapp.Error", response=response(599)), True),
        ("status:5xx", litellm_error("APIConnectionError", "APIConnectionError", 500), False),  # a made-up 500
        ("status:5xx", ValueError(), False),
        ("*", ValueError(), True),
        (["category:timeout", KeyError], KeyError(), True),
        (("category:timeout", KeyError), ValueError(), False),
        (transient, ValueError("again"), True),
        (transient, ValueError("never"), False),
        ("test_retry_rules:transient", ValueError("again"), True),
        # a cause, but not a context
        ("openai.RateLimitError", fake("myapp.Boom", cause=LIMIT), True),
        (transient, fake("myapp.Boom", cause=ValueError("again")), True),
        # limits: any rule for Exception means them, whatever an engine's class derives from
        (Exception, TimeLimit(), True),
        ("*", fake("dramatiq.middleware.time_limit.TimeLimitExceeded", base=BaseException), True),
        ("category:time_limit", fake("rq.timeouts.JobTimeoutException"), True),
        ("openai.APIConnectionError", fake("openai.APIConnectionError", cause=TimeLimit()), False),
    ],
)
def test_what_a_matcher_means(on: Any, exc: BaseException, expected: bool) -> None:
    assert matches(on, exc) is expected


@pytest.mark.parametrize("on", ["openai.RateLimitError", "*.RateLimitError", "status:429", "status:4xx"])
def test_a_rule_for_rate_limits_does_not_mean_a_spent_quota(on: str) -> None:
    quota = openai_error("RateLimitError", 429, body={"code": "insufficient_quota"})
    assert not matches(on, quota)
    assert matches("category:quota", quota)
    assert matches("openai.APIError", quota)
    assert matches(Exception, quota)


@pytest.mark.parametrize(
    ("on", "expected"),
    [("category:lost", True), (Lost, True), (Exception, False), ("*", False), (lambda e: True, False)],
)
def test_only_a_rule_that_names_a_crash_takes_it(on: Any, expected: bool) -> None:
    policy = RetryPolicy([RetryRule(on, Backoff.fixed(7))], max_attempts=9)
    decision = policy.decide(Lost(), RetryState(), now=0.0, u=0.0)
    assert isinstance(decision, Retry)
    assert decision.delay == (7 if expected else 0)


def test_a_predicate_that_raises_does_not_match_and_is_named() -> None:
    def broken(exc: BaseException) -> bool:
        raise KeyError("x")

    decision = RetryPolicy([RetryRule(broken)]).decide(ValueError(), RetryState(), now=0.0, u=0.0)
    assert isinstance(decision, Fail)
    assert "broken raised builtins.KeyError" in decision.reason


@pytest.mark.parametrize("on", ["nowhere.at.all:predicate", "test_retry_rules:missing", "test_retry_rules:LIMIT"])
def test_a_predicate_that_is_not_there_does_not_match_and_is_named(on: str) -> None:
    decision = RetryPolicy([RetryRule(on)]).decide(ValueError(), RetryState(), now=0.0, u=0.0)
    assert isinstance(decision, Fail)
    assert on in decision.reason


@pytest.mark.parametrize(
    ("on", "remedy"),
    [
        ("category:ratelimit", "Did you mean 'category:rate_limit'"),
        ("category:", "no such category"),
        ("rate_limit", "Did you mean 'category:rate_limit'"),
        ("categroy:rate_limit", "give an exception class"),
        ("status:5x", "status:5xx"),
        ("status:600", "status:429"),
        ("status:", "status:429"),
        ("5xx", "Did you mean 'status:5xx'"),
        ("openai:RateLimitError", "Did you mean 'openai.RateLimitError'"),
        ("RateLimitError", r"Did you mean '\*.RateLimitError'"),
        ("error:rate_limit", "Did you mean 'category:rate_limit'"),
        ("openai.*", "give an exception class"),
        ("*.", "give an exception class"),
        ("", "give an exception class"),
        ("a b", "give an exception class"),
        (int, "no exception class"),
        (7, "cannot match"),
        (None, "cannot match"),
        ([], "matches nothing"),
        (["category:timeout", 7], "cannot match"),
    ],
)
def test_a_matcher_that_means_nothing_is_refused(on: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        RetryRule(on)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"backoff": 30}, r"Backoff\(30\)"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"action": "retyr"}, "action"),
        ({"name": ""}, "name"),
        ({"honour_retry_after": 1}, "honour_retry_after"),
        ({"max_retry_after": -1}, "max_retry_after"),
    ],
)
def test_other_bad_values(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        RetryRule("*", **bad)


def test_a_class_and_its_name_make_equal_rules() -> None:
    assert RetryRule(fake_class("openai.RateLimitError")) == RetryRule("openai.RateLimitError")
    assert RetryRule([ValueError]) == RetryRule("builtins.ValueError")


def test_names_are_made_from_what_a_rule_matches() -> None:
    rules = [
        RetryRule("category:rate_limit"),
        RetryRule("category:rate_limit"),
        RetryRule(["openai.APITimeoutError", "status:5xx", "*.Odd", "*"]),
        RetryRule(lambda e: False),
        RetryRule(DoNotRetry, name="mine"),
    ]
    policy = RetryPolicy(rules, default=RetryRule("*"))
    assert policy.keys == (
        "rate_limit",
        "rate_limit-2",
        "APITimeoutError+status_5xx+Odd+1",
        "lambda",
        "mine",
        "default",
    )


def test_it_is_a_value_that_can_be_pickled() -> None:
    rule = RetryRule(["category:timeout", KeyError, "test_retry_rules:transient"], Backoff(3), name="x")
    assert pickle.loads(pickle.dumps(rule)) == rule
    policy = RetryPolicy([rule], default=RetryRule("*"))
    copy = pickle.loads(pickle.dumps(policy))
    assert copy == policy
    assert copy.decide(KeyError(), RetryState(), now=0.0, u=0.0) == policy.decide(
        KeyError(), RetryState(), now=0.0, u=0.0
    )
