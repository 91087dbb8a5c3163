"""The policy: from an error, the past and the time to a decision. Pure: it reads no clock and draws no chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from queuekit.errors import ConfigError
from queuekit.retry.backoff import Seconds, one_of, positive_int, seconds
from queuekit.retry.category import Category
from queuekit.retry.classify import HARD, Chain, find_time_limit, is_control_flow, is_fallback, members
from queuekit.retry.decisions import Decision, DoNotRetry, Fail, Lost, Pass, Retry, RetryAfter, RetryState
from queuekit.retry.reading import read, type_name
from queuekit.retry.rules import RetryRule

if TYPE_CHECKING:
    from queuekit.retry.lower import Lowered
    from queuekit.retry.preview import Preview

__all__ = ["RetryPolicy"]

_RETRY_AFTER = "retry_after"  # the name that decisions of a task's own RetryAfter go by
_LOST = "lost"
_BELOW_ONE = math.nextafter(1.0, 0.0)
_MAX_NESTING = 50


class _Case(NamedTuple):
    """What a decision is made from, beside the error."""

    state: RetryState
    now: float
    deadline: float | None
    u: float


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """What to do about a failed attempt. Ordered rules, the first match wins, and no match fails the job at once.

    Two things need no rule: a crashed attempt (`on_lost`), and a task that raises RetryAfter or DoNotRetry.

    Attributes:
        rules: in order.
        max_attempts: of all kinds together; it counts the first run, and crashes. It is max_retries + 1.
        max_elapsed: seconds from the first failure, after which no attempt starts; None for no limit.
        default: a last rule, for what no other matches.
        on_lost: a crash without a rule of its own ("category:lost"): again at once, or fail.
    """

    rules: tuple[RetryRule, ...]
    max_attempts: int
    max_elapsed: float | None
    default: RetryRule | None
    on_lost: Literal["retry", "fail"]
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The name under which each rule is counted, in the order of the rules, the default last."""

    def __init__(
        self,
        rules: Sequence[RetryRule] = (),
        *,
        max_attempts: int = 3,
        max_elapsed: Seconds | None = None,
        default: RetryRule | None = None,
        on_lost: Literal["retry", "fail"] = "retry",
    ) -> None:
        """
        Raises:
            ConfigError: a value of the wrong type or out of range, or two rules of one name.
        """
        if isinstance(rules, (RetryRule, str, bytes, Mapping)) or not isinstance(rules, Sequence):
            raise ConfigError(f"RetryPolicy(rules={rules!r}): give a list of RetryRule")
        for rule in rules:
            if not isinstance(rule, RetryRule):
                raise ConfigError(
                    f"RetryPolicy(rules): {rule!r} is no RetryRule: give RetryRule({rule!r}, Backoff(...))"
                )
        if default is not None and not isinstance(default, RetryRule):
            raise ConfigError(f"RetryPolicy(default={default!r}) is no RetryRule: give RetryRule('*', Backoff(...))")
        put = object.__setattr__
        put(self, "rules", tuple(rules))
        put(self, "max_attempts", positive_int("RetryPolicy(max_attempts)", max_attempts))
        put(
            self,
            "max_elapsed",
            None if max_elapsed is None else seconds("RetryPolicy(max_elapsed)", max_elapsed, positive=True),
        )
        put(self, "default", default)
        put(self, "on_lost", one_of("RetryPolicy(on_lost)", on_lost, ("retry", "fail")))
        put(self, "keys", _keys(self.rules, default))

    @classmethod
    def for_llm(cls, **overrides: Any) -> Self:
        """The preset for jobs that call language models.

        Args:
            overrides: max_attempts, max_elapsed, default, on_lost: as in RetryPolicy(). A category
                (`rate_limit=Backoff(5)`): its backoff, a whole RetryRule, or "fail". rules: RetryRules that come
                first. scale: a number by which every backoff is multiplied (1/20: a demonstration).

        Raises:
            ConfigError: an unknown override, or a bad value.
        """
        from queuekit.retry.presets import llm

        return cls(**llm(overrides))

    def decide(
        self, exc: BaseException, state: RetryState, *, now: float, deadline: float | None = None, u: float
    ) -> Decision:
        """What to do after an attempt has failed. Never raises; the same input gives the same decision.

        Args:
            exc: what the attempt raised; Lost() for a crash, TimeLimit() for its hard timeout.
            state: RetryState() after the first attempt, then that of the Retry before.
            now: epoch seconds.
            deadline: epoch seconds by which an attempt must have started, or None.
            u: chance, in [0, 1): see uniform().
        """
        try:
            # A value outside [0, 1) must not make a job wait outside its bounds.
            u = 0.0 if math.isnan(u) else min(max(float(u), 0.0), _BELOW_ONE)
            case = _Case(state, float(now), None if deadline is None else float(deadline), u)
            return self._decide(exc, case)
        except Exception as e:
            # A worker that cannot judge an error must still end the attempt.
            reason = f"unknown: {type_name(type(exc))} could not be judged ({type_name(type(e))} in the policy itself)"
            return Fail(reason, None, Category.unknown)

    def _decide(self, exc: BaseException, case: _Case) -> Decision:
        # What the task itself raised as its decision is the clearest word there is, also while it handles a limit.
        if not isinstance(exc, (RetryAfter, DoNotRetry)):
            limit = find_time_limit(exc)
            if limit is not None:
                return self._by_rule(Chain.of_time_limit(limit), case)
        if isinstance(exc, Lost):
            return self._lost(exc, case)
        return self._verdict(exc, case, frozenset(), 0)

    def _verdict(self, exc: BaseException, case: _Case, seen: frozenset[int], depth: int) -> Decision:
        """One exception with its causes, or a group."""
        if is_control_flow(exc):
            return Pass(f"control flow: {type_name(type(exc))}")
        if isinstance(exc, BaseExceptionGroup) and depth < _MAX_NESTING:
            return self._group(exc, case, seen | {id(exc)}, depth)
        chain = Chain.of(exc, now=case.now, seen=seen)
        for link in chain.links:
            if isinstance(link.exc, DoNotRetry):
                reason = f"{chain.category}: {chain.text}; the task said not to retry"
                return Fail(reason, None, chain.category)
            if isinstance(link.exc, RetryAfter):
                return self._on_request(link.exc, chain, case)
        own = self._find(chain, [])
        if chain.group is not None and depth < _MAX_NESTING:
            above = seen | {id(link.exc) for link in chain.links} | {id(chain.group)}
            inner = self._group(chain.group, case, above, depth)
            if isinstance(inner, Fail) and inner.category in HARD:
                return inner
            if (
                chain.category is Category.unknown
                and not isinstance(inner, Pass)
                and (own is None or inner.category is not Category.unknown)
            ):
                return inner
        return self._by_rule(chain, case)

    def _group(self, group: BaseException, case: _Case, seen: frozenset[int], depth: int) -> Decision:
        """A group fails with any member that must fail, and otherwise waits for the longest.

        Where the members are alternatives, one that may be tried again is enough, and the shortest wait will do.
        """
        inner = [one for one in members(group) if id(one) not in seen]
        decisions = [self._verdict(one, case, seen, depth + 1) for one in inner]
        for decision in decisions:
            if isinstance(decision, Pass):
                return decision
        retries = [decision for decision in decisions if isinstance(decision, Retry)]
        fails = [decision for decision in decisions if isinstance(decision, Fail)]
        name = f"{len(inner)} errors in {type_name(type(group))}"
        chosen: Retry | Fail
        if is_fallback(group) and retries:
            chosen = min(retries, key=lambda retry: retry.delay)
        elif fails:
            # The one that no wrapper softens says most, and is looked for where the group is a cause.
            chosen = next((fail for fail in fails if fail.category in HARD), fails[0])
        elif retries:
            chosen = max(retries, key=lambda retry: retry.delay)
        else:
            return Fail(f"unknown: {type_name(type(group))} without members; no rule matches", None, Category.unknown)
        return replace(chosen, reason=f"{chosen.reason} (of {name})") if len(inner) > 1 else chosen

    def _find(self, chain: Chain, notes: list[str]) -> tuple[RetryRule, str] | None:
        rules = self.rules if self.default is None else (*self.rules, self.default)
        for rule, key in zip(rules, self.keys, strict=True):
            if rule.matches(chain, notes):
                return rule, key
        return None

    def _by_rule(self, chain: Chain, case: _Case) -> Retry | Fail:
        notes: list[str] = []
        found = self._find(chain, notes)
        what = f"{chain.category}: {chain.text}"
        if notes:
            what += f" [{'; '.join(notes)}]"
        if found is None:
            return Fail(f"{what}; no rule matches", None, chain.category)
        rule, key = found
        if rule.action == "fail":
            return Fail(f"{what}; rule {key!r} does not retry", key, chain.category)
        n = case.state.counts.get(key, 0) + 1
        delay = rule.backoff.delay(n, case.u)
        if chain.hint is not None and rule.honour_retry_after:
            what += f", Retry-After {chain.hint:g} s"
            if chain.hint > rule.max_retry_after:
                reason = f"{what}, longer than the {rule.max_retry_after:g} s that rule {key!r} waits for"
                return Fail(reason, key, chain.category)
            # Many jobs are told the same moment: a tenth on top keeps them from returning as one.
            herd = 0.0 if rule.backoff.jitter == "none" else 0.1
            delay = max(delay, chain.hint * (1 + herd * case.u))
        if rule.max_attempts is not None and n >= rule.max_attempts:
            reason = f"{what}; failure {n} of this kind is the last that rule {key!r} allows"
            return Fail(reason, key, chain.category)
        of = self._number(case.state.attempt, n, rule.max_attempts)
        return self._again(what, key, chain.category, delay, of, case)

    def _on_request(self, said: RetryAfter, chain: Chain, case: _Case) -> Retry | Fail:
        delay = read(said, "delay")
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay < math.inf:
            delay = 0.0  # a subclass that never called our __init__
        known = chain.category is not Category.unknown
        what = f"{chain.category if known else _RETRY_AFTER}: {chain.text}, asked for by the task"
        of = self._number(case.state.attempt, 0, None)
        return self._again(what, _RETRY_AFTER, chain.category, float(delay), of, case)

    def _lost(self, exc: Lost, case: _Case) -> Retry | Fail:
        chain = Chain.of_lost(exc)
        if self._find(chain, []) is not None:
            return self._by_rule(chain, case)
        what = f"{chain.category}: {chain.text}"
        if self.on_lost == "fail":
            return Fail(f"{what}; on_lost='fail'", None, chain.category)
        of = self._number(case.state.attempt, 0, None)
        return self._again(what, _LOST, chain.category, 0.0, of, case)

    def _number(self, attempt: int, n: int, rule_limit: int | None) -> str:
        """ "2 of 7": counted by whichever limit comes first."""
        if rule_limit is not None and rule_limit - n < self.max_attempts - attempt:
            return f"{n} of {rule_limit - 1}"
        return f"{attempt} of {self.max_attempts - 1}"

    def _again(self, what: str, key: str, category: Category, delay: float, of: str, case: _Case) -> Retry | Fail:
        """A retry, if the limits of the whole job leave room for it."""
        state, now = case.state, case.now
        if state.attempt >= self.max_attempts:
            return Fail(f"{what}; attempt {state.attempt} of {self.max_attempts} was the last", key, category)
        if self.max_elapsed is not None:
            elapsed = 0.0 if state.first_failed_at is None else max(0.0, now - state.first_failed_at)
            if elapsed + delay > self.max_elapsed:
                reason = (
                    f"{what}; a retry in {delay:.1f} s would start later than {self.max_elapsed:g} s after the first "
                    "failure (max_elapsed)"
                )
                return Fail(reason, key, category)
        if case.deadline is not None and now + delay >= case.deadline:
            return Fail(f"{what}; a retry in {delay:.1f} s would start past the deadline", key, category)
        return Retry(delay, f"{what}; retry {of} in {delay:.1f} s", key, category, state.after(key, now=now))

    def scaled(self, by: float) -> Self:
        """The same policy with every wait of its backoffs multiplied by `by`. What a service asks for is not.

        Raises:
            ConfigError: `by` is no positive number.
        """
        if isinstance(by, bool) or not isinstance(by, (int, float)) or not 0 < by < math.inf:
            raise ConfigError(f"scale={by!r}: give a number above 0 that every backoff is multiplied by, such as 1/20")
        default = None if self.default is None else self.default.scaled(by)
        return replace(self, rules=tuple(rule.scaled(by) for rule in self.rules), default=default)

    def preview(self) -> Preview:
        """What each rule would wait; print it."""
        from queuekit.retry.preview import preview

        return preview(self)

    def lower(self, engine: str) -> Lowered:
        """The nearest options of an engine's own retry ("celery", "rq", "dramatiq"), and what they lose.

        queuekit does not use them: this is for a report, and for moving away.

        Raises:
            ConfigError: an unknown engine.
        """
        from queuekit.retry.lower import lower

        return lower(self, engine)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain values, fit for JSON and TOML: from_dict() gives an equal one.

        Raises:
            ConfigError: a predicate that is not given as "module:function".
        """
        from queuekit.retry.serialise import policy_to_dict

        return policy_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The policy that to_dict() wrote, or one from a settings file; {"preset": "llm", ...} takes for_llm()'s
        overrides.

        Raises:
            ConfigError: an unknown key, or a bad value.
        """
        from queuekit.retry.serialise import policy_from_dict

        return cls(**policy_from_dict(data))


def _keys(rules: tuple[RetryRule, ...], default: RetryRule | None) -> tuple[str, ...]:
    """A name for each rule. They are what counts are kept by, so that rules can move between two releases."""
    taken = {_RETRY_AFTER}
    keys: list[str] = []
    given = [rule.name for rule in (*rules, default) if rule is not None and rule.name is not None]
    for name in given:
        if name in taken:
            why = "is what RetryAfter goes by" if name == _RETRY_AFTER else "names two rules"
            raise ConfigError(f"RetryPolicy(rules): the name {name!r} {why}; give each rule a name of its own")
        taken.add(name)
    for rule in rules:
        key = rule.name
        if key is None:
            key, number = rule.label, 1
            while key in taken:
                number += 1
                key = f"{rule.label}-{number}"
            taken.add(key)
        keys.append(key)
    if default is not None:
        key, number = default.name or "default", 1
        while default.name is None and key in taken:
            number += 1
            key = f"default-{number}"
        keys.append(key)
    return tuple(keys)
