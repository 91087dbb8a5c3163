"""Which call fails, and how: decided beforehand, and alike for every engine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from queuekit.retry import Category

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Failure", "Plan"]


@dataclass(frozen=True)
class Failure:
    """What the endpoint does to one call.

    Attributes:
        name, short: as the screen says it, where there is room and where there is little.
        status: the HTTP status, or None: it does not answer at all.
        category: what the policy has to make of it.
        code, message: of the error in the body.
        retry_after: seconds that it asks for.
        final: a policy for language models must not try again.
    """

    name: str
    status: int | None
    category: Category
    code: str = ""
    message: str = ""
    retry_after: int | None = None
    final: bool = False
    short: str = ""


OVERLOADED: Final = Failure(
    "503", 503, Category.overloaded, "server_is_overloaded", "The engine is currently overloaded."
)
BROKEN: Final = Failure("500", 500, Category.server, "server_error", "The server had an error.")
SILENT: Final = Failure("no answer", None, Category.timeout)
REFUSED: Final = Failure("401", 401, Category.auth, "invalid_api_key", "Incorrect API key provided.", final=True)


def limited(retry_after: int) -> Failure:
    return Failure(
        f"429, Retry-After {retry_after} s",
        429,
        Category.rate_limit,
        "rate_limit_exceeded",
        f"Rate limit reached. Please try again in {retry_after} s.",
        retry_after,
        short=f"429, {retry_after} s",
    )


# Dealt to the documents in an order that the seed decides, so that even a few of them meet most kinds of failure.
# "l": a rate limit, "o": overloaded, "b": broken, "s": silent, "r": the key is refused.
DECK: Final = ("lo", "r", "s", "", "ll", "o", "", "b", "sl", "oo", "", "l")


class Plan:
    """A function of the seed, the documents, a document and the number of its call."""

    def __init__(self, seed: int, documents: Sequence[str]) -> None:
        order = sorted(documents, key=lambda id: _number(seed, id, 0))
        self._failures: Mapping[str, tuple[Failure, ...]] = {
            id: _failures(seed, id, place) for place, id in enumerate(order)
        }

    def failures(self, document: str) -> tuple[Failure, ...]:
        """What happens to its calls, from the first on; those after them succeed. None for an unknown document."""
        return self._failures.get(document, ())

    def failure(self, document: str, call: int) -> Failure | None:
        """What happens to its call of that number, from 1. None: it gets its answer."""
        failures = self.failures(document)
        if failures and failures[-1].final:  # a key that is refused stays refused
            call = min(call, len(failures))
        return failures[call - 1] if call <= len(failures) else None

    def dead(self, document: str) -> bool:
        """Whether its job has to end as a dead letter."""
        failures = self.failures(document)
        return bool(failures) and failures[-1].final


def _failures(seed: int, id: str, place: int) -> tuple[Failure, ...]:
    letters = DECK[place % len(DECK)]
    if place >= len(DECK) and letters == "r":  # one is enough to show a dead letter
        letters = "ob"
    known = {"o": OVERLOADED, "b": BROKEN, "s": SILENT, "r": REFUSED}
    return tuple(
        # 1 s is less than the policy waits by itself, 2 and 3 s are more.
        known.get(letter) or limited(1 + _number(seed, id, call) % 3)
        for call, letter in enumerate(letters, start=1)
    )


def _number(seed: int, id: str, call: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{id}\0{call}".encode(), digest_size=8).digest(), "big")
