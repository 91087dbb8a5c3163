"""Which errors a rule means, and what it asks for."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self, TypeAlias, cast

from queuekit.errors import ConfigError
from queuekit.retry.backoff import Backoff, Seconds, one_of, positive_int, seconds
from queuekit.retry.category import Category
from queuekit.retry.classify import Chain, name_category
from queuekit.retry.reading import type_name
from queuekit.retry.tables import ALIASES

__all__ = ["Match", "Predicate", "RetryRule", "did_you_mean"]

Predicate: TypeAlias = Callable[[BaseException], bool]
Match: TypeAlias = type[BaseException] | str | Predicate
"""A class, or a text ("openai.RateLimitError", "*.RateLimitError", "category:rate_limit", "status:5xx", "status:429",
"*" for any, "module:function" for a predicate), or a predicate. A predicate gets each error of the chain of causes,
beginning with the one that was raised; one that raises does not match."""

Action: TypeAlias = Literal["retry", "fail"]

DEFAULT_BACKOFF = Backoff(10)

# As long as the preset gives a job in all: a service that asks for more speaks of a daily allowance, not of a limit
# that a waiting job gets past.
DEFAULT_MAX_RETRY_AFTER = 6 * 3600.0

# Compiled when first used, and kept by re.
_STATUS = r"[1-5](?:\d\d|xx)"
_NAME = r"[^\W\d]\w*(?:\.(?:[^\W\d]\w*|<locals>))+"
_PREDICATE = r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)"
_FORMS = (
    "give an exception class, 'package.ClassName', '*.ClassName', 'category:rate_limit', 'status:429', 'status:5xx', "
    "'module:function' or a callable"
)
# "category:server" takes an overloaded service as well, unless an earlier rule does: for who writes a rule for server
# errors, a 503 is one.
_INCLUDES = {"server": frozenset({Category.server, Category.overloaded})}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing."""
    import difflib  # imported on the way to an error only

    known = [str(k) for k in known]  # a StrEnum member shows itself otherwise
    squeezed = {re.sub(r"[\W_]", "", k).lower(): k for k in known}
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", word).lower(), squeezed, n=1, cutoff=0.6)
    return f" Did you mean {squeezed[close[0]]!r}?" if close else ""


class Matcher(NamedTuple):
    """One `on` of a rule, understood."""

    kind: Literal["any", "name", "suffix", "category", "status", "predicate"]
    value: str
    function: Predicate | None = None

    @property
    def label(self) -> str:
        """A short name, for the rule's."""
        last = self.value.rpartition(".")[2]
        return {"any": "any", "category": self.value, "status": f"status_{self.value}"}.get(self.kind, last)

    def matches(self, chain: Chain, notes: list[str]) -> bool:
        """Whether an error is meant. Never raises; what went wrong with a predicate is added to `notes`."""
        if self.kind == "category":
            return chain.category in _INCLUDES.get(self.value, (self.value,))
        if chain.category is Category.lost and self.kind not in {"name", "suffix"}:
            return False
        if self.kind == "any":
            return True
        if self.kind == "status":
            status = "" if chain.decisive.status is None else str(chain.decisive.status)
            same = status[:1] == self.value[:1] if self.value.endswith("xx") else status == self.value
            return bool(status) and same and not (chain.decisive.overruled and self.value in ("429", "4xx"))
        if self.kind == "predicate":
            return any(self._call(link.exc, notes) for link in chain.links)
        return any(
            self._names(name) and not (link.overruled and name_category((name,)) is Category.rate_limit)
            for link in chain.links
            for name in link.names
        )

    def _names(self, name: str) -> bool:
        if self.kind == "suffix":
            return name.endswith("." + self.value)
        if name == self.value:
            return True
        # The name that people import: litellm.RateLimitError is litellm.exceptions.RateLimitError.
        package, _, simple = self.value.rpartition(".")
        return package != "builtins" and name.startswith(package + ".") and name.endswith("." + simple)

    def _call(self, exc: BaseException, notes: list[str]) -> bool:
        try:
            function = self.function or _load(self.value)
            return bool(function(exc))
        except Exception as e:
            note = f"the predicate {self.value} raised {type_name(type(e))}"
            if note not in notes:
                notes.append(note)
            return False


def _load(path: str) -> Predicate:
    import importlib

    module, _, names = path.partition(":")
    thing: object = importlib.import_module(module)
    for name in names.split("."):
        thing = getattr(thing, name)
    if isinstance(thing, type) or not callable(thing):
        raise ConfigError(f"{path!r} is no function")
    return cast("Predicate", thing)


def matcher(on: object) -> tuple[Matcher, str | Predicate]:
    """What an `on` means, and the form in which a rule keeps it.

    Raises:
        ConfigError: it means nothing.
    """
    if isinstance(on, type):
        if not issubclass(on, BaseException):
            raise ConfigError(f"RetryRule(on={on!r}) is no exception class: {_FORMS}")
        # By name, like everything else: a rule does the same where the SDK is not installed.
        return Matcher("name", type_name(on)), type_name(on)
    if isinstance(on, str):
        return _text_matcher(on), on
    if callable(on):
        name = getattr(on, "__qualname__", None) or type_name(type(on))
        predicate = cast("Predicate", on)
        return Matcher("predicate", str(name).replace("<lambda>", "lambda"), predicate), predicate
    raise ConfigError(f"RetryRule(on={on!r}) cannot match an error: {_FORMS}")


def _text_matcher(on: str) -> Matcher:
    what = f"RetryRule(on={on!r})"
    if on == "*":
        return Matcher("any", "*")
    head, colon, tail = on.partition(":")
    if head == "category" and colon:
        if tail not in Category.__members__:
            hint = did_you_mean(tail, (f"category:{c}" for c in Category)) or did_you_mean(on, Category)
            raise ConfigError(f"{what}: there is no such category.{hint} Known: {', '.join(Category)}")
        return Matcher("category", tail)
    if head == "status" and colon:
        if not re.fullmatch(_STATUS, tail):
            raise ConfigError(f"{what}: give a status as 'status:429', or a class of them as 'status:5xx'")
        return Matcher("status", tail)
    if colon:
        found = re.fullmatch(_PREDICATE, on)
        if found is None or head in ("categories", "categroy", "catagory", "cat", "code"):
            raise ConfigError(f"{what} is unknown: {_FORMS}")
        if found[2].rpartition(".")[2].endswith(("Error", "Exception", "Timeout")):
            raise ConfigError(f"{what}: a class is written with a dot. Did you mean {on.replace(':', '.')!r}?")
        if tail in Category.__members__:
            raise ConfigError(f"{what} is unknown. Did you mean 'category:{tail}'?")
        return Matcher("predicate", on)
    if on.startswith("*.") and re.fullmatch(_NAME, "x." + on[2:]):
        return Matcher("suffix", on[2:])
    if re.fullmatch(_NAME, on):
        return Matcher("name", ALIASES.get(on, on))
    builtin = getattr(builtins, on, None) if on.isidentifier() else None
    if isinstance(builtin, type) and issubclass(builtin, BaseException):
        return Matcher("name", type_name(builtin))
    if on in Category.__members__:
        raise ConfigError(f"{what} is unknown. Did you mean 'category:{on}'?")
    if on.isidentifier() and on[:1].isupper():
        raise ConfigError(f"{what} names no package. Did you mean '*.{on}', the class in any package?")
    if re.fullmatch(r"[1-5](\d\d|xx)", on):
        raise ConfigError(f"{what} is unknown. Did you mean 'status:{on}'?")
    raise ConfigError(f"{what} is unknown: {_FORMS}")


@dataclass(frozen=True, slots=True, init=False)
class RetryRule:
    """What to do about one kind of error.

    Attributes:
        on: what it matches, any of them: classes are kept by their qualified name.
        backoff: the waits between its attempts.
        max_attempts: the failure of this kind that ends the job (3: two retries of this kind); None: as many as
            the policy allows.
        action: "retry", or "fail" for at once.
        name: what the rule is called in reasons and counts; None: made from `on`.
        honour_retry_after: the wait that the service asks for is a floor under the backoff's.
        max_retry_after: seconds; asked to wait for longer, the job fails instead.
    """

    on: tuple[str | Predicate, ...]
    backoff: Backoff
    max_attempts: int | None
    action: Action
    name: str | None
    honour_retry_after: bool
    max_retry_after: float
    matchers: tuple[Matcher, ...] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        on: Match | Sequence[Match],
        backoff: Backoff = DEFAULT_BACKOFF,
        *,
        max_attempts: int | None = None,
        action: Action = "retry",
        name: str | None = None,
        honour_retry_after: bool = True,
        max_retry_after: Seconds = DEFAULT_MAX_RETRY_AFTER,
    ) -> None:
        """
        Raises:
            ConfigError: a matcher that means nothing, or a value out of range.
        """
        several: Sequence[object]
        several = list(on) if isinstance(on, (list, tuple, set, frozenset)) else [on]
        if not several:
            raise ConfigError(f"RetryRule(on={on!r}) matches nothing: {_FORMS}; '*' matches any error")
        if not isinstance(backoff, Backoff):
            raise ConfigError(
                f"RetryRule(backoff={backoff!r}) is no Backoff: give Backoff({backoff!r}) to double each wait, "
                f"or Backoff.fixed({backoff!r})"
            )
        if name is not None and (not isinstance(name, str) or not name.strip() or len(name) > 100):
            raise ConfigError(f"RetryRule(name={name!r}): give a text of 1 to 100 characters, or None")
        if not isinstance(honour_retry_after, bool):
            raise ConfigError(f"RetryRule(honour_retry_after={honour_retry_after!r}): give True or False")
        pairs = [matcher(one) for one in several]
        put = object.__setattr__
        put(self, "on", tuple(kept for _, kept in pairs))
        put(self, "matchers", tuple(found for found, _ in pairs))
        put(self, "backoff", backoff)
        put(self, "action", one_of("RetryRule(action)", action, ("retry", "fail")))
        put(self, "name", name)
        put(self, "honour_retry_after", honour_retry_after)
        put(self, "max_retry_after", seconds("RetryRule(max_retry_after)", max_retry_after))
        put(
            self,
            "max_attempts",
            None if max_attempts is None else positive_int("RetryRule(max_attempts)", max_attempts),
        )

    @property
    def label(self) -> str:
        """The rule's name, or one made from what it matches."""
        if self.name is not None:
            return self.name
        labels = list(dict.fromkeys(one.label for one in self.matchers))
        return "+".join(labels[:3]) + (f"+{len(labels) - 3}" if len(labels) > 3 else "")

    def matches(self, chain: Chain, notes: list[str]) -> bool:
        """Whether the rule means this error. Never raises."""
        return any(one.matches(chain, notes) for one in self.matchers)

    def scaled(self, by: float) -> Self:
        """The same rule with every wait of its backoff multiplied by `by`."""
        from dataclasses import replace

        return replace(self, backoff=self.backoff.scaled(by))
