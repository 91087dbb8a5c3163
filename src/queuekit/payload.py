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

import dataclasses
import inspect
import json
import math
import sys
from collections import defaultdict, deque
from datetime import datetime, time
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Never, NoReturn, Protocol, TypeAlias, Unpack, get_origin, get_type_hints

from queuekit.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["JSON", "Arguments", "Codec"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

DEFAULT_LIMIT = 1024 * 1024  # bytes

# Deeper values meet different limits in each JSON reader on the way (pydantic's is 200), so we set one of our own.
MAX_DEPTH = 100

# A kind of place for a value: how it is named in messages, and in PayloadError.parameter.
RETURN = "return"


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one call as JSON values: positional ones stay positional, and defaults are not filled in."""

    args: list[JSON]
    kwargs: dict[str, JSON]


class Codec:
    """Typed arguments and result of one function <-> JSON. Safe to use from several threads.

    Args:
        fn: the function; its annotations are resolved at the first use of each, with the function's globals.
        task: the task's name, for messages.
        limit: the most bytes (of UTF-8 JSON) that all arguments together, or a result, may take.
    """

    def __init__(self, fn: Callable[..., Any], *, task: str, limit: int = DEFAULT_LIMIT) -> None:
        self._fn = fn
        self._task = task
        self._limit = limit
        self._signature = _signature(fn, task)
        self._wires: dict[str, _Wire] = {}
        parameters = self._signature.parameters.values()
        self._positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._keyword = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self._required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
        self._rest = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._rest_by_name = next((p for p in parameters if p.kind is p.VAR_KEYWORD), None)

    def check(self) -> None:
        """Build the codec of every parameter and of the result.

        Raises:
            ConfigError: an annotation cannot be resolved, or its type cannot travel as JSON.
        """
        for name in (*self._signature.parameters, RETURN):
            self._wire(name)

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Encode a call's arguments.

        Raises:
            PayloadError: an argument is missing, unknown, of a wrong type, would not arrive as it is, or all together
                are over the limit. `parameter` names it (the largest one, for the limit).
            ConfigError: an annotation cannot be used at all.
        """
        by_place, by_name = self._bind(args, kwargs, why="")
        places = [(name, self._encode(name, name, value)) for name, value in zip(by_place, args, strict=True)]
        named = {key: self._encode(name, key, kwargs[key]) for key, name in by_name.items()}
        self._check_total(places, named)
        return Arguments(
            args=[self._parsed(name, text) for name, text in places],
            kwargs={key: self._parsed(key, text) for key, text in named.items()},
        )

    def decode_arguments(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode recorded arguments into typed values for `fn(*args, **kwargs)`.

        Raises:
            PayloadError: they do not fit the function (any more). `parameter` names the first that does not.
            ConfigError: an annotation cannot be used at all.
        """
        why = ", so the job was recorded for another version of the task"
        by_place, by_name = self._bind(args, kwargs, why=why)
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
        with _Refusing(self._place(RETURN, RETURN), RETURN):
            return wire.decode(text.encode())

    # ---- which value belongs to which parameter ---------------------------------------------------------------------

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, why: str) -> tuple[list[str], dict[str, str]]:
        """The parameter's name for each positional argument, and for each keyword."""
        places = [p.name for p in self._positional[: len(args)]]
        if len(args) > len(places):
            if self._rest is None:
                raise PayloadError(
                    f"{self._task}{self._signature_text()} takes at most {len(places)} positional arguments, "
                    f"but {len(args)} were given{why}"
                )
            places += [self._rest.name] * (len(args) - len(places))

        names: dict[str, str] = {}
        for key in kwargs:
            if key in self._keyword:
                if key in places:
                    raise self._refusal(key, f"is given twice, by place and by name{why}")
                names[key] = key
            elif self._rest_by_name is not None:
                names[key] = self._rest_by_name.name
            elif key in self._signature.parameters:
                raise self._refusal(key, f"can only be given by place, not by name{why}")
            else:
                raise self._refusal(key, f"is unknown{why}{self._suggestion(key)}")

        for name in self._required:
            if name not in places and names.get(name) != name:
                raise self._refusal(name, f"is missing{why}; the task is {self._task}{self._signature_text()}")
        return places, names

    def _refusal(self, parameter: str, what: str) -> PayloadError:
        return PayloadError(f"{self._place(parameter, parameter)} {what}", parameter=parameter)

    def _suggestion(self, key: str) -> str:
        import difflib

        near = difflib.get_close_matches(str(key), self._keyword, n=1)
        return f"; did you mean {near[0]!r}?" if near else f"; the task is {self._task}{self._signature_text()}"

    def _signature_text(self) -> str:
        # Without defaults, whose text could be anything; without annotations, which only make it long.
        shown = [p.replace(annotation=p.empty, default=p.empty) for p in self._signature.parameters.values()]
        return str(inspect.Signature(shown))

    def _place(self, name: str, key: str) -> str:
        if name == RETURN:
            return f"{self._task}: the result"
        return f"{self._task}: argument {key!r}"

    # ---- one value --------------------------------------------------------------------------------------------------

    def _encode(self, name: str, key: str, value: Any) -> bytes:
        wire = self._wire(name)
        with _Refusing(self._place(name, key), key):
            text, checked = wire.encode(value)
            if len(text) > self._limit:  # before the comparison, which would decode all of it
                raise self._too_large(f"{self._place(name, key)} is", len(text), key)
            wire.verify(value, checked, text)
            return text

    def _decode(self, name: str, key: str, value: JSON) -> Any:
        wire = self._wire(name)
        with _Refusing(self._place(name, key), key):
            return wire.decode(_dumps(value))

    def _parsed(self, key: str, text: bytes) -> Any:
        with _Refusing(self._place(key, key), key):  # even good JSON can be too deep for the caller's stack
            return json.loads(text)

    def _check_total(self, places: list[tuple[str, bytes]], named: dict[str, bytes]) -> None:
        parts = [text for _, text in places] + [_dumps(key) + b":" + text for key, text in named.items()]
        size = sum(map(len, parts)) + len(parts) + len('{"args":[],"kwargs":{}}')
        if parts and size > self._limit:
            largest, _ = max([*places, *named.items()], key=lambda item: len(item[1]))
            raise self._too_large(f"{self._task}: the arguments (the largest is {largest!r}) are", size, largest)

    def _too_large(self, what: str, size: int, parameter: str) -> PayloadError:
        return PayloadError(
            f"{what} {size} bytes as JSON, over the limit of {self._limit} bytes; keep the data in a file, an object "
            f"store or a database and send its key, or raise the setting payload_limit",
            parameter=parameter,
        )

    def _wire(self, name: str) -> _Wire:
        wire = self._wires.get(name)
        if wire is None:
            # Two threads may build the same one at the same time: they are alike, and the later stays.
            wire = self._wires[name] = self._build(name)
        return wire

    def _build(self, name: str) -> _Wire:
        result = name == RETURN
        raw = self._signature.return_annotation if result else self._signature.parameters[name].annotation
        place = self._place(name, name)
        try:
            annotation = _resolved(raw, self._fn)
        except Exception as exc:  # evaluating a string can raise anything
            raise ConfigError(
                f"{place}: its annotation {raw!r} cannot be resolved ({type(exc).__name__}: {exc}); "
                f"import or define what it names at the top level of the task's module, outside of `if TYPE_CHECKING`"
            ) from exc
        if any(annotation is open_type for open_type in (inspect.Parameter.empty, Any, object)):
            return _PlainWire(place)
        if result and annotation in (Never, NoReturn):
            annotation = None  # it only ever raises
        if get_origin(annotation) is Unpack or getattr(annotation, "__unpacked__", False):
            raise ConfigError(f"{place}: {annotation!r} is not supported; name each argument in the signature")
        try:
            return _TypedWire(annotation)
        except Exception as exc:  # so can a type's own __get_pydantic_core_schema__
            raise ConfigError(
                f"{place}: a value of type {_name(annotation)} cannot travel as JSON ({_text_of(exc)}); annotate "
                f"{'the result' if result else 'the parameter'} with a pydantic model, a dataclass, a TypedDict or a "
                f"builtin type, and build the rest inside of the task"
            ) from exc


class _Refused(Exception):
    """Why a value cannot travel; becomes a PayloadError where the parameter is known."""


class _Refusing:
    """Turns whatever goes wrong with one value into a PayloadError: validators and serializers are code of the user."""

    def __init__(self, place: str, parameter: str) -> None:
        self._place = place
        self._parameter = parameter

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> Literal[False]:
        if not isinstance(exc, Exception) or isinstance(exc, PayloadError):
            return False
        raise PayloadError(f"{self._place}: {_explained(exc)}", parameter=self._parameter) from exc


# How pydantic says it, in its several stages.
_TOO_DEEP = ("recursion limit", "Recursion limit", "Circular reference", "depth exceeded")
_NOT_UNICODE = "has text that is not valid Unicode (half of a surrogate pair); clean it with .encode(errors='replace')"


def _explained(exc: Exception) -> str:
    if isinstance(exc, _Refused):
        return str(exc)
    if isinstance(exc, RecursionError) or any(words in str(exc) for words in _TOO_DEEP):
        return f"is nested too deeply, or contains itself; at most {MAX_DEPTH} levels can be relied on"
    if isinstance(exc, UnicodeEncodeError) or "surrogates not allowed" in str(exc):
        return _NOT_UNICODE
    if isinstance(exc, UnicodeDecodeError) or "invalid utf-8" in str(exc):
        return (
            "has bytes that are not UTF-8 in a field of a model; set ser_json_bytes and val_json_bytes to 'base64' in "
            "the model's config"
        )
    errors: Any = getattr(exc, "errors", None)  # a pydantic ValidationError, without importing it
    if callable(errors):
        found: Any = errors(include_url=False, include_context=False)
        shown = [f"{_path(error['loc'][1:])}{error['msg']}, got {_show(error['input'])}" for error in found[:3]]
        return "; ".join(shown) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    return f"cannot be encoded or decoded ({type(exc).__name__}: {_text_of(exc)})"


# ---- how values of one annotation travel ---------------------------------------------------------------------------


class _Wire(Protocol):
    def encode(self, value: Any) -> tuple[bytes, Any]:
        """JSON text, and the value after its declared constraints. Raises anything where it cannot."""
        ...

    def verify(self, value: Any, checked: Any, text: bytes, /) -> None:
        """Raises _Refused if the text would not come back as the value."""
        ...

    def decode(self, text: bytes) -> Any:
        """The typed value. Raises anything where it cannot."""
        ...


class _PlainWire:
    """Without an annotation: only what JSON gives back as it was."""

    def __init__(self, place: str) -> None:
        self._result = place.endswith("the result")

    def encode(self, value: Any) -> tuple[bytes, Any]:
        self._check(value, "", 1)
        return _dumps(value), value

    def verify(self, _value: Any, _checked: Any, _text: bytes, /) -> None:
        return None  # encode() admits nothing that could change

    def decode(self, text: bytes) -> Any:
        return json.loads(text, parse_constant=_refuse_constant)

    def _check(self, value: Any, at: str, depth: int) -> None:
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return
        if kind is float:
            if not math.isfinite(value):
                raise _Refused(f"{_at(at)}is {value!r}, which JSON does not have; send None or a str in its place")
        elif depth > MAX_DEPTH:
            raise _Refused(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
        elif kind is list:
            for index, item in enumerate(value):
                self._check(item, f"{at}[{index}]", depth + 1)
        elif kind is dict:
            for key, item in value.items():
                if type(key) is not str:
                    raise self._foreign(f"{_at(at)}has the key {_show(key)}")
                self._check(item, f"{at}[{key!r}]", depth + 1)
        else:
            raise self._foreign(f"{_at(at)}is {_show(value)}")

    def _foreign(self, what: str) -> _Refused:
        whose = "a result without a return annotation" if self._result else "a parameter without an annotation (or Any)"
        where = "the function's return type" if self._result else "the parameter"
        return _Refused(
            f"{what}; {whose} takes only JSON values (None, bool, int, float, str, list, dict with str keys): "
            f"annotate {where} with the type that it has"
        )


class _TypedWire:
    """With an annotation: through pydantic, strict in both directions."""

    def __init__(self, annotation: Any) -> None:
        from pydantic import ConfigDict, TypeAdapter

        # Inside a tuple, because TypeAdapter takes a config for a type that has none of its own only; from there the
        # config reaches dataclasses and TypedDicts as well. The brackets are cut off the text and put back.
        config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False)
        adapter: TypeAdapter[Any] = TypeAdapter(tuple[annotation], config=config)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
        schema: Any = adapter.core_schema
        kind = schema["items_schema"][0]["type"] if schema["type"] == "tuple" else None
        if kind in _NO_JSON:
            raise TypeError(_NO_JSON[kind])
        self._validator: Any = adapter.validator
        self._serializer: Any = adapter.serializer
        if _mentions_bytes(schema):
            self._validator, self._serializer = _with_base64_models(schema) or (self._validator, self._serializer)

    def encode(self, value: Any) -> tuple[bytes, Any]:
        (checked,) = self._validator.validate_python((value,), strict=True, by_alias=False, by_name=True)
        text = self._serializer.to_json((checked,), round_trip=True, by_alias=False, warnings="error")
        return text[1:-1], checked

    def verify(self, value: Any, checked: Any, text: bytes) -> None:
        try:
            decoded = self.decode(text)
        except Exception as exc:
            shown, null = _short(text.decode()), " (null: of a NaN or an infinity?)" if b"null" in text else ""
            raise _Refused(f"is encoded as {shown}{null}, which cannot be read back: {_explained(exc)}") from exc
        if _change(value, decoded, exact=True) is None:
            return
        # Either a declared constraint has changed the value, which is wanted, or its type or a part of it got lost.
        change = _change(value, checked, exact=False) or _change(checked, decoded, exact=True)
        if change is not None:
            raise _Refused(change.text())

    def decode(self, text: bytes) -> Any:
        (value,) = self._validator.validate_json(b"[" + text + b"]", strict=True, by_alias=False, by_name=True)
        return value


_NO_JSON = {
    "generator": "an iterator can be read only once; declare list[...]",
    "callable": "a function has no JSON; pass its name",
    "is-subclass": "a class has no JSON; pass its name",
}

_BASE64 = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}


def _with_base64_models(schema: Any) -> tuple[Any, Any] | None:
    """A validator and a serializer that carry bytes inside of models as base64, unless the model says otherwise.

    A model keeps its own config, whose default for bytes is UTF-8 text, and no config from outside reaches it. So the
    schema is built again with another default, and pydantic is kept from using the model's ready-made one. Where
    pydantic has no such switch this is None: bytes that are not UTF-8 are then refused, with the remedy.
    """
    from pydantic_core import SchemaSerializer, SchemaValidator

    schema = _rebased(schema)
    config: Any = {**_BASE64, "allow_inf_nan": False}
    try:
        validator = SchemaValidator(schema, config, _use_prebuilt=False)
        return validator, SchemaSerializer(schema, config, _use_prebuilt=False)
    except TypeError:
        return None


def _rebased(schema: Any) -> Any:
    """The schema with base64 as the default of every config in it."""
    if type(schema) in (list, tuple):
        return type(schema)(map(_rebased, schema))
    if type(schema) is not dict:
        return schema
    copy = {key: _rebased(part) for key, part in _schema_parts(schema)}
    if schema.get("type") in ("model", "dataclass", "typed-dict") and "config" in schema:
        copy["config"] = {**_BASE64, **schema["config"]}
    return {**schema, **copy}


def _mentions_bytes(schema: Any) -> bool:
    if type(schema) in (list, tuple):
        return any(map(_mentions_bytes, schema))
    if type(schema) is not dict:
        return False
    return schema.get("type") == "bytes" or any(_mentions_bytes(part) for _, part in _schema_parts(schema))


def _schema_parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What can hold schemas: not a default and the metadata, values of the user (but there are fields of that name)."""
    is_schema = isinstance(schema.get("type"), str)
    return ((key, part) for key, part in schema.items() if not (is_schema and key in ("default", "metadata")))


# ---- is it still the same value? -----------------------------------------------------------------------------------


class _Gone:
    def __repr__(self) -> str:
        return "nothing"


_GONE = _Gone()


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    at: str
    before: object
    after: object

    def text(self) -> str:
        before, after = self.before, self.after
        if isinstance(before, str) and any("\ud800" <= letter <= "\udfff" for letter in before):
            return f"{_at(self.at)}{_NOT_UNICODE}"
        if after is _GONE:
            text = f"{_at(self.at)}{_show(before)} would get lost: the declared type has no place for it"
            keys = (
                ""
                if isinstance(before, str)
                else " (is it a key? JSON's are strings: declare it, as in dict[int, str])"
            )
            return text + keys
        if isinstance(before, float) and not math.isfinite(before):
            return f"{_at(self.at)}is {before!r}, which JSON does not have; send None or a str in its place"
        if hasattr(before, "__next__"):
            return f"{_at(self.at)}is an iterator, which can be read only once; declare list[...]"
        text = f"{_at(self.at)}{_show(before)} would arrive as {_show(after)}"
        if type(before) is type(after):
            return f"{text}; its type must give back from JSON what it was"
        if isinstance(before, type(after)):
            return f"{text}; declare {type(before).__name__} as the type, or pass a plain {type(after).__name__}"
        return f"{text}; declare the type that it has, or convert it first"


_ATOMS = frozenset({type(None), bool, int, str, bytes})


def _change(a: Any, b: Any, *, exact: bool) -> _Change | None:
    """The first place where b is not what a was, or None.

    With exact=False values may differ, as a declared constraint makes them, but types may not, and no key may go.
    """
    if a is b:
        return None
    kind = type(a)
    if kind is not type(b):
        # To a type checker an int is a float. Python compares the two exactly, so one too large for a float differs.
        return None if kind is int and type(b) is float and a == b else _Change("", a, b)
    if kind not in _ATOMS:
        for x, y, where in _parts(a, b, exact):
            if x is not y:
                change = _change(x, y, exact=exact)
                if change is not None:
                    at = where if isinstance(where, str) else f"[{_short(_repr(*where))}]"
                    return dataclasses.replace(change, at=at + change.at)
    elif a == b:
        return None
    if exact and not _alike(a, b):
        return _Change("", a, b)
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
    return dataclasses.is_dataclass(value) or hasattr(type(value), "__pydantic_fields__") or _is_plain_object(value)


def _is_plain_object(value: object) -> bool:
    """An object that compares by identity, but shows what it holds."""
    return _compares_by_identity(value) and hasattr(value, "__dict__")


def _compares_by_identity(value: object) -> bool:
    equals: Any = type(value).__eq__
    return bool(equals is object.__eq__)


def _fields(value: Any) -> dict[str, Any]:
    """What a dataclass, a model or a plain object holds; cached properties and private attributes are left out."""
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


# ---- signatures and annotations ------------------------------------------------------------------------------------


def _signature(fn: Callable[..., Any], task: str) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib  # annotations are evaluated lazily there, and may name what is defined later

            return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(fn)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{task}: {fn!r} has no signature that can be read; wrap it in a function with `def`"
        ) from exc


def _resolved(annotation: Any, fn: Callable[..., Any]) -> Any:
    """The annotation with its forward references resolved."""
    if annotation is inspect.Parameter.empty:
        return annotation

    def holder() -> None: ...

    # One at a time, so that an error belongs to one parameter.
    holder.__annotations__ = {"it": annotation}
    return get_type_hints(holder, globalns=_globals(fn), include_extras=True)["it"]


def _globals(fn: Any) -> dict[str, Any]:
    fn = inspect.unwrap(fn)
    while hasattr(fn, "func"):  # functools.partial
        fn = inspect.unwrap(fn.func)
    if not hasattr(fn, "__globals__"):  # an object with __call__
        fn = type(fn).__call__
    found: dict[str, Any] = getattr(fn, "__globals__", {})
    return found


# ---- text ----------------------------------------------------------------------------------------------------------


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _refuse_constant(constant: str) -> None:
    raise _Refused(f"has {constant}, which JSON does not have")


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # a __repr__ of the user, or a value that contains itself
        return f"<{type(value).__name__}>"


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _show(value: object) -> str:
    return "nothing" if value is _GONE else f"{_short(_repr(value))} ({type(value).__name__})"


def _name(annotation: object) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _text_of(exc: BaseException) -> str:
    return _short(" ".join(str(exc).split()), 200)


def _at(at: str) -> str:
    return f"at {at}: " if at else ""


def _path(loc: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return _at(text)
