"""Policies as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError
from queuekit.retry.backoff import Backoff
from queuekit.retry.category import Category
from queuekit.retry.presets import PRESETS
from queuekit.retry.rules import DEFAULT_MAX_RETRY_AFTER, RetryRule, did_you_mean

if TYPE_CHECKING:
    from queuekit.retry.policy import RetryPolicy

__all__ = ["policy_from_dict", "policy_to_dict"]

_BACKOFF = ("base", "factor", "cap", "jitter")
_RULE = ("on", "backoff", "max_attempts", "action", "name", "honour_retry_after", "max_retry_after")
_POLICY = ("rules", "max_attempts", "max_elapsed", "default", "on_lost")


def policy_to_dict(policy: RetryPolicy) -> dict[str, Any]:
    data: dict[str, Any] = {
        "rules": [_rule_to_dict(rule) for rule in policy.rules],
        "max_attempts": policy.max_attempts,
        "on_lost": policy.on_lost,
    }
    # TOML has no null: what is None is left out.
    if policy.max_elapsed is not None:
        data["max_elapsed"] = policy.max_elapsed
    if policy.default is not None:
        data["default"] = _rule_to_dict(policy.default)
    return data


def _rule_to_dict(rule: RetryRule) -> dict[str, Any]:
    for one in rule.on:
        if not isinstance(one, str):
            raise ConfigError(
                f"RetryRule(on={one!r}) is a function, which cannot be written down: give it as a text, "
                f"'module:function', such as {_path(one)!r}"
            )
    data: dict[str, Any] = {"on": list(rule.on), "action": rule.action}
    if rule.name is not None:
        data["name"] = rule.name
    if rule.action == "retry" or rule.backoff != Backoff(10):
        backoff = rule.backoff
        data["backoff"] = {"base": backoff.base, "factor": backoff.factor, "jitter": backoff.jitter}
        if backoff.cap is not None:
            data["backoff"]["cap"] = backoff.cap
    if rule.max_attempts is not None:
        data["max_attempts"] = rule.max_attempts
    if not rule.honour_retry_after:
        data["honour_retry_after"] = False
    if rule.max_retry_after != DEFAULT_MAX_RETRY_AFTER:
        data["max_retry_after"] = rule.max_retry_after
    return data


def _path(function: object) -> str:
    name = str(getattr(function, "__qualname__", ""))
    module = getattr(function, "__module__", None)
    return f"{module}:{name}" if module and name and "<" not in name else "myapp.errors:is_transient"


def policy_from_dict(data: Mapping[str, Any]) -> dict[str, Any]:
    """RetryPolicy's keywords.

    Raises:
        ConfigError: an unknown key, or a bad value.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"a retry policy is a table of {', '.join(_POLICY)}, and not {data!r}")
    values = dict(data)
    if "preset" in values:
        preset = values.pop("preset")
        if preset not in PRESETS:
            raise ConfigError(f"preset={preset!r} is unknown: give one of {', '.join(map(repr, PRESETS))}")
        return PRESETS[preset]({key: _override(key, value) for key, value in values.items()})
    _check("a retry policy", values, (*_POLICY, "preset"))
    return {key: _policy_value(key, value) for key, value in values.items()}


def _policy_value(key: str, value: Any) -> Any:
    if key == "rules" and isinstance(value, (list, tuple)):
        return [_rule(rule) for rule in value]
    if key == "default" and value is not None:
        return _rule(value)
    return value


def _override(key: str, value: Any) -> Any:
    if key in Category.__members__ and isinstance(value, Mapping):
        return _backoff(value) if "base" in value else _rule({"on": f"category:{key}", **value})
    return _policy_value(key, value)


def _rule(value: Any) -> RetryRule:
    if not isinstance(value, Mapping):
        raise ConfigError(f"a retry rule is a table of {', '.join(_RULE)}, and not {value!r}")
    values = dict(value)
    _check("a retry rule", values, _RULE)
    if "on" not in values:
        raise ConfigError(f"a retry rule needs 'on', what it matches: {values!r} has none")
    if "backoff" in values:
        values["backoff"] = _backoff(values["backoff"])
    return RetryRule(**values)


def _backoff(value: Any) -> Backoff:
    if not isinstance(value, Mapping):
        raise ConfigError(f"a backoff is a table of {', '.join(_BACKOFF)}, and not {value!r}; base is in seconds")
    values = dict(value)
    _check("a backoff", values, _BACKOFF)
    if "base" not in values:
        raise ConfigError(f"a backoff needs 'base', the seconds of the first wait: {values!r} has none")
    return Backoff(**values)


def _check(what: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key in known:
            continue
        hint = did_you_mean(str(key), known)
        if key == "max_retries":
            hint = " Did you mean 'max_attempts'? It counts the first run: max_attempts = max_retries + 1."
        raise ConfigError(f"{what} has no {key!r}.{hint} Known: {', '.join(known)}")
