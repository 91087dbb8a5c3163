"""A short name for the code of a task, by which two workers can tell that they run different versions of it."""

from __future__ import annotations

import inspect
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from queuekit.payload.signatures import signature_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HALF", "fingerprint"]

HALF: Final = 6  # characters
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def fingerprint(fn: Callable[..., Any], task: str) -> str:
    """HALF characters of what the function takes and returns, and HALF of its source text, decorators included. Zeros
    in place of the second where the source cannot be read.

    Classes are known by their names: a model that got another field is the same here.
    """
    plain = inspect.unwrap(fn)
    try:
        # Code of exec() and of -c has this name for a file, and inspect takes one for the other (from 3.13 on).
        nameless = inspect.getfile(plain) == "<string>"
        source = "" if nameless else inspect.getsource(plain)
    except Exception:  # there is no file, or it was changed under us: no reason not to start
        source = ""
    return _hash(_text(fn, task)) + (_hash(inspect.cleandoc(source)) if source else "0" * HALF)


def _text(fn: Callable[..., Any], task: str) -> str:
    """As it is written: annotations are not resolved, and of a default only counts that there is one."""
    signature = signature_of(fn, task)
    parts = [f"{one.kind}:{one.name}:{_named(one.annotation)}:{one.default is one.empty}" for one in
             signature.parameters.values()]  # fmt: skip
    return "|".join([*parts, _named(signature.return_annotation)])


def _named(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    return _ADDRESS.sub("", repr(annotation))


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "backslashreplace"), digest_size=HALF // 2).hexdigest()
