"""Policies that are ready to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from queuekit.errors import ConfigError
from queuekit.retry.backoff import Backoff
from queuekit.retry.category import Category
from queuekit.retry.rules import RetryRule, did_you_mean

__all__ = ["PRESETS", "llm"]


def _rule(category: Category, backoff: Backoff, max_attempts: int) -> RetryRule:
    return RetryRule(f"category:{category}", backoff, max_attempts=max_attempts, name=str(category))


def _never(category: Category) -> RetryRule:
    return RetryRule(f"category:{category}", action="fail", name=str(category))


_LLM_RULES = (
    _never(Category.auth),
    _never(Category.quota),
    _never(Category.bad_request),
    _never(Category.context_length),
    _never(Category.content_filter),
    _never(Category.not_found),
    _rule(Category.rate_limit, Backoff(30, cap=1800), 8),
    _rule(Category.overloaded, Backoff(15, cap=600), 8),
    _rule(Category.timeout, Backoff(10, cap=600), 5),
    _rule(Category.conflict, Backoff(10, cap=600), 5),
    _rule(Category.server, Backoff.fixed(5), 6),
    _rule(Category.connection, Backoff.fixed(5), 6),
    _rule(Category.bad_output, Backoff.fixed(1), 3),
    _rule(Category.time_limit, Backoff.fixed(5), 2),  # once more: a second one will not be faster either
)
_LLM = {"max_attempts": 12, "max_elapsed": 6 * 3600.0}

_POLICY = ("max_attempts", "max_elapsed", "default", "on_lost")
_KNOWN = (*_POLICY, "rules", "scale", *Category)


def llm(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """RetryPolicy's keywords for the preset with its overrides: see RetryPolicy.for_llm().

    Raises:
        ConfigError: an unknown override, or a bad value.
    """
    from queuekit.retry.policy import RetryPolicy

    for name in overrides:
        if name not in _KNOWN:
            raise ConfigError(f"for_llm({name}=...) is unknown.{_suggest(name)} Known: {', '.join(_KNOWN)}")
    first = overrides.get("rules", ())
    if isinstance(first, RetryRule) or not isinstance(first, Sequence):
        raise ConfigError(f"for_llm(rules={first!r}): give a list of RetryRule")
    rules: list[RetryRule] = list(first)
    preset = {str(rule.name): rule for rule in _LLM_RULES}
    for name, rule in preset.items():
        rules.append(_overridden(name, rule, overrides[name]) if name in overrides else rule)
    rules.extend(
        _overridden(category, _rule(category, Backoff(10), 3), overrides[category])
        for category in Category
        if category in overrides and category not in preset
    )
    policy = RetryPolicy(rules, **{**_LLM, **{name: overrides[name] for name in _POLICY if name in overrides}})
    if "scale" in overrides:
        policy = policy.scaled(overrides["scale"])
    return {"rules": policy.rules, **{name: getattr(policy, name) for name in _POLICY}}


def _overridden(name: str, rule: RetryRule, value: object) -> RetryRule:
    if isinstance(value, RetryRule):
        return replace(value, name=name) if value.name is None else value
    if isinstance(value, Backoff):
        return replace(rule, backoff=value, action="retry")
    if value == "fail":
        return replace(rule, action="fail", max_attempts=None)
    raise ConfigError(f"for_llm({name}={value!r}): give a Backoff, a RetryRule or 'fail'")


def _suggest(name: str) -> str:
    if name in ("max_retries", "retries"):
        return " Did you mean 'max_attempts'? It counts the first run: max_attempts = max_retries + 1."
    return did_you_mean(name, _KNOWN)


PRESETS = {"llm": llm}
