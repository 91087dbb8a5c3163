"""Wording: how a value, a place inside of it, and whatever went wrong with it are told in an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Deeper values meet different limits in each JSON reader on the way (pydantic's is 200), so we set one of our own.
MAX_DEPTH = 100

NOT_UNICODE = "has text that is not valid Unicode (half of a surrogate pair); clean it with .encode(errors='replace')"

# How pydantic says it, in its several stages.
_TOO_DEEP = ("recursion limit", "Recursion limit", "Circular reference", "depth exceeded")


class Refused(Exception):
    """Why a value cannot travel; becomes a PayloadError where the parameter is known."""


def explained(exc: Exception) -> str:
    """What has gone wrong, to follow the name of the argument."""
    if isinstance(exc, Refused):
        return str(exc)
    if isinstance(exc, RecursionError) or any(words in str(exc) for words in _TOO_DEEP):
        return f"is nested too deeply, or contains itself; at most {MAX_DEPTH} levels can be relied on"
    if isinstance(exc, UnicodeEncodeError) or "surrogates not allowed" in str(exc):
        return NOT_UNICODE
    if isinstance(exc, UnicodeDecodeError) or "invalid utf-8" in str(exc):
        return (
            "has bytes that are not UTF-8 in a field of a model; set ser_json_bytes and val_json_bytes to 'base64' in "
            "the model's config"
        )
    errors: Any = getattr(exc, "errors", None)  # a pydantic ValidationError, without importing it
    if callable(errors):
        found: Any = errors(include_url=False, include_context=False)
        shown = [f"{_path(error['loc'][1:])}{error['msg']}, got {show(error['input'])}" for error in found[:3]]
        return "; ".join(shown) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    return f"cannot be encoded or decoded ({type(exc).__name__}: {text_of(exc)})"


def not_finite(at: str, value: float) -> str:
    return f"{at_place(at)}is {value!r}, which JSON does not have; send None or a str in its place"


def at_place(at: str) -> str:
    return f"at {at}: " if at else ""


def _path(loc: Sequence[int | str]) -> str:
    return at_place("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc))


def show(value: object) -> str:
    return f"{short(safe_repr(value))} ({type(value).__name__})"


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # a __repr__ of the user, or a value that contains itself
        return f"<{type(value).__name__}>"


def short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def text_of(exc: BaseException) -> str:
    return short(" ".join(str(exc).split()), 200)


def name_of(annotation: object) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
