"""decide(): order, limits, groups, and what a task can say itself."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from retry_fakes import fake, openai_error

from queuekit.errors import ConfigError, SoftTimeout, StaleAttempt
from queuekit.retry import (
    Backoff,
    Category,
    Decision,
    DoNotRetry,
    Fail,
    Lost,
    Pass,
    Retry,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    RetryState,
    TimeLimit,
)

NOW = 1_700_000_000.0
LIMIT = openai_error("RateLimitError", 429)
TIMEOUT = openai_error("APITimeoutError")
AUTH = openai_error("AuthenticationError", 401)
QUOTA = openai_error("RateLimitError", 429, code="insufficient_quota")

ARTICLE = RetryPolicy(
    [
        RetryRule("category:rate_limit", Backoff(30)),
        RetryRule("category:timeout", Backoff(10)),
        RetryRule("category:server", Backoff.fixed(5)),
        RetryRule("category:auth", action="fail"),
    ],
    max_attempts=6,
)


def decide(policy: RetryPolicy, exc: BaseException, state: RetryState | None = None, **more: Any) -> Decision:
    return policy.decide(exc, state or RetryState(), **{"now": NOW, "u": 0.0, **more})


def delays(policy: RetryPolicy, exc: BaseException) -> list[float]:
    found, state = [], RetryState()
    while isinstance(decision := decide(policy, exc, state), Retry):
        found.append(decision.delay)
        state = decision.state
    return found


# ---- the plain way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (LIMIT, [30, 60, 120, 240, 480]),
        (TIMEOUT, [10, 20, 40, 80, 160]),
        (openai_error("InternalServerError", 500), [5, 5, 5, 5, 5]),
        (openai_error("InternalServerError", 503), [5, 5, 5, 5, 5]),
        (AUTH, []),
        (QUOTA, []),
        (TypeError(), []),
    ],
)
def test_each_kind_waits_in_its_own_way(exc: BaseException, expected: list[float]) -> None:
    assert delays(ARTICLE, exc) == expected


def test_a_retry_says_everything() -> None:
    exc = openai_error("RateLimitError", 429, {"retry-after": "20"})
    first = decide(ARTICLE, exc)
    assert first == Retry(
        delay=30.0,
        reason="rate_limit: openai.RateLimitError (429), Retry-After 20 s; retry 1 of 5 in 30.0 s",
        rule="rate_limit",
        category=Category.rate_limit,
        state=RetryState(2, {"rate_limit": 1}, NOW),
    )
    assert isinstance(first, Retry)
    second = decide(ARTICLE, exc, first.state, now=NOW + 40)
    assert isinstance(second, Retry)
    assert second.state == RetryState(3, {"rate_limit": 2}, NOW)


def test_a_fail_says_everything() -> None:
    assert decide(ARTICLE, AUTH) == Fail(
        "auth: openai.AuthenticationError (401); rule 'auth' does not retry", "auth", Category.auth
    )
    assert decide(ARTICLE, TypeError()) == Fail("unknown: builtins.TypeError; no rule matches", None, Category.unknown)


def test_kinds_are_counted_apart_and_attempts_together() -> None:
    state = RetryState()
    waits = []
    for exc in (LIMIT, TIMEOUT, LIMIT, TIMEOUT, LIMIT):
        decision = decide(ARTICLE, exc, state)
        assert isinstance(decision, Retry)
        waits.append(decision.delay)
        state = decision.state
    assert waits == [30, 10, 60, 20, 120]
    last = decide(ARTICLE, LIMIT, state)
    assert isinstance(last, Fail)
    assert "attempt 6 of 6 was the last" in last.reason


def test_the_limit_of_a_rule_counts_its_own_failures() -> None:
    policy = RetryPolicy([RetryRule(ValueError, max_attempts=3), RetryRule(KeyError)], max_attempts=10)
    assert len(delays(policy, ValueError())) == 2
    state = RetryState(6, {"KeyError": 5}, NOW)
    assert isinstance(decide(policy, ValueError(), state), Retry)
    assert isinstance(decide(policy, ValueError(), RetryState(8, {"ValueError": 2}, NOW)), Fail)


def test_one_attempt_means_no_retry() -> None:
    assert delays(RetryPolicy([RetryRule("*")], max_attempts=1), ValueError()) == []
    assert delays(RetryPolicy([RetryRule("*", max_attempts=1)]), ValueError()) == []


def test_the_first_match_wins() -> None:
    policy = RetryPolicy([RetryRule(UnicodeError, Backoff.fixed(1)), RetryRule(ValueError, Backoff.fixed(2))])
    assert delays(policy, UnicodeError()) == [1, 1]
    assert delays(policy, ValueError()) == [2, 2]


def test_the_default_takes_what_no_rule_matches() -> None:
    policy = RetryPolicy([RetryRule(KeyError, action="fail")], default=RetryRule("*", Backoff.fixed(3)))
    assert delays(policy, ValueError()) == [3, 3]
    assert delays(policy, KeyError()) == []
    decision = decide(policy, ValueError())
    assert isinstance(decision, Retry)
    assert decision.rule == "default"


def test_rules_after_the_one_that_matched_change_nothing() -> None:
    wrapped = fake("myapp.Boom", cause=AUTH)
    policy = RetryPolicy([RetryRule("category:auth", action="fail"), RetryRule(Exception, Backoff(5))])
    assert delays(policy, wrapped) == []


# ---- the whole job's limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("elapsed", "allowed"), [(0, True), (70, True), (70.5, False), (1e6, False), (-50, True)])
def test_max_elapsed_counts_from_the_first_failure_and_includes_the_wait(elapsed: float, allowed: bool) -> None:
    policy = RetryPolicy([RetryRule("*", Backoff.fixed(30))], max_elapsed=100)
    decision = decide(policy, ValueError(), RetryState(2, {"any": 1}, NOW), now=NOW + elapsed)
    assert isinstance(decision, Retry) is allowed


def test_a_clock_that_went_back_does_not_lengthen_max_elapsed() -> None:
    policy = RetryPolicy([RetryRule("*", Backoff.fixed(30))], max_elapsed=20)
    assert isinstance(decide(policy, ValueError(), RetryState(2, {"any": 1}, NOW + 50)), Fail)


def test_a_first_wait_can_be_too_long_already() -> None:
    decision = decide(RetryPolicy([RetryRule("*", Backoff(30))], max_elapsed=20), ValueError())
    assert isinstance(decision, Fail)
    assert "max_elapsed" in decision.reason


@pytest.mark.parametrize(("deadline", "allowed"), [(NOW + 30.5, True), (NOW + 30, False), (NOW - 5, False)])
def test_an_attempt_starts_before_the_deadline(deadline: float, allowed: bool) -> None:
    decision = decide(RetryPolicy([RetryRule("*", Backoff.fixed(30))]), ValueError(), deadline=deadline)
    assert isinstance(decision, Retry) is allowed


# ---- hints ---------------------------------------------------------------------------------------------------------


def hinted(seconds: float) -> Any:
    return openai_error("RateLimitError", 429, {"retry-after": str(seconds)})


def test_a_hint_is_a_floor() -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", Backoff(30, jitter="none"))])
    assert decide(policy, hinted(120), u=0.9).delay == 120  # type: ignore[union-attr]
    assert decide(policy, hinted(7), u=0.9).delay == 30  # type: ignore[union-attr]


@pytest.mark.parametrize("jitter", ["full", "equal", "spread"])
def test_jobs_that_are_told_the_same_moment_do_not_return_as_one(jitter: Any) -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", Backoff(30, jitter=jitter))])
    waits = [decide(policy, hinted(120), u=u / 10).delay for u in range(10)]  # type: ignore[union-attr]
    assert waits == sorted(set(waits))
    assert waits[0] == 120
    assert waits[-1] < 132


def test_a_hint_that_is_too_long_fails() -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", max_retry_after=60)])
    assert isinstance(decide(policy, hinted(60)), Retry)
    decision = decide(policy, hinted(61))
    assert isinstance(decision, Fail)
    assert "61 s, longer than the 60 s" in decision.reason
    assert isinstance(decide(ARTICLE, hinted(6 * 3600 + 1)), Fail)


def test_a_hint_counts_against_the_limits_of_the_job() -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", Backoff(1))], max_elapsed=100)
    assert isinstance(decide(policy, hinted(99)), Retry)
    assert isinstance(decide(policy, hinted(101)), Fail)
    assert isinstance(decide(policy, hinted(99), deadline=NOW + 50), Fail)


def test_a_hint_can_be_ignored() -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", Backoff(1), honour_retry_after=False, max_retry_after=5)])
    assert decide(policy, hinted(3600)).delay == 1  # type: ignore[union-attr]


# ---- what a task says itself ---------------------------------------------------------------------------------------


def test_retry_after_needs_no_rule_and_counts_as_an_attempt() -> None:
    first = decide(RetryPolicy(), RetryAfter(20, "not ready"))
    assert isinstance(first, Retry)
    assert (first.delay, first.rule, first.state) == (20, "retry_after", RetryState(2, {"retry_after": 1}, NOW))
    assert delays(RetryPolicy(), RetryAfter(20)) == [20, 20]
    assert isinstance(decide(RetryPolicy(max_elapsed=10), RetryAfter(20)), Fail)
    assert isinstance(decide(RetryPolicy(), RetryAfter(20), deadline=NOW + 20), Fail)


def test_retry_after_keeps_the_category_of_its_cause() -> None:
    exc = RetryAfter(5)
    exc.__cause__ = LIMIT
    assert decide(ARTICLE, exc).category is Category.rate_limit  # type: ignore[union-attr]


def test_do_not_retry_beats_every_rule() -> None:
    policy = RetryPolicy([RetryRule("*")])
    assert delays(policy, DoNotRetry("enough")) == []
    assert delays(policy, fake("framework.ToolError", cause=DoNotRetry())) == []


@pytest.mark.parametrize("limit", [SoftTimeout(), TimeLimit()])
def test_a_task_that_handles_its_limit_decides(limit: BaseException) -> None:
    said: Exception = DoNotRetry()
    said.__cause__ = limit
    assert delays(RetryPolicy.for_llm(), said) == []
    said = RetryAfter(9)
    said.__cause__ = limit
    assert decide(RetryPolicy(), said).delay == 9  # type: ignore[union-attr]


def test_a_subclass_that_forgot_its_delay() -> None:
    class Odd(RetryAfter):
        def __init__(self) -> None:
            pass

    assert decide(RetryPolicy(), Odd()).delay == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "5", None])
def test_retry_after_checks_its_delay(bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"RetryAfter\(delay\)"):
        RetryAfter(bad)


# ---- limits and crashes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit",
    [
        SoftTimeout(),
        TimeLimit(),
        fake("billiard.exceptions.SoftTimeLimitExceeded"),
        fake("rq.timeouts.JobTimeoutException"),
        fake("dramatiq.middleware.time_limit.TimeLimitExceeded", "dramatiq.threading.Interrupt", base=BaseException),
    ],
)
def test_a_time_limit_is_the_same_on_every_engine(limit: BaseException) -> None:
    swallowed = fake("openai.APIConnectionError", cause=limit)
    grouped = BaseExceptionGroup("tasks", [KeyError(), swallowed])
    for exc in (limit, swallowed, grouped):
        assert delays(RetryPolicy.for_llm(), exc) == [5]
        decision = decide(ARTICLE, exc)
        assert isinstance(decision, Fail)
        assert decision.category is Category.time_limit


def test_a_crash_needs_no_rule_and_runs_again_at_once() -> None:
    assert delays(RetryPolicy(), Lost()) == [0, 0]
    decision = decide(RetryPolicy(), Lost())
    assert isinstance(decision, Retry)
    assert (decision.rule, decision.category) == ("lost", Category.lost)
    assert delays(RetryPolicy.for_llm(), Lost()) == [0] * 11


def test_crashes_can_fail() -> None:
    decision = decide(RetryPolicy([RetryRule(Exception)], on_lost="fail"), Lost())
    assert isinstance(decision, Fail)
    assert decision.category is Category.lost
    ruled = RetryPolicy([RetryRule("category:lost", Backoff.fixed(9), max_attempts=2)], on_lost="fail")
    assert delays(ruled, Lost()) == [9]


# ---- control flow --------------------------------------------------------------------------------------------------

SIGNALS = [
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    SystemExit(1),
    GeneratorExit(),
    StaleAttempt(),
    fake("celery.exceptions.Retry", "celery.exceptions.TaskPredicate"),
    fake("celery.exceptions.Ignore", "celery.exceptions.TaskPredicate"),
    fake("celery.exceptions.Reject", "celery.exceptions.TaskPredicate"),
    fake("celery.exceptions.WorkerShutdown", base=SystemExit),
    fake("dramatiq.errors.Retry", "dramatiq.errors.DramatiqError"),
    fake("dramatiq.middleware.middleware.SkipMessage"),
    fake("dramatiq.middleware.shutdown.Shutdown", "dramatiq.threading.Interrupt", base=BaseException),
    fake("rq.exceptions.ShutDownImminentException", base=BaseException),
]


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda e: type(e).__qualname__)
def test_control_flow_passes_through(signal: BaseException) -> None:
    policy = RetryPolicy([RetryRule(["*", BaseException])], default=RetryRule("*"))
    assert isinstance(decide(policy, signal), Pass)
    assert isinstance(decide(policy, BaseExceptionGroup("g", [AUTH, signal])), Pass)


def test_a_timeout_made_of_a_cancellation_is_a_timeout() -> None:
    exc = TimeoutError()
    exc.__cause__ = asyncio.CancelledError()
    assert delays(ARTICLE, exc)[:1] == [10]


# ---- groups --------------------------------------------------------------------------------------------------------


def fallback(*members: Exception) -> Exception:
    cls = type("FallbackExceptionGroup", (ExceptionGroup,), {"__module__": "pydantic_ai.exceptions"})
    made: Exception = cls("all models failed", list(members))
    return made


def test_any_member_that_must_fail_fails_a_group() -> None:
    for member in (AUTH, QUOTA, TypeError(), DoNotRetry()):
        decision = decide(ARTICLE, ExceptionGroup("g", [LIMIT, member, TIMEOUT]))
        assert isinstance(decision, Fail)
        assert "of 3 errors in builtins.ExceptionGroup" in decision.reason


def test_a_group_waits_for_the_longest_and_counts_that_rule() -> None:
    decision = decide(ARTICLE, ExceptionGroup("g", [TIMEOUT, ExceptionGroup("h", [LIMIT]), TIMEOUT]))
    assert isinstance(decision, Retry)
    assert (decision.delay, decision.state.counts) == (30, {"rate_limit": 1})
    decision = decide(ARTICLE, ExceptionGroup("g", [TIMEOUT, RetryAfter(99)]))
    assert isinstance(decision, Retry)
    assert (decision.delay, decision.rule) == (99, "retry_after")


def test_of_alternatives_one_is_enough_and_the_shortest_wait_will_do() -> None:
    decision = decide(ARTICLE, fallback(AUTH, LIMIT, TIMEOUT))
    assert isinstance(decision, Retry)
    assert (decision.delay, decision.rule) == (10, "timeout")
    assert isinstance(decide(ARTICLE, fallback(AUTH, QUOTA)), Fail)
    assert isinstance(decide(ARTICLE, ExceptionGroup("g", [fallback(AUTH, LIMIT), TIMEOUT])), Retry)


def test_a_group_as_a_cause() -> None:
    assert delays(ARTICLE, fake("myapp.Boom", cause=ExceptionGroup("g", [LIMIT, TIMEOUT])))[0] == 30
    assert delays(ARTICLE, fake("openai.APIConnectionError", cause=ExceptionGroup("g", [AUTH]))) == []
    assert delays(ARTICLE, fake("openai.RateLimitError", cause=ExceptionGroup("g", [TypeError(), AUTH]))) == []
    broad = RetryPolicy([RetryRule("category:auth", action="fail"), RetryRule(Exception)])
    assert delays(broad, fake("myapp.Boom", cause=ExceptionGroup("g", [AUTH]))) == []
    named = RetryPolicy([RetryRule("myapp.Boom", Backoff.fixed(4))])
    assert delays(named, fake("myapp.Boom", cause=ExceptionGroup("g", [TypeError()]))) == [4, 4]


def test_a_group_is_judged_by_its_members_and_not_by_its_class() -> None:
    assert delays(RetryPolicy([RetryRule(ExceptionGroup)]), ExceptionGroup("g", [TypeError()])) == []


# ---- nothing raises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [-1.0, 1.0, 7.0, math.nan, math.inf, -math.inf])
def test_a_u_out_of_range_stays_within_the_bounds(u: float) -> None:
    low, high = Backoff(30).bounds(1)
    assert low <= decide(ARTICLE, LIMIT, u=u).delay <= high  # type: ignore[union-attr]


def test_what_cannot_be_judged_fails() -> None:
    class Hostile(Exception):
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(name)

    assert isinstance(decide(ARTICLE, Hostile()), Fail)
    assert isinstance(ARTICLE.decide(ValueError(), None, now=NOW, u=0.0), Fail)  # type: ignore[arg-type]
    group = ExceptionGroup("g", [TypeError()])
    for _ in range(2000):
        group = ExceptionGroup("g", [group])
    assert isinstance(decide(ARTICLE, group), Fail)


def test_a_group_whose_members_cannot_be_read() -> None:
    class Odd(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> Any:
            raise RuntimeError

    assert isinstance(decide(ARTICLE, Odd("g", [LIMIT])), Fail)


# ---- declarations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"rules": RetryRule("*")}, "give a list of RetryRule"),
        ({"rules": "category:timeout"}, "give a list of RetryRule"),
        ({"rules": ["category:timeout"]}, r"RetryRule\('category:timeout'"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 2.0}, "max_attempts"),
        ({"max_elapsed": 0}, "max_elapsed"),
        ({"default": Backoff(1)}, "default"),
        ({"on_lost": "ignore"}, "on_lost"),
        ({"rules": [RetryRule("*", name="a"), RetryRule("*", name="a")]}, "names two rules"),
        ({"rules": [RetryRule("*", name="retry_after")]}, "RetryAfter"),
        ({"rules": [RetryRule("*", name="a")], "default": RetryRule("*", name="a")}, "names two rules"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(bad: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        RetryPolicy(**bad)
