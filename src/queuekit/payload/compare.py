"""Is it still the same value? Finds the first place where what would arrive is not what was given."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from datetime import datetime, time
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from queuekit.payload.text import NOT_UNICODE, at_place, not_finite, safe_repr, short, show

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATOMS = frozenset({type(None), bool, int, str, bytes})


class _Gone:
    """Stands where one of two values has no such part."""


_GONE = _Gone()


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    at: str
    before: object
    after: object

    def text(self) -> str:
        before, after = self.before, self.after
        if isinstance(before, str) and any("\ud800" <= letter <= "\udfff" for letter in before):
            return f"{at_place(self.at)}{NOT_UNICODE}"
        shown = f"{at_place(self.at)}{'nothing' if before is _GONE else show(before)}"
        if after is _GONE:
            key = (
                ""
                if isinstance(before, str)
                else " (is it a key? JSON's are strings: declare it, as in dict[int, str])"
            )
            return f"{shown} would get lost: the declared type has no place for it{key}"
        if isinstance(before, float) and not math.isfinite(before):
            return not_finite(self.at, before)
        if hasattr(before, "__next__"):
            return f"{at_place(self.at)}is an iterator, which can be read only once; declare list[...]"
        text = f"{shown} would arrive as {show(after)}"
        if type(before) is type(after):
            return f"{text}; its type must give back from JSON what it was"
        if isinstance(before, type(after)):
            return f"{text}; declare {type(before).__name__} as the type, or pass a plain {type(after).__name__}"
        return f"{text}; declare the type that it has, or convert it first"


def first_change(a: Any, b: Any, *, exact: bool) -> Change | None:
    """The first place where b is not what a was, or None.

    With exact=False values may differ, as a declared constraint makes them, but types may not, and no key may go.
    """
    if a is b:
        return None
    kind = type(a)
    if kind is not type(b):
        # To a type checker an int is a float. Python compares the two exactly, so one too large for a float differs.
        return None if kind is int and type(b) is float and a == b else Change("", a, b)
    if kind not in _ATOMS:
        for x, y, where in _parts(a, b, exact):
            if x is not y:
                change = first_change(x, y, exact=exact)
                if change is not None:
                    at = where if isinstance(where, str) else f"[{short(safe_repr(*where))}]"
                    return dataclasses.replace(change, at=at + change.at)
    elif a == b:
        return None
    if exact and not _alike(a, b):
        return Change("", a, b)
    return None


def _parts(a: Any, b: Any, exact: bool) -> Iterator[tuple[Any, Any, str | tuple[Any]]]:
    """The parts of two values of one type, in pairs, each with its place: some text, or the key in a tuple of one."""
    if isinstance(a, (list, tuple, deque)):
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            yield x, y, (index,)
    elif isinstance(a, dict):
        keys = {key: key for key in b}
        for key, value in a.items():
            yield key, keys.get(key, _GONE), (key,)
            yield value, b.get(key, _GONE), (key,)
    elif isinstance(a, (set, frozenset)):
        members = {item: item for item in b}
        for item in a:
            if exact or item in members:
                yield item, members.get(item, _GONE), ""
    elif exact and _is_record(a):
        of_a, of_b = _fields(a), _fields(b)
        for name in of_a | of_b:
            yield of_a.get(name, _GONE), of_b.get(name, _GONE), f".{name}"
        for name, value in (getattr(a, "__pydantic_private__", None) or {}).items():
            # What is compared by identity (a lock, a client) belongs to a process, and is made anew in each.
            if not _compares_by_identity(value):
                yield value, (b.__pydantic_private__ or {}).get(name, _GONE), f".{name}"


def _is_record(value: object) -> bool:
    """A dataclass, a model, or a plain object: one that compares by identity, but shows what it holds."""
    if dataclasses.is_dataclass(value) or hasattr(type(value), "__pydantic_fields__"):
        return True
    return _compares_by_identity(value) and hasattr(value, "__dict__")


def _compares_by_identity(value: object) -> bool:
    return type(value).__eq__ is object.__eq__


def _fields(value: Any) -> dict[str, Any]:
    """What a record holds; cached properties and private attributes are left out."""
    kind = type(value)
    if hasattr(kind, "__pydantic_fields__") and not dataclasses.is_dataclass(kind):
        held = {name: vars(value).get(name, _GONE) for name in kind.__pydantic_fields__}
        return held | (value.__pydantic_extra__ or {})
    held = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(kind, name, None), cached_property)
    }
    if dataclasses.is_dataclass(kind):
        held |= {field.name: getattr(value, field.name, _GONE) for field in dataclasses.fields(kind)}
    return held


def _alike(a: Any, b: Any) -> bool:
    """Whether two values of one type are alike in what their parts do not show."""
    if isinstance(a, (list, tuple, dict, set, frozenset, deque)):
        # A dict and a set of equal size, in which each item has found its like.
        factory = not isinstance(a, defaultdict) or a.default_factory == b.default_factory
        return len(a) == len(b) and factory and (not isinstance(a, deque) or a.maxlen == b.maxlen)
    if _is_record(a):
        return True
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())  # 1.0 is not 1.00
    if isinstance(a, (datetime, time)):
        # By hand, for two datetimes of different zones never compare equal in the hour that a clock is set back.
        if (a.tzinfo is None) != (b.tzinfo is None) or a.utcoffset() != b.utcoffset():
            return False
        return bool(a.replace(tzinfo=None, fold=0) == b.replace(tzinfo=None, fold=0))
    if isinstance(a, float):
        return bool(a == b) or (math.isnan(a) and math.isnan(b))
    try:
        return bool(a == b)
    except Exception:  # an __eq__ of the user
        return False
