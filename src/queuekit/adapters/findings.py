"""What `queuekit doctor` finds: a value that checks, those of adapters too, give for each thing that they looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["LEVELS", "Finding", "Severity", "some"]


class Severity(StrEnum):
    ok = "ok"
    """It was looked at, and is well."""
    hint = "hint"
    """Worth knowing; nothing that was promised suffers by it."""
    unchecked = "unchecked"
    """It could not be looked at. The remedy says what is missing for that."""
    warning = "warning"
    """Something is weaker than it was promised to be, or soon will be."""
    error = "error"
    """A promise does not hold, or jobs do not run."""


LEVELS: Final = tuple(Severity)
"""The mildest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: which check that was: "eviction", "consumer-timeout"; docs/how-to/doctor.md lists them.
        severity: how bad it is.
        found: what is there, as a sentence without a full stop.
        why: what comes of it. Empty where all is well.
        remedy: the line to add, or the command to run.
    """

    check: str
    severity: Severity
    found: str
    why: str = ""
    remedy: str = ""

    @property
    def rank(self) -> int:
        """The graver, the more."""
        return LEVELS.index(self.severity)


def some(names: Collection[str], most: int) -> str:
    """The first of them, and how many more there are."""
    rest = len(names) - most
    return ", ".join(sorted(names)[:most]) + (f" and {rest} more" if rest > 0 else "")
