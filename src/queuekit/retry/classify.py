"""From an exception to what it means: category, wait and status.

The order, for one exception: the body's code, where it says quota, context, filter or auth (they outrank a rate
limit: OpenAI raises RateLimitError for an empty account); other codes; the qualified name over the MRO; the status.
Then the same for its `__cause__`, and never for its `__context__`: a KeyError raised inside `except RateLimitError:`
is a bug, and no rate limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from queuekit.retry.category import Category
from queuekit.retry.decisions import Lost, TimeLimit
from queuekit.retry.hints import bucket_hint, explicit_hint
from queuekit.retry.reading import body_of, headers_of, names_of, read, status_of, type_name
from queuekit.retry.tables import (
    CODES,
    CONTROL_FLOW,
    FALLBACK_GROUP,
    LITELLM_WORDS,
    NAMES,
    SIMPLE_NAMES,
    STRONG,
    TIME_LIMITS,
    TOO_LONG,
    WRAPPERS,
    status_category,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Chain",
    "Classification",
    "Link",
    "classify",
    "find_time_limit",
    "is_control_flow",
    "is_fallback",
    "members",
]

HARD = (Category.auth, Category.quota)
"""What no wrapper softens: where a cause says one of these, that is what happened."""

NEVER = (
    *HARD,
    Category.bad_request,
    Category.context_length,
    Category.content_filter,
    Category.not_found,
)
"""What another attempt does not mend."""

_MAX_LINKS = 100


@dataclass(frozen=True, slots=True)
class Classification:
    """What an exception means.

    Attributes:
        category: the kind of failure.
        hint: seconds that the service asks to wait, or None.
        status: the HTTP status, or None.
        reason: what says so, for people; holds nothing of the error's own message.
    """

    category: Category
    hint: float | None
    status: int | None
    reason: str


class Link(NamedTuple):
    """One exception of a chain of causes.

    Attributes:
        overruled: its class or status says rate limit, but the body's code knows better: rules that name that class
            or that status do not mean this error.
    """

    exc: BaseException
    names: tuple[str, ...]
    category: Category
    status: int | None
    hint: float | None
    text: str
    overruled: bool = False


class Chain(NamedTuple):
    """An exception with its causes, up to the first group, read and weighed.

    Attributes:
        links: the exception, its cause, the cause of that, ...
        group: the exception group that ends the chain, or None.
        decisive: the link that says what happened.
        hint: seconds to wait, of the decisive link or else of the nearest that names one.
    """

    links: tuple[Link, ...]
    group: BaseExceptionGroup[BaseException] | None
    decisive: Link
    hint: float | None

    @property
    def category(self) -> Category:
        return self.decisive.category

    @property
    def text(self) -> str:
        first = self.links[0]
        return first.text if self.decisive is first else f"{first.names[0]} from {self.decisive.text}"

    @classmethod
    def of(cls, exc: BaseException, *, now: float | None, seen: frozenset[int] = frozenset()) -> Chain:
        """
        Args:
            now: epoch seconds, for hints that are dates.
            seen: ids of exceptions that stand above this one: a cause that is among them closes a circle.
        """
        links: list[Link] = []
        group = None
        for one in _causes(exc, seen):
            if isinstance(one, BaseExceptionGroup):
                group = one
                break
            links.append(_link(one, now))
        if not links:  # asked for a group itself
            links.append(_link(exc, now))
            group = exc if isinstance(exc, BaseExceptionGroup) else None
        decisive = _decisive(links)
        hints = [decisive.hint, *(link.hint for link in links)]
        return cls(tuple(links), group, decisive, next((h for h in hints if h is not None), None))

    @classmethod
    def of_time_limit(cls, exc: BaseException) -> Chain:
        """A time limit, whichever way it was enforced: each is judged as queuekit's own, whatever its base classes."""
        names = tuple(dict.fromkeys((*names_of(exc), *names_of(TimeLimit()))))
        link = Link(exc, names, Category.time_limit, None, None, names[0])
        return cls((link,), None, link, None)

    @classmethod
    def of_lost(cls, exc: Lost) -> Chain:
        """A crash: only its own name counts, so that a rule for Exception does not take it."""
        names = names_of(exc)
        names = names[: names.index(type_name(Lost)) + 1]
        link = Link(exc, names, Category.lost, None, None, "the attempt's worker was lost")
        return cls((link,), None, link, None)


def classify(exc: BaseException, *, now: float | None = None) -> Classification:
    """What an exception means. Never raises.

    A group is as bad as its worst member: one that must not be tried again, else an unknown one, else the one that
    asks for the longest wait; a group of alternatives is as good as its best. (A policy judges the members by its
    own rules.)

    Args:
        now: epoch seconds, for a Retry-After that is a date; such a hint is left out without it.
    """
    limit = find_time_limit(exc)
    if limit is not None:
        chain = Chain.of_time_limit(limit)
        return Classification(chain.category, None, None, chain.text)
    if isinstance(exc, Lost):
        chain = Chain.of_lost(exc)
        return Classification(chain.category, None, None, chain.text)
    chain = _weigh(exc, now, frozenset())
    return Classification(chain.category, chain.hint, chain.decisive.status, chain.text)


def _weigh(exc: BaseException, now: float | None, seen: frozenset[int]) -> Chain:
    chain = Chain.of(exc, now=now, seen=seen)
    group = chain.group
    if group is None or chain.category is not Category.unknown or len(seen) > _MAX_LINKS:
        return chain
    seen = seen | {id(exc), id(group)}
    inner = [_weigh(member, now, seen) for member in members(group) if id(member) not in seen]
    if not inner:
        return chain
    return min(inner, key=_badness) if is_fallback(group) else max(inner, key=_badness)


def _badness(chain: Chain) -> tuple[int, float]:
    rank = 2 if chain.category in NEVER else 1 if chain.category is Category.unknown else 0
    return rank, chain.hint or 0.0


def members(group: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, as far as they can be read."""
    inner = read(group, "exceptions")
    return tuple(one for one in inner if isinstance(one, BaseException)) if isinstance(inner, tuple) else ()


def _causes(exc: BaseException, seen: frozenset[int]) -> Iterator[BaseException]:
    """The exception and its causes; a circle ends it."""
    known = set(seen)
    one: object = exc
    for _ in range(_MAX_LINKS):
        if not isinstance(one, BaseException) or id(one) in known:
            return
        known.add(id(one))
        yield one
        one = _original(one) or read(one, "__cause__")


def _original(exc: BaseException) -> BaseException | None:
    """litellm keeps what broke a stream in an attribute, and makes up a class and a status around it."""
    if WRAPPERS.isdisjoint(names_of(exc)):
        return None
    found = read(exc, "original_exception")
    return found if isinstance(found, BaseException) else None


def find_time_limit(exc: BaseException) -> BaseException | None:
    """The first time limit among an exception, its causes and the members of its groups.

    SDKs that catch Exception inside a request turn an engine's soft limit into three more requests and then a
    connection error, with the limit as its cause.
    """
    todo: list[object] = [exc]
    seen: set[int] = set()
    while todo and len(seen) < 10_000:
        one = todo.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if not TIME_LIMITS.isdisjoint(names_of(one)):
            return one
        if isinstance(one, BaseExceptionGroup):
            todo.extend(members(one))
        todo.append(read(one, "__cause__"))
    return None


def is_control_flow(exc: BaseException) -> bool:
    """Whether the exception itself is a cancellation, an interrupt or an engine's signal.

    Its causes do not count: asyncio.timeout() raises its TimeoutError from a CancelledError.
    """
    return not CONTROL_FLOW.isdisjoint(names_of(exc))


def is_fallback(group: BaseException) -> bool:
    """Whether the members of a group are alternatives, of which one that may be tried again is enough."""
    return any(name.rpartition(".")[2] == FALLBACK_GROUP for name in names_of(group))


def _decisive(links: list[Link]) -> Link:
    for link in links:
        if link.category in HARD:
            return link
    known = [link for link in links if link.category is not Category.unknown]
    if not known:
        return links[0]
    # A connection error is also what SDKs make of anything else that goes wrong while they send: the cause knows.
    return next((link for link in known if link.category is not Category.connection), known[0])


def _link(exc: BaseException, now: float | None) -> Link:
    names = names_of(exc)
    try:
        return _read_link(exc, names, now)
    except Exception:
        return Link(exc, names, name_category(names) or Category.unknown, None, None, names[0])


def _read_link(exc: BaseException, names: tuple[str, ...], now: float | None) -> Link:
    if _original(exc) is not None:
        return Link(exc, names, Category.unknown, None, None, names[0])
    body = body_of(exc)
    headers = headers_of(exc)
    status = status_of(exc, body)
    by_code, code = _by_code(body.codes)
    if body.per_day:
        by_code, code = Category.quota, "a daily quota"
    by_name = name_category(names)
    by_status = status_category(status)
    if by_status in (Category.overloaded, Category.timeout):
        # InternalServerError is any 5xx, also 503; and api_error is what Anthropic writes into many.
        by_name = by_status if by_name is Category.server else by_name
        by_code = by_status if by_code is Category.server else by_code
    if by_name is Category.connection and _wraps_a_timeout(exc):
        by_name = Category.timeout
    if by_name is Category.connection:
        status = by_status = None  # nothing was answered: the 500 of litellm.APIConnectionError is made up

    category: Category
    if by_code is not None and by_code is not Category.bad_request:
        category = by_code
    else:
        category = by_name or by_status or by_code or Category.unknown
    said = _by_words(exc, names, category, status)
    if said is not None:
        category = said
        status = None if said is Category.connection else status
    hint = explicit_hint(exc, headers, body.retry_delay, now=now)
    if hint is None and category is Category.rate_limit:
        hint = bucket_hint(headers, now=now)

    details = [str(status)] if status is not None else []
    if code is not None and category is by_code:
        details.append(code)
    overruled = Category.rate_limit in (by_name, by_status) and category in STRONG
    return Link(exc, names, category, status, hint, names[0] + _in_brackets(details), overruled)


def _by_words(exc: BaseException, names: tuple[str, ...], category: Category, status: int | None) -> Category | None:
    """What the message alone says, where neither class nor code nor status does; None mostly."""
    litellm = names[0].startswith("litellm.") and category in LITELLM_WORDS
    too_long = category is Category.bad_request and status in (None, 400, 413)
    if not litellm and not too_long:
        return None
    try:
        said = str(exc)[:4000].lower()
    except Exception:
        return None
    if too_long and any(words in said for words in TOO_LONG):
        return Category.context_length
    return next((found for words, found in LITELLM_WORDS.get(category, {}).items() if litellm and words in said), None)


def _wraps_a_timeout(exc: BaseException) -> bool:
    """requests: a body that does not come is a ConnectionError, with urllib3's timeout as its argument."""
    arguments = read(exc, "args")
    inner = arguments[0] if isinstance(arguments, tuple) and arguments else None
    return isinstance(inner, BaseException) and name_category(names_of(inner)) is Category.timeout


def _in_brackets(parts: list[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""


_CODE_ORDER = tuple(dict.fromkeys(CODES.values()))  # the table is written from the strongest to the weakest


def _by_code(codes: tuple[str, ...]) -> tuple[Category | None, str | None]:
    found = {CODES[code]: code for code in reversed(codes) if code in CODES}
    for category in _CODE_ORDER:
        if category in found:
            return category, found[category]
    return None, None


def name_category(names: tuple[str, ...]) -> Category | None:
    """What the classes of an MRO say, the nearest first; None where they say nothing."""
    for name in names:
        if name in NAMES:
            return NAMES[name]
        module, _, simple = name.rpartition(".")
        if module != "builtins" and simple in SIMPLE_NAMES:
            return SIMPLE_NAMES[simple]
    return None
