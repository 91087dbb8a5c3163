"""What a policy would do, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuekit.retry.policy import RetryPolicy
    from queuekit.retry.rules import RetryRule

__all__ = ["Preview", "PreviewRow", "preview"]

_SHOWN = 3
_KEPT = 20


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One rule.

    Attributes:
        rule: its name.
        on: what it matches.
        action: "retry" or "fail".
        waits: the shortest and the longest wait in seconds after its 1st, 2nd, ... failure, at most 20 of them.
        max_attempts: the failure of this kind that ends the job, or None where only the policy's limit holds.
    """

    rule: str
    on: tuple[str, ...]
    action: str
    waits: tuple[tuple[float, float], ...]
    max_attempts: int | None

    @property
    def waited(self) -> str:
        """The first of the waits, for people."""
        return _waits(self.waits)


@dataclass(frozen=True, slots=True)
class Preview:
    """A policy as a table: print it."""

    rows: tuple[PreviewRow, ...]
    max_attempts: int
    max_elapsed: float | None
    on_lost: str

    def __str__(self) -> str:
        table = [("rule", "matches", "waits", "ends the job")]
        for row in self.rows:
            if row.action == "fail":
                waits, ends = "none", "at once"
            else:
                waits = row.waited
                ends = "-" if row.max_attempts is None else f"failure {row.max_attempts} of this kind"
            table.append((row.rule, ", ".join(row.on), waits, ends))
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in table]
        lines.insert(1, "  ".join("-" * width for width in widths))
        total = f"{self.max_attempts} attempts in all, the first run included"
        if self.max_elapsed is not None:
            total += f", within {human(self.max_elapsed)} of the first failure"
        lost = "runs again at once" if self.on_lost == "retry" else "fails"
        lines += ["", f"{total}.", f"Anything else fails at once; a crashed attempt without a rule {lost}."]
        return "\n".join(line.rstrip() for line in lines)


def preview(policy: RetryPolicy) -> Preview:
    rules = policy.rules if policy.default is None else (*policy.rules, policy.default)
    rows = tuple(_row(rule, key, policy.max_attempts) for rule, key in zip(rules, policy.keys, strict=True))
    return Preview(rows, policy.max_attempts, policy.max_elapsed, policy.on_lost)


def _row(rule: RetryRule, key: str, max_attempts: int) -> PreviewRow:
    retries = 0 if rule.action == "fail" else min(rule.max_attempts or max_attempts, max_attempts) - 1
    waits = tuple(rule.backoff.bounds(n) for n in range(1, min(retries, _KEPT) + 1))
    on = tuple(one.value if one.kind in ("any", "name", "predicate") else _written(one) for one in rule.matchers)
    return PreviewRow(key, on, rule.action, waits, rule.max_attempts)


def _written(one: object) -> str:
    kind, value = getattr(one, "kind", ""), getattr(one, "value", "")
    return f"*.{value}" if kind == "suffix" else f"{kind}:{value}"


def _waits(waits: tuple[tuple[float, float], ...]) -> str:
    if len(waits) > 1 and len(set(waits)) == 1:
        return f"{_span(*waits[0])} each time"
    shown = ", ".join(_span(low, high) for low, high in waits[:_SHOWN]) or "none"
    return shown + (", ..." if len(waits) > _SHOWN else "")


def _span(low: float, high: float) -> str:
    return human(low) if low == high else f"{human(low)} to {human(high)}"


def human(seconds: float) -> str:
    """A duration in the unit that reads best: "0.5 s", "90 s", "12.5 min", "6 h", "3 d"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:.3g} d"
