"""When a failed job runs again: a pure model.

    policy = RetryPolicy([RetryRule("category:rate_limit", Backoff(30))], max_attempts=6)
    policy.decide(exc, state, now=..., u=...)      -> Retry | Fail | Pass

An error is classified (classify) by what it is called, the status and the body that it carries, and its causes;
the first rule that means it says how long to wait (Backoff) and how often. Time and chance come in as arguments.
"""

from __future__ import annotations

from queuekit.retry.backoff import Backoff
from queuekit.retry.category import Category
from queuekit.retry.classify import Classification, classify
from queuekit.retry.decisions import (
    Decision,
    DoNotRetry,
    Fail,
    Lost,
    Pass,
    Retry,
    RetryAfter,
    RetryState,
    TimeLimit,
)
from queuekit.retry.describe import ErrorInfo, describe_error
from queuekit.retry.policy import RetryPolicy
from queuekit.retry.rules import RetryRule
from queuekit.retry.uniform import uniform

__all__ = [
    "Backoff",
    "Category",
    "Classification",
    "Decision",
    "DoNotRetry",
    "ErrorInfo",
    "Fail",
    "Lost",
    "Pass",
    "Retry",
    "RetryAfter",
    "RetryPolicy",
    "RetryRule",
    "RetryState",
    "TimeLimit",
    "classify",
    "describe_error",
    "uniform",
]
