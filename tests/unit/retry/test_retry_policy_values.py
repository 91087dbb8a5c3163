"""The rest: state, preset, plain values, previews, lowering, chance, records."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from retry_fakes import bedrock_error, openai_error

from queuekit.errors import ConfigError
from queuekit.retry import (
    Backoff,
    Category,
    ErrorInfo,
    Fail,
    Retry,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    RetryState,
    describe_error,
    uniform,
)

# ---- RetryState -----------------------------------------------------------------------------------------------------


def test_a_state_is_a_value() -> None:
    a, b = RetryState(3, {"x": 1, "y": 2}, 5.5), RetryState(3, {"y": 2, "x": 1}, 5.5)
    assert (a, hash(a)) == (b, hash(b))
    assert a != RetryState(3, {"x": 1}, 5.5)
    assert pickle.loads(pickle.dumps(a)) == a
    assert repr(a) == "RetryState(attempt=3, counts={'x': 1, 'y': 2}, first_failed_at=5.5)"
    with pytest.raises(TypeError):
        a.counts["x"] = 2  # type: ignore[index]
    given = {"x": 1}
    state = RetryState(1, given)
    given["x"] = 9
    assert state.counts == {"x": 1}


@pytest.mark.parametrize("state", [RetryState(), RetryState(7, {"a": 1, "retry_after": 3}, 1_700_000_000.123456)])
def test_a_state_survives_json(state: RetryState) -> None:
    assert RetryState.from_json(state.to_json()) == state
    assert RetryState.from_json(state.to_json().encode()) == state
    assert " " not in state.to_json()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"a":0,"c":{},"f":null}', '{"a":1,"c":{"x":-1},"f":null}', '{"a":1,"c":{},"f":"x"}'],
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        RetryState.from_json(text)


# ---- the preset ----------------------------------------------------------------------------------------------------


def test_the_preset() -> None:
    policy = RetryPolicy.for_llm()
    waits = {row.rule: (row.action, [low for low, _ in row.waits], row.max_attempts) for row in policy.preview().rows}
    assert waits == {
        **{
            name: ("fail", [], None)
            for name in ("auth", "quota", "bad_request", "context_length", "content_filter", "not_found")
        },
        "rate_limit": ("retry", [30, 60, 120, 240, 480, 960, 1800], 8),
        "overloaded": ("retry", [15, 30, 60, 120, 240, 480, 600], 8),
        "timeout": ("retry", [10, 20, 40, 80], 5),
        "conflict": ("retry", [10, 20, 40, 80], 5),
        "server": ("retry", [5] * 5, 6),
        "connection": ("retry", [5] * 5, 6),
        "bad_output": ("retry", [1] * 2, 3),
        "time_limit": ("retry", [5], 2),
    }
    assert (policy.max_attempts, policy.max_elapsed, policy.on_lost) == (12, 6 * 3600, "retry")


def row(policy: RetryPolicy, name: str) -> Any:
    return next(row for row in policy.preview().rows if row.rule == name)


def test_the_preset_can_be_overridden() -> None:
    policy = RetryPolicy.for_llm(
        max_attempts=4,
        max_elapsed=60,
        on_lost="fail",
        default=RetryRule("*"),
        rate_limit=Backoff(1),
        timeout=RetryRule("category:timeout", Backoff(2), max_attempts=9),
        auth=Backoff(3),
        server="fail",
        unknown=Backoff.fixed(4),
        rules=[RetryRule(KeyError, name="first")],
    )
    assert (policy.max_attempts, policy.max_elapsed, policy.on_lost) == (4, 60, "fail")
    assert policy.keys[0] == "first"
    assert policy.keys[-1] == "default"
    assert row(policy, "rate_limit").max_attempts == 8
    assert row(policy, "rate_limit").waits[0][0] == 1
    assert row(policy, "timeout").max_attempts == 9
    assert row(policy, "auth").action == "retry"
    assert row(policy, "server").action == "fail"
    assert row(policy, "unknown").on == ("category:unknown",)


def test_scale_multiplies_every_backoff_and_nothing_else() -> None:
    policy = RetryPolicy.for_llm(scale=1 / 20, timeout=Backoff(40))
    assert row(policy, "rate_limit").waits[0][0] == 1.5
    assert row(policy, "rate_limit").waits[-1][0] == 90
    assert row(policy, "timeout").waits[0][0] == 2
    assert policy.max_elapsed == 6 * 3600
    hinted = policy.decide(openai_error("RateLimitError", 429, {"retry-after": "20"}), RetryState(), now=0.0, u=0.0)
    assert isinstance(hinted, Retry)
    assert hinted.delay == 20


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"ratelimit": Backoff(1)}, "Did you mean 'rate_limit'"),
        ({"max_retries": 5}, r"max_attempts = max_retries \+ 1"),
        ({"max_attempt": 5}, "Did you mean 'max_attempts'"),
        ({"rate_limit": 30}, "give a Backoff, a RetryRule or 'fail'"),
        ({"scale": 0}, "scale"),
        ({"scale": "fast"}, "scale"),
        ({"rules": RetryRule("*")}, "give a list"),
    ],
)
def test_a_wrong_override_is_refused(bad: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        RetryPolicy.for_llm(**bad)


# ---- plain values --------------------------------------------------------------------------------------------------

POLICIES = [
    RetryPolicy(),
    RetryPolicy.for_llm(),
    RetryPolicy(
        [
            RetryRule([ValueError, "status:5xx"], Backoff(1, factor=3, cap=9, jitter="full"), max_attempts=2, name="n"),
            RetryRule("test_retry_rules:transient", honour_retry_after=False, max_retry_after=60),
            RetryRule("*", action="fail"),
        ],
        max_attempts=7,
        max_elapsed=99,
        default=RetryRule("*", Backoff.fixed(1)),
        on_lost="fail",
    ),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_survives_a_dict_and_json(policy: RetryPolicy) -> None:
    data = policy.to_dict()
    assert RetryPolicy.from_dict(data) == policy
    assert RetryPolicy.from_dict(json.loads(json.dumps(data))) == policy
    assert RetryPolicy.from_dict(data).keys == policy.keys


def test_a_function_cannot_be_written_down() -> None:
    def transient(exc: BaseException) -> bool:
        return True

    for predicate in (transient, lambda e: True):
        with pytest.raises(ConfigError, match="'module:function'"):
            RetryPolicy([RetryRule(predicate)]).to_dict()


def test_settings_may_name_the_preset() -> None:
    data = {
        "preset": "llm",
        "max_attempts": 4,
        "rate_limit": {"base": 1},
        "timeout": {"action": "fail"},
        "server": "fail",
    }
    policy = RetryPolicy.from_dict(data)
    assert policy == RetryPolicy.for_llm(
        max_attempts=4, rate_limit=Backoff(1), timeout=RetryRule("category:timeout", action="fail"), server="fail"
    )


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"max_retries": 5}, r"max_attempts = max_retries \+ 1"),
        ({"rule": []}, "Did you mean 'rules'"),
        ({"rules": [{"backoff": {"base": 1}}]}, "needs 'on'"),
        ({"rules": [{"on": "*", "backof": {"base": 1}}]}, "Did you mean 'backoff'"),
        ({"rules": [{"on": "*", "backoff": 5}]}, "a backoff is a table"),
        ({"rules": [{"on": "*", "backoff": {"bas": 5}}]}, "Did you mean 'base'"),
        ({"rules": [{"on": "*", "backoff": {"factor": 5}}]}, "needs 'base'"),
        ({"rules": ["*"]}, "a retry rule is a table"),
        ({"rules": 5}, "give a list"),
        ({"default": "*"}, "a retry rule is a table"),
        ({"preset": "gpt"}, "'llm'"),
        ([], "a retry policy is a table"),
    ],
)
def test_a_wrong_dict_is_refused(bad: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        RetryPolicy.from_dict(bad)


# ---- previews ------------------------------------------------------------------------------------------------------


def test_a_preview_reads_like_a_table() -> None:
    policy = RetryPolicy(
        [
            RetryRule("category:rate_limit", Backoff(30), max_attempts=4),
            RetryRule(["category:server", "*.Odd"], Backoff.fixed(5)),
            RetryRule("category:auth", action="fail"),
        ],
        max_attempts=6,
        max_elapsed=3600,
    )
    assert str(policy.preview()).splitlines() == [
        "rule        matches                 waits                                           ends the job",
        "----------  ----------------------  ----------------------------------------------  ----------------------",
        "rate_limit  category:rate_limit     30 s to 37.5 s, 60 s to 75 s, 2 min to 2.5 min  failure 4 of this kind",
        "server+Odd  category:server, *.Odd  5 s to 6.25 s each time                         -",
        "auth        category:auth           none                                            at once",
        "",
        "6 attempts in all, the first run included, within 60 min of the first failure.",
        "Anything else fails at once; a crashed attempt without a rule runs again at once.",
    ]


# ---- lowering ------------------------------------------------------------------------------------------------------

ARTICLE = RetryPolicy(
    [
        RetryRule("openai.RateLimitError", Backoff(30, cap=600)),
        RetryRule("category:timeout", Backoff(10)),
        RetryRule("category:auth", action="fail"),
        RetryRule("status:5xx", Backoff.fixed(5)),
    ],
    max_attempts=6,
)


def test_lowered_to_celery() -> None:
    lowered = ARTICLE.lower("celery")
    assert lowered.options == {
        "max_retries": 5,
        "acks_late": True,
        "retry_on_worker_lost": True,
        "autoretry_for": ("openai.RateLimitError", "openai.APITimeoutError"),
        "dont_autoretry_for": ("openai.AuthenticationError", "openai.PermissionDeniedError"),
        "retry_backoff": 30,
        "retry_backoff_max": 600,
        "retry_jitter": False,
    }
    assert "status:5xx is no class: dropped" in lowered.losses


def test_lowered_to_rq() -> None:
    assert ARTICLE.lower("rq").options == {"max": 5, "interval": [30, 60, 120, 240, 480]}
    assert RetryPolicy(max_attempts=1).lower("rq").options == {}
    long = RetryPolicy([RetryRule("*", Backoff(0.5))], max_attempts=500).lower("rq")
    assert (long.options["max"], len(long.options["interval"])) == (499, 100)
    assert "fractions of a second: rounded up" in long.losses


def test_lowered_to_dramatiq() -> None:
    assert ARTICLE.lower("dramatiq").options == {
        "max_retries": 5,
        "min_backoff": 30_000,
        "max_backoff": 1_200_000,
        "throws": ("openai.AuthenticationError", "openai.PermissionDeniedError"),
    }


@pytest.mark.parametrize("engine", ["celery", "rq", "dramatiq"])
@pytest.mark.parametrize(
    "policy", [RetryPolicy(), RetryPolicy([RetryRule("*", Backoff.fixed(3))], on_lost="fail"), *POLICIES]
)
def test_every_policy_can_be_lowered(engine: str, policy: RetryPolicy) -> None:
    lowered = policy.lower(engine)
    assert lowered.engine == engine
    assert lowered.losses
    assert len(set(lowered.losses)) == len(lowered.losses)
    assert str(lowered).startswith(engine)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'celery'"):
        RetryPolicy().lower("Cellery")


# ---- chance --------------------------------------------------------------------------------------------------------


def test_chance_is_the_same_everywhere() -> None:
    assert uniform("s", "job-1", 1) == 0.24760041090312035  # pinned: jobs under way hold delays made from it
    assert uniform(7, "job-1", 1) == uniform("7", "job-1", 1)


def test_chance_differs_with_each_part() -> None:
    drawn = {uniform(seed, job, attempt) for seed in (1, 2) for job in ("a", "b") for attempt in (1, 2)}
    assert len(drawn) == 8
    assert uniform("a", "b1", 1) != uniform("a", "b", 11)


def test_chance_is_even() -> None:
    drawn = [uniform(0, f"job-{i}", 1) for i in range(2000)]
    assert all(0 <= u < 1 for u in drawn)
    assert 0.47 < sum(drawn) / len(drawn) < 0.53


# ---- records -------------------------------------------------------------------------------------------------------


def test_a_plain_record_of_an_error() -> None:
    exc = openai_error("RateLimitError", 429, {"x-request-id": "req-1"})
    assert describe_error(exc) == ErrorInfo("openai.RateLimitError", "the message", 429, "req-1")
    assert describe_error(bedrock_error("ThrottlingException", 429)).request_id == "bed-1"
    assert describe_error(openai_error("APIError", request_id="req-2")).request_id == "req-2"
    assert describe_error(KeyError("x")) == ErrorInfo("builtins.KeyError", "'x'", None, None)


def test_a_record_of_an_error_that_cannot_be_read() -> None:
    class Broken(Exception):
        status_code = 500

        def __str__(self) -> str:
            raise ValueError

        @property
        def request_id(self) -> str:
            raise ValueError

        @property
        def response(self) -> object:
            return SimpleNamespace(headers=7)

    info = describe_error(Broken())
    assert info.message == "<its text cannot be read: builtins.ValueError>"
    assert (info.status, info.request_id) == (500, None)


def test_a_record_is_of_bounded_size() -> None:
    assert len(describe_error(ValueError("x" * 100_000)).message) == 8192


def test_retry_after_survives_pickle() -> None:
    exc = pickle.loads(pickle.dumps(RetryAfter(20, "not", "ready")))
    assert (exc.delay, str(exc)) == (20, "again after 20 s: not ready")


def test_decisions_are_values() -> None:
    state = RetryState()
    policy = RetryPolicy([RetryRule("*")])
    assert policy.decide(ValueError(), state, now=1.0, u=0.5) == policy.decide(ValueError(), state, now=1.0, u=0.5)
    assert hash(Fail("r", None, Category.unknown)) == hash(Fail("r", None, Category.unknown))
