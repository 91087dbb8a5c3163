"""The nearest thing that an engine's own retry can do, and what gets lost on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from queuekit.errors import ConfigError
from queuekit.retry.category import Category
from queuekit.retry.rules import Matcher, RetryRule, did_you_mean

if TYPE_CHECKING:
    from queuekit.retry.policy import RetryPolicy

__all__ = ["Lowered", "lower"]

_ENGINES = ("celery", "rq", "dramatiq")
_MAX_INTERVALS = 100


@dataclass(frozen=True, slots=True)
class Lowered:
    """Options of an engine's own.

    Attributes:
        engine: "celery", "rq" or "dramatiq".
        options: for `@app.task(**options)`, `rq.Retry(**options)` (no Retry where they are empty), or
            `@dramatiq.actor(**options)`. Classes are given by their qualified names: import what you have installed.
        losses: what the policy says and these options do not do, one sentence each.
    """

    engine: str
    options: dict[str, Any]
    losses: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.engine}:"]
        lines += [f"  {name} = {value!r}" for name, value in self.options.items()]
        lines += ["lost:", *(f"  - {loss}" for loss in self.losses)]
        return "\n".join(lines)


def lower(policy: RetryPolicy, engine: str) -> Lowered:
    """
    Raises:
        ConfigError: an unknown engine.
    """
    if engine not in _ENGINES:
        hint = did_you_mean(str(engine), _ENGINES)
        raise ConfigError(f"lower({engine!r}) is unknown.{hint} Known: {', '.join(_ENGINES)}")
    losses = _common_losses(policy)
    options = {"celery": _celery, "rq": _rq, "dramatiq": _dramatiq}[engine](policy, losses)
    return Lowered(engine, options, tuple(losses))


def _rules(policy: RetryPolicy, action: str) -> list[RetryRule]:
    rules = policy.rules if policy.default is None else (*policy.rules, policy.default)
    return [rule for rule in rules if rule.action == action]


def _leading(policy: RetryPolicy) -> RetryRule | None:
    """The rule whose backoff serves for all: the slowest, so that none comes earlier than asked."""
    return max(_rules(policy, "retry"), key=lambda rule: rule.backoff.base, default=None)


def _common_losses(policy: RetryPolicy) -> list[str]:
    losses: list[str] = []
    retrying = _rules(policy, "retry")
    leading = _leading(policy)
    if len({rule.backoff for rule in retrying}) > 1 and leading is not None:
        losses.append(
            f"one backoff for every kind of error: that of rule {leading.label!r}, the slowest of {len(retrying)}"
        )
    limited = [rule.label for rule in retrying if rule.max_attempts is not None]
    if limited:
        losses.append(f"the limits of single rules ({', '.join(limited)}): only max_attempts is left")
    if any(rule.honour_retry_after for rule in retrying):
        losses.append("a Retry-After of the service is not read")
    if policy.max_elapsed is not None:
        losses.append(f"max_elapsed={policy.max_elapsed:g}: retries go on beyond it")
    losses.append("the jitter is the engine's own: the same seed does not give the same delays")
    losses.append("RetryAfter and DoNotRetry are errors like any other")
    return losses


def _celery(policy: RetryPolicy, losses: list[str]) -> dict[str, Any]:
    retrying, leading = _rules(policy, "retry"), _leading(policy)
    options: dict[str, Any] = {"max_retries": policy.max_attempts - 1, "acks_late": True}
    if policy.on_lost == "retry":
        # Not reject_on_worker_lost, which delivers a job that kills its worker again and again without counting.
        options["retry_on_worker_lost"] = True
        losses.append("a crashed child is retried after default_retry_delay; the loss of a whole worker is not counted")
    else:
        losses.append("on_lost='fail': the jobs of a whole worker that dies are delivered again")
    if leading is None:
        return options
    options["autoretry_for"] = _class_names(retrying, losses, catch_all="builtins.Exception")
    never = _class_names(_rules(policy, "fail"), losses, catch_all=None)
    if never:
        options["dont_autoretry_for"] = never
        losses.append("the order of the rules: dont_autoretry_for always wins")
    backoff = leading.backoff
    if backoff.factor == 1:
        options["retry_backoff"] = False
        options["default_retry_delay"] = _whole(backoff.figure(1), losses)
    else:
        options["retry_backoff"] = max(1, _whole(backoff.base, losses))
        options["retry_backoff_max"] = max(1, _whole(backoff.figure(policy.max_attempts), losses))
        # Its only jitter is a full one, which makes half of the first retries come at once.
        options["retry_jitter"] = backoff.jitter == "full"
        if backoff.jitter in ("spread", "equal"):
            losses.append(f"jitter {backoff.jitter!r}: none, as Celery's would come earlier than asked")
        if backoff.factor != 2:
            losses.append(f"factor {backoff.factor:g}: Celery doubles")
    losses.append(
        "a wait sits in a worker's memory, unacknowledged; on Redis it is delivered twice past the visibility timeout"
    )
    return options


def _rq(policy: RetryPolicy, losses: list[str]) -> dict[str, Any]:
    leading = _leading(policy)
    retries = policy.max_attempts - 1
    losses.append("every exception is retried: RQ cannot tell one from another")
    losses.append("a wait needs a worker with the scheduler on")
    if policy.on_lost == "fail":
        losses.append("on_lost='fail': a killed work-horse is retried as well")
    if leading is None or retries == 0:
        return {}
    waits = [_whole(leading.backoff.figure(n), losses) for n in range(1, min(retries, _MAX_INTERVALS) + 1)]
    if leading.backoff.jitter != "none":
        losses.append(f"jitter {leading.backoff.jitter!r}: none")
    if retries > _MAX_INTERVALS:
        losses.append(f"the waits are the same from retry {_MAX_INTERVALS} on")
    return {"max": retries, "interval": waits}


def _dramatiq(policy: RetryPolicy, losses: list[str]) -> dict[str, Any]:
    leading = _leading(policy)
    options: dict[str, Any] = {"max_retries": policy.max_attempts - 1 if leading is not None else 0}
    losses.append("crashes are not counted: a job that kills its worker is delivered for ever")
    if leading is None:
        return options
    backoff = leading.backoff
    options["min_backoff"] = math.ceil(backoff.figure(1) * 1000)
    # Its jitter goes up to twice the figure, and a wait beyond the maximum becomes half of it to all of it.
    options["max_backoff"] = 2 * math.ceil(backoff.figure(policy.max_attempts) * 1000)
    throws = _class_names(_rules(policy, "fail"), losses, catch_all=None)
    if throws:
        options["throws"] = throws
    losses.append("every exception but those in throws is retried: no rule says which")
    losses.append("a wait is up to twice as long as asked")
    if backoff.factor not in (1, 2):
        losses.append(f"factor {backoff.factor:g}: Dramatiq doubles")
    losses.append("a wait sits in a worker's memory, and is late when many are")
    return options


def _whole(figure: float, losses: list[str]) -> int:
    """Rounded up, never earlier than asked."""
    whole = math.ceil(figure)
    note = "fractions of a second: rounded up"
    if whole != figure and note not in losses:
        losses.append(note)
    return whole


# The classes of the SDK that most jobs use; an engine can only be told classes.
_OPENAI = {
    Category.rate_limit: ("openai.RateLimitError",),
    Category.timeout: ("openai.APITimeoutError",),
    Category.connection: ("openai.APIConnectionError",),
    Category.server: ("openai.InternalServerError",),
    Category.overloaded: ("openai.InternalServerError",),
    Category.auth: ("openai.AuthenticationError", "openai.PermissionDeniedError"),
    Category.bad_request: ("openai.BadRequestError", "openai.UnprocessableEntityError"),
    Category.not_found: ("openai.NotFoundError",),
    Category.conflict: ("openai.ConflictError",),
    Category.context_length: ("openai.LengthFinishReasonError",),
    Category.content_filter: ("openai.ContentFilterFinishReasonError",),
}


def _class_names(rules: list[RetryRule], losses: list[str], *, catch_all: str | None) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for matcher in (matcher for rule in rules for matcher in rule.matchers):
        if matcher.kind == "name":
            names[matcher.value] = None
        elif matcher.kind == "category" and Category(matcher.value) in _OPENAI:
            names.update(dict.fromkeys(_OPENAI[Category(matcher.value)]))
            _note(losses, "categories become classes of openai: add those of other SDKs; a spent quota is a rate limit")
        elif matcher.kind == "any" and catch_all is not None:
            names[catch_all] = None
        else:
            _note(losses, f"{_text(matcher)} is no class: dropped")
    return tuple(names)


def _note(losses: list[str], loss: str) -> None:
    if loss not in losses:
        losses.append(loss)


def _text(matcher: Matcher) -> str:
    return {"suffix": f"*.{matcher.value}", "any": "*"}.get(matcher.kind, f"{matcher.kind}:{matcher.value}")
