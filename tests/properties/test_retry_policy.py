"""The laws of the retry policy."""

from __future__ import annotations

import asyncio
import json
import math
import tomllib
from types import SimpleNamespace
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from queuekit.errors import SoftTimeout, StaleAttempt
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
    classify,
)

EXAMPLES = settings(max_examples=100, deadline=None)
NOW = 1_700_000_000.0
PRESET = RetryPolicy.for_llm()

# ---- what can happen ------------------------------------------------------------------------------------------------


def sdk_class(*names: str) -> type[Exception]:
    cls: type[Exception] = Exception
    for name in reversed(names):
        module, _, simple = name.rpartition(".")
        cls = type(simple, (cls,), {"__module__": module, "__qualname__": simple})
    return cls


RateLimitError = sdk_class("openai.RateLimitError", "openai.APIStatusError", "openai.APIError")
AuthenticationError = sdk_class("openai.AuthenticationError", "openai.APIStatusError", "openai.APIError")
InternalServerError = sdk_class("openai.InternalServerError", "openai.APIStatusError", "openai.APIError")
APIConnectionError = sdk_class("openai.APIConnectionError", "openai.APIError")
APITimeoutError = sdk_class("openai.APITimeoutError", "openai.APIConnectionError", "openai.APIError")
CLASSES = [
    RateLimitError,
    AuthenticationError,
    InternalServerError,
    APIConnectionError,
    APITimeoutError,
    ValueError,
    KeyError,
]
STATUSES = {RateLimitError: 429, AuthenticationError: 401, InternalServerError: 500}


def raised(cls: type[Exception], *, hint: float | None = None, code: str | None = None) -> Exception:
    exc = cls("text")
    status = STATUSES.get(cls)
    if status is not None:
        headers = {} if hint is None else {"retry-after": f"{hint:.6f}"}
        exc.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]
        exc.body = None if code is None else {"code": code}  # type: ignore[attr-defined]
    return exc


us = st.floats(0, 1, exclude_max=True)
hints = st.none() | st.integers(0, 10**5).map(float)
plain_errors = st.builds(
    raised, st.sampled_from(CLASSES), hint=hints, code=st.sampled_from([None, "insufficient_quota", "odd"])
)
commands = st.builds(RetryAfter, st.floats(0, 1e6)) | st.builds(DoNotRetry)
own = st.builds(TimeLimit) | st.builds(Lost) | st.builds(TimeoutError) | st.builds(TypeError)
signals = st.sampled_from([asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, StaleAttempt])


def caused(pair: tuple[Exception, Exception]) -> Exception:
    exc, cause = pair
    exc.__cause__ = cause
    return exc


errors: st.SearchStrategy[Exception] = st.recursive(
    plain_errors | commands | own,
    lambda inner: (
        st.tuples(plain_errors, inner).map(caused)
        | st.lists(inner, min_size=1, max_size=3).map(lambda members: ExceptionGroup("group", members))
    ),
    max_leaves=6,
)
anything: st.SearchStrategy[BaseException] = errors | signals.map(lambda cls: cls()) | st.builds(SoftTimeout)

durations = st.floats(0, 1e6)
backoffs = st.builds(
    Backoff,
    durations,
    factor=st.floats(1, 100),
    cap=st.none() | durations,
    jitter=st.sampled_from(["none", "full", "equal", "spread"]),
)
matchers = st.sampled_from(
    [
        "category:rate_limit", "category:auth", "category:server", "category:quota", "category:time_limit", "category:lost",
        "category:unknown", "status:5xx", "status:429", "openai.RateLimitError", "openai.APIError", "*.APITimeoutError",
        "builtins.ValueError", "*",
    ]
)  # fmt: skip
rules = st.builds(
    RetryRule,
    st.lists(matchers, min_size=1, max_size=3),
    backoffs,
    max_attempts=st.none() | st.integers(1, 6),
    action=st.sampled_from(["retry", "retry", "retry", "fail"]),
    honour_retry_after=st.booleans(),
    max_retry_after=durations,
)
policies = st.builds(
    RetryPolicy,
    st.lists(rules, max_size=4),
    max_attempts=st.integers(1, 8),
    max_elapsed=st.none() | st.floats(1, 1e6),
    default=st.none() | rules,
    on_lost=st.sampled_from(["retry", "fail"]),
)


@st.composite
def states(draw: st.DrawFn, policy: RetryPolicy) -> RetryState:
    attempt = draw(st.integers(1, policy.max_attempts + 1))
    if attempt == 1:
        return RetryState()
    names = [*policy.keys, "retry_after", "lost"]
    counts = draw(st.dictionaries(st.sampled_from(names), st.integers(0, 5), max_size=3))
    return RetryState(attempt, counts, NOW - draw(st.floats(0, 1e6)))


@st.composite
def cases(draw: st.DrawFn, policy: st.SearchStrategy[RetryPolicy] = policies) -> tuple[RetryPolicy, RetryState]:
    chosen = draw(policy)
    return chosen, draw(states(chosen))


def decide(
    policy: RetryPolicy, exc: BaseException, state: RetryState, u: float = 0.5, deadline: float | None = None
) -> Decision:
    return policy.decide(exc, state, now=NOW, deadline=deadline, u=u)


# ---- the laws ------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(cases(), anything, us, st.none() | st.floats(NOW - 10, NOW + 1e6))
def test_total_and_deterministic(
    case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float, deadline: float | None
) -> None:
    policy, state = case
    first = decide(policy, exc, state, u, deadline)
    assert isinstance(first, (Retry, Fail, Pass))
    assert decide(policy, exc, state, u, deadline) == first


@EXAMPLES
@given(cases(), anything, us)
def test_a_delay_is_finite_and_not_negative(case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float) -> None:
    policy, state = case
    decision = decide(policy, exc, state, u)
    if isinstance(decision, Retry):
        assert 0 <= decision.delay < math.inf


@EXAMPLES
@given(cases(), st.sampled_from(CLASSES), us)
def test_a_delay_without_a_hint_is_within_its_bounds(
    case: tuple[RetryPolicy, RetryState], cls: type[Exception], u: float
) -> None:
    policy, state = case
    decision = decide(policy, raised(cls), state, u)
    if isinstance(decision, Retry):
        rule = dict(zip(policy.keys, [*policy.rules, policy.default], strict=False))[decision.rule]
        assert rule is not None
        low, high = rule.backoff.bounds(state.counts.get(decision.rule, 0) + 1)
        assert low <= decision.delay <= high


@EXAMPLES
@given(backoffs, st.integers(1, 100), us, us)
def test_delays_are_monotone_in_u(backoff: Backoff, n: int, u: float, v: float) -> None:
    low, high = min(u, v), max(u, v)
    assert backoff.bounds(n)[0] <= backoff.delay(n, low) <= backoff.delay(n, high) <= backoff.bounds(n)[1]


@EXAMPLES
@given(cases(), anything, us, us)
def test_decided_delays_are_monotone_in_u(
    case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float, v: float
) -> None:
    policy, state = case
    low, high = decide(policy, exc, state, min(u, v)), decide(policy, exc, state, max(u, v))
    if isinstance(low, Retry) and isinstance(high, Retry):
        assert low.delay <= high.delay


@EXAMPLES
@given(policies, st.lists(anything, min_size=1, max_size=10), us)
def test_every_job_ends_within_max_attempts(policy: RetryPolicy, raises: list[BaseException], u: float) -> None:
    state = RetryState()
    for number in range(1, policy.max_attempts + 1):
        decision = decide(policy, raises[number % len(raises)], state, u)
        if not isinstance(decision, Retry):
            return
        state = decision.state
        assert state.attempt == number + 1
    raise AssertionError("it would run for ever")


@EXAMPLES
@given(cases(), anything, us)
def test_a_retry_makes_one_count_grow(case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float) -> None:
    policy, state = case
    decision = decide(policy, exc, state, u)
    if isinstance(decision, Retry):
        grown = {**state.counts, decision.rule: state.counts.get(decision.rule, 0) + 1}
        assert decision.state.counts == grown
        assert decision.state.attempt == state.attempt + 1
        assert decision.state.first_failed_at == (NOW if state.first_failed_at is None else state.first_failed_at)


@EXAMPLES
@given(cases(), anything, us, st.none() | st.floats(NOW - 10, NOW + 1e6))
def test_no_retry_starts_past_the_limits_of_the_job(
    case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float, deadline: float | None
) -> None:
    policy, state = case
    decision = decide(policy, exc, state, u, deadline)
    if isinstance(decision, Retry):
        assert state.attempt < policy.max_attempts
        first = NOW if state.first_failed_at is None else state.first_failed_at
        assert policy.max_elapsed is None or NOW - first + decision.delay <= policy.max_elapsed
        assert deadline is None or NOW + decision.delay < deadline


def toml(value: Any) -> str:
    """A value as TOML; the inline form, which is JSON but for the tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    return json.dumps(value)


@EXAMPLES
@given(cases(), anything, us)
def test_plain_values_decide_alike(case: tuple[RetryPolicy, RetryState], exc: BaseException, u: float) -> None:
    policy, state = case
    data = policy.to_dict()
    expected = decide(policy, exc, state, u)
    for read in (data, json.loads(json.dumps(data)), tomllib.loads(f"policy = {toml(data)}")["policy"]):
        assert decide(RetryPolicy.from_dict(read), exc, RetryState.from_json(state.to_json()), u) == expected


@EXAMPLES
@given(st.sampled_from(CLASSES), errors, us)
def test_a_class_and_its_name_match_alike(cls: type[Exception], exc: Exception, u: float) -> None:
    by_class = RetryPolicy([RetryRule(cls)])
    by_name = RetryPolicy([RetryRule(f"{cls.__module__}.{cls.__qualname__}")])
    assert by_class.decide(exc, RetryState(), now=NOW, u=u) == by_name.decide(exc, RetryState(), now=NOW, u=u)


@EXAMPLES
@given(cases(), plain_errors, us)
def test_rules_after_the_one_that_matched_change_nothing(
    case: tuple[RetryPolicy, RetryState], exc: Exception, u: float
) -> None:
    policy, state = case
    decision = decide(policy, exc, state, u)
    name = getattr(decision, "rule", None)
    assume(name in policy.keys[: len(policy.rules)])
    shorter = RetryPolicy(
        policy.rules[: policy.keys.index(name) + 1],
        max_attempts=policy.max_attempts,
        max_elapsed=policy.max_elapsed,
        on_lost=policy.on_lost,
    )
    assert decide(shorter, exc, state, u) == decision


hard_errors = st.sampled_from([(AuthenticationError, None), (RateLimitError, "insufficient_quota")]).map(
    lambda pair: raised(pair[0], code=pair[1])
)
wrapped_hard = st.recursive(
    hard_errors,
    lambda inner: (
        st.tuples(st.sampled_from(CLASSES).map(raised), inner).map(caused)
        | st.tuples(inner, st.lists(plain_errors, max_size=2)).map(
            lambda pair: ExceptionGroup("g", [pair[0], *pair[1]])
        )
        | st.tuples(inner, st.lists(plain_errors, max_size=2)).map(
            lambda pair: ExceptionGroup("g", [*pair[1], pair[0]])
        )
    ),
    max_leaves=4,
)


@EXAMPLES
@given(wrapped_hard, us)
def test_the_preset_never_retries_auth_and_quota_whatever_wraps_them(exc: Exception, u: float) -> None:
    assert isinstance(PRESET.decide(exc, RetryState(), now=NOW, u=u), Fail)


@EXAMPLES
@given(cases(), signals, st.lists(plain_errors, max_size=2))
def test_control_flow_passes(
    case: tuple[RetryPolicy, RetryState], signal: type[BaseException], others: list[Exception]
) -> None:
    policy, state = case
    assert isinstance(decide(policy, signal(), state), Pass)
    assert isinstance(decide(policy, BaseExceptionGroup("g", [*others, signal()]), state), Pass)


Fallback = type("FallbackExceptionGroup", (ExceptionGroup,), {"__module__": "pydantic_ai.exceptions"})


@EXAMPLES
@given(cases(), st.lists(plain_errors | commands, min_size=1, max_size=4), us)
def test_the_law_of_groups(case: tuple[RetryPolicy, RetryState], members: list[Exception], u: float) -> None:
    policy, state = case
    alone = [decide(policy, member, state, u) for member in members]
    waits = [decision.delay for decision in alone if isinstance(decision, Retry)]

    together = decide(policy, ExceptionGroup("g", members), state, u)
    if len(waits) == len(members):
        assert isinstance(together, Retry)
        assert together.delay == max(waits)
    else:
        assert isinstance(together, Fail)

    either = decide(policy, Fallback("g", members), state, u)
    if waits:
        assert isinstance(either, Retry)
        assert either.delay == min(waits)
    else:
        assert isinstance(either, Fail)


@EXAMPLES
@given(backoffs, st.integers(0, 10**5), st.integers(1, 7), us)
@example(Backoff(30), 20, 1, 0.0)
def test_a_hint_is_a_floor(backoff: Backoff, hint: int, n: int, u: float) -> None:
    policy = RetryPolicy([RetryRule("category:rate_limit", backoff, max_retry_after=10**5)], max_attempts=99)
    state = RetryState() if n == 1 else RetryState(n, {"rate_limit": n - 1}, NOW)
    decision = decide(policy, raised(RateLimitError, hint=float(hint)), state, u)
    assert isinstance(decision, Retry)
    assert decision.delay >= hint
    assert decision.delay >= backoff.bounds(n)[0]


@EXAMPLES
@given(cases(), st.lists(plain_errors, min_size=1, max_size=4), st.integers(0, 3), us)
def test_circles_of_causes_are_safe(
    case: tuple[RetryPolicy, RetryState], chain: list[Exception], back: int, u: float
) -> None:
    policy, state = case
    for one, cause in zip(chain, [*chain[1:], chain[back % len(chain)]], strict=True):
        one.__cause__ = cause
    assert isinstance(decide(policy, chain[0], state, u), (Retry, Fail))
    assert isinstance(decide(policy, ExceptionGroup("g", chain), state, u), (Retry, Fail))
    assert classify(chain[0]).category in Category


@EXAMPLES
@given(cases(), plain_errors, anything, us)
def test_the_context_is_ignored(
    case: tuple[RetryPolicy, RetryState], exc: Exception, context: BaseException, u: float
) -> None:
    policy, state = case
    before = decide(policy, exc, state, u)
    exc.__context__ = context
    assert decide(policy, exc, state, u) == before


@EXAMPLES
@given(backoffs, us)
def test_a_million_failures_do_not_overflow(backoff: Backoff, u: float) -> None:
    assert 0 <= backoff.delay(10**6, u) < math.inf
    policy = RetryPolicy([RetryRule("*", backoff)], max_attempts=10**7)
    decision = decide(policy, ValueError(), RetryState(10**6, {"any": 10**6 - 1}, NOW), u)
    assert isinstance(decision, Retry)
    assert NOW + decision.delay < 253_402_300_800  # still a date
