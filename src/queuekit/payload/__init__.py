"""Typed arguments and results of a task <-> JSON, through pydantic.

What a task receives is what the caller gave: the same values, of the same types. A value that JSON would change on the
way (a tuple that comes back as a list, a field that is dropped, a NaN that becomes null) is refused before anything is
written, with the parameter's name and a remedy.

- An annotated value must already be of its declared type (pydantic's strict mode); only an int may stand for a float,
  as it does for a type checker. What a declared constraint does to it (`StringConstraints(strip_whitespace=True)`) is
  wanted, and stays.
- Without an annotation (or with Any, or object) a value is JSON as it stands: None, bool, int, float, str, list, dict
  with str keys.
- Every value is decoded again at encoding, and compared: types that look right can still lose data (a subclass's own
  fields, a serializer that masks, a union whose members look alike in JSON). This costs about as much as the encoding
  itself, which is little beside a round trip to a broker, and a refusal at enqueue is worth far more than a wrong value
  in a worker.
- Bytes travel as base64. A datetime keeps its instant and its UTC offset; the name of its zone does not travel.

pydantic is imported at the first use of an annotated value, never by importing this module.
"""

from __future__ import annotations

import inspect
import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Never, NoReturn, TypeAlias, Unpack, get_origin

from queuekit.errors import ConfigError, PayloadError
from queuekit.payload.arguments import Arguments
from queuekit.payload.signatures import RETURN, Signature
from queuekit.payload.text import MAX_DEPTH, explained, name_of, text_of
from queuekit.payload.wires import PlainWire, TypedWire, dumps, scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuekit.payload.wires import Wire

__all__ = ["JSON", "MAX_DEPTH", "Arguments", "Codec"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

DEFAULT_LIMIT = 1024 * 1024  # bytes
FORM = '{"args":,"kwargs":}'
REMEDY = "keep the data in a file, an object store or a database and send its key, or raise the setting payload_limit"


class Codec:
    """Typed arguments and result of one function <-> JSON. Safe to use from several threads.

    Args:
        fn: the function; its annotations are resolved at the first use of each, with the function's globals.
        task: the task's name, for messages.
        limit: the most bytes (of UTF-8 JSON) that all arguments together, or a result, may take.
        remedy: what the error says of them where they take more.
    """

    def __init__(self, fn: Callable[..., Any], *, task: str, limit: int = DEFAULT_LIMIT, remedy: str = REMEDY) -> None:
        self._task = task
        self._limit = limit
        self._remedy = remedy
        self._signature = Signature(fn, task)
        self._wires: dict[str, Wire] = {}

    def check(self) -> None:
        """Build the codec of every parameter and of the result.

        Raises:
            ConfigError: an annotation cannot be resolved, or its type cannot travel as JSON.
        """
        for name in self._signature.names():
            self._wire(name)

    def encode_arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, later: frozenset[int | str] = frozenset()
    ) -> Arguments:
        """Encode a call's arguments.

        Args:
            later: the places and names of those that are JSON as they stand, since a part of each is filled in later.

        Raises:
            PayloadError: an argument is missing, unknown, of a wrong type, would not arrive as it is, or all together
                are over the limit. `parameter` names it (the largest one, for the limit).
            ConfigError: an annotation cannot be used at all.
        """
        by_place, by_name = self._signature.bind(args, kwargs, why="")
        texts, values, plain = [], [], len(by_name) < 2
        for place, (name, value) in enumerate(zip(by_place, args, strict=True)):
            text = None if place in later else self._scalar(name, value)
            if text is None:
                text, value, plain = *self._argument(name, name, value, stands=place in later), False  # noqa: PLW2901
            texts.append(text)
            values.append(value)
        named, by_key = [], {}
        for key, name in by_name.items():
            value, text = kwargs[key], None if key in later else self._scalar(name, kwargs[key])
            if text is None:
                text, value, plain = *self._argument(name, key, value, stands=key in later), False
            by_key[key] = value
            named.append(dumps(key) + b":" + text)
        args_text, kwargs_text = b"[%b]" % b",".join(texts), b"{%b}" % b",".join(named)
        if (size := len(FORM) + len(args_text) + len(kwargs_text)) > self._limit and (args or kwargs):
            parts = [*zip(by_place, texts, strict=True), *zip(by_name, named, strict=True)]
            largest, _ = max(parts, key=lambda part: len(part[1]))
            raise self._too_large(f"{self._task}: the arguments (the largest is {largest!r}) are", size, largest)
        plain = plain and _is_ascii(args_text) and _is_ascii(kwargs_text)
        return Arguments(values, by_key, args_text.decode(), kwargs_text.decode(), plain)

    def decode_arguments(
        self, args: list[Any], kwargs: dict[str, Any], *, recorded: bool = True
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode arguments that are JSON values into typed ones for `fn(*args, **kwargs)`.

        Args:
            recorded: whether they stand in a record, which is what an error says where they do not fit.

        Raises:
            PayloadError: they do not fit the function (any more). `parameter` names the first that does not.
            ConfigError: an annotation cannot be used at all.
        """
        why = ", so the job was recorded for another version of the task" if recorded else ""
        by_place, by_name = self._signature.bind(args, kwargs, why=why)
        places = [self._decode(name, name, value) for name, value in zip(by_place, args, strict=True)]
        return tuple(places), {key: self._decode(name, key, kwargs[key]) for key, name in by_name.items()}

    def encode_result(self, value: Any) -> str:
        """Encode what the function returned, as JSON text.

        Raises:
            PayloadError: (parameter "return") it is of a wrong type, would not arrive as it is, or is over the limit.
            ConfigError: the return annotation cannot be used at all.
        """
        return self._encode(RETURN, RETURN, value).decode()

    def decode_result(self, text: str) -> Any:
        """Decode a recorded result into its declared type.

        Raises:
            PayloadError: (parameter "return") it does not fit the return annotation (any more).
            ConfigError: the return annotation cannot be used at all.
        """
        wire = self._wire(RETURN)
        with self._refusing(RETURN, RETURN):
            return wire.decode(text.encode())

    # ---- one value --------------------------------------------------------------------------------------------------

    def _argument(self, name: str, key: str, value: Any, *, stands: bool) -> tuple[bytes, JSON]:
        """Its text, and as a JSON value."""
        text = self._as_it_stands(key, value) if stands else self._checked(name, key, value)
        if type(value) in self._wire(name).scalars:
            return text, value
        return text, self._parsed(key, text)

    def _scalar(self, name: str, value: Any) -> bytes | None:
        """The text of what is its own JSON."""
        if type(value) in self._wire(name).scalars:
            text = scalar(value)
            if text is not None and len(text) <= self._limit:
                return text
        return None

    def _encode(self, name: str, key: str, value: Any) -> bytes:
        short = self._scalar(name, value)
        return self._checked(name, key, value) if short is None else short

    def _checked(self, name: str, key: str, value: Any) -> bytes:
        wire = self._wire(name)
        with self._refusing(name, key):
            text, checked = wire.encode(value)
            if len(text) > self._limit:  # before the comparison, which would decode all of it
                raise self._too_large(f"{self._signature.place(name, key)} is", len(text), key)
            wire.verify(value, checked, text)
            return text

    def _as_it_stands(self, key: str, value: Any) -> bytes:
        with self._refusing(key, key):
            return PlainWire(result=False).encode(value)[0]

    def _decode(self, name: str, key: str, value: JSON) -> Any:
        wire = self._wire(name)
        if type(value) in wire.scalars and (type(value) is not float or math.isfinite(value)):
            return value
        with self._refusing(name, key):
            return wire.decode(dumps(value))

    def _parsed(self, key: str, text: bytes) -> Any:
        with self._refusing(key, key):  # even good JSON can be too deep for the caller's stack
            return json.loads(text)

    @contextmanager
    def _refusing(self, name: str, key: str) -> Iterator[None]:
        """Turns whatever goes wrong with one value into a PayloadError: validators and serializers are of the user."""
        try:
            yield
        except PayloadError:
            raise
        except Exception as exc:
            raise PayloadError(f"{self._signature.place(name, key)}: {explained(exc)}", parameter=key) from exc

    def _too_large(self, what: str, size: int, parameter: str) -> PayloadError:
        return PayloadError(
            f"{what} {size} bytes as JSON, over the limit of {self._limit} bytes; {self._remedy}",
            parameter=parameter,
        )

    def _wire(self, name: str) -> Wire:
        wire = self._wires.get(name)
        if wire is None:
            # Two threads may build the same one at the same time: they are alike, and the later stays.
            wire = self._wires[name] = self._build(name)
        return wire

    def _build(self, name: str) -> Wire:
        result = name == RETURN
        place = self._signature.place(name, name)
        annotation = self._signature.annotation(name)
        if any(annotation is open_type for open_type in (inspect.Parameter.empty, Any, object)):
            return PlainWire(result=result)
        if result and annotation in (Never, NoReturn):
            annotation = None  # it only ever raises
        if get_origin(annotation) is Unpack or getattr(annotation, "__unpacked__", False):
            raise ConfigError(f"{place}: {annotation!r} is not supported; name each argument in the signature")
        try:
            return TypedWire(annotation)
        except Exception as exc:  # a type's own __get_pydantic_core_schema__ can raise anything
            raise ConfigError(
                f"{place}: a value of type {name_of(annotation)} cannot travel as JSON ({text_of(exc)}); annotate "
                f"{'the result' if result else 'the parameter'} with a pydantic model, a dataclass, a TypedDict or a "
                f"builtin type, and build the rest inside of the task"
            ) from exc


def _is_ascii(text: bytes) -> bool:
    """All of which JSON's writers write alike: of DEL they think differently."""
    return text.isascii() and b"\x7f" not in text
