"""How values of one annotation travel: as the JSON that they are, or through pydantic, strict in both directions."""

from __future__ import annotations

import json
import math
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final, Protocol

from queuekit.payload.compare import first_change
from queuekit.payload.text import MAX_DEPTH, Refused, at_place, explained, not_finite, short, show

if TYPE_CHECKING:
    from collections.abc import Iterator


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


SMALL: Final = 2**53


def scalar(value: Any) -> bytes | None:
    """The JSON text of a string, a small integer, a bool or a plain float. None: of what needs a closer look."""
    kind = type(value)
    if kind is str:
        try:
            return encode_basestring(value).encode()
        except UnicodeEncodeError:  # half a pair: whoever looks closer says so
            return None
    if kind is bool:
        return b"true" if value else b"false"
    if kind is float:  # how an exponent is written, each library has its own mind about
        return text.encode() if math.isfinite(value) and "e" not in (text := repr(value)) else None
    return str(value).encode() if kind is int and -SMALL < value < SMALL else None


class Wire(Protocol):
    scalars: tuple[Any, ...]
    """The types of scalar() whose values it carries as they are."""

    def encode(self, value: Any) -> tuple[bytes, Any]:
        """JSON text, and the value after its declared constraints. Raises anything where it cannot."""
        ...

    def verify(self, value: Any, checked: Any, text: bytes, /) -> None:
        """Raises Refused if the text would not come back as the value."""
        ...

    def decode(self, text: bytes) -> Any:
        """The typed value. Raises anything where it cannot."""
        ...


class PlainWire:
    """Without an annotation: only what JSON gives back as it was."""

    scalars = (str, int, bool, float)

    def __init__(self, *, result: bool) -> None:
        self._result = result

    def encode(self, value: Any) -> tuple[bytes, Any]:
        self._check(value, "", 1)
        return dumps(value), value

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
                raise Refused(not_finite(at, value))
        elif depth > MAX_DEPTH:
            raise Refused(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
        elif kind is list:
            for index, item in enumerate(value):
                self._check(item, f"{at}[{index}]", depth + 1)
        elif kind is dict:
            for key, item in value.items():
                if type(key) is not str:
                    raise self._foreign(f"{at_place(at)}has the key {show(key)}")
                self._check(item, f"{at}[{key!r}]", depth + 1)
        else:
            raise self._foreign(f"{at_place(at)}is {show(value)}")

    def _foreign(self, what: str) -> Refused:
        whose = "a result without a return annotation" if self._result else "a parameter without an annotation (or Any)"
        where = "the function's return type" if self._result else "the parameter"
        return Refused(
            f"{what}; {whose} takes only JSON values (None, bool, int, float, str, list, dict with str keys): "
            f"annotate {where} with the type that it has"
        )


def _refuse_constant(constant: str) -> None:
    raise Refused(f"has {constant}, which JSON does not have")


class TypedWire:
    """With an annotation: through pydantic."""

    def __init__(self, annotation: Any) -> None:
        from pydantic import TypeAdapter

        # Inside a tuple, because TypeAdapter takes a config for a type that has none of its own only; from there the
        # config reaches dataclasses and TypedDicts as well. The brackets are cut off the text and put back.
        adapter: TypeAdapter[Any] = TypeAdapter(tuple[annotation], config=_CONFIG)  # pyright: ignore[reportInvalidTypeForm]
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
        schema: Any = adapter.core_schema
        kind = schema["items_schema"][0]["type"] if schema["type"] == "tuple" else None
        if kind in _NO_JSON:
            raise TypeError(_NO_JSON[kind])
        rebuilt = _with_base64_models(schema) if _mentions_bytes(schema) else None
        self._validator: Any
        self._serializer: Any
        self._validator, self._serializer = rebuilt or (adapter.validator, adapter.serializer)
        self.scalars: tuple[Any, ...] = tuple(kind for kind in PlainWire.scalars if annotation is kind)

    def encode(self, value: Any) -> tuple[bytes, Any]:
        (checked,) = self._validator.validate_python((value,), strict=True, by_alias=False, by_name=True)
        text = self._serializer.to_json((checked,), round_trip=True, by_alias=False, warnings="error")
        return text[1:-1], checked

    def verify(self, value: Any, checked: Any, text: bytes) -> None:
        try:
            decoded = self.decode(text)
        except Exception as exc:
            shown, null = short(text.decode()), " (null: of a NaN or an infinity?)" if b"null" in text else ""
            raise Refused(f"is encoded as {shown}{null}, which cannot be read back: {explained(exc)}") from exc
        if first_change(value, decoded, exact=True) is None:
            return
        # Either a declared constraint has changed the value, which is wanted, or its type or a part of it got lost.
        change = first_change(value, checked, exact=False) or first_change(checked, decoded, exact=True)
        if change is not None:
            raise Refused(change.text())

    def decode(self, text: bytes) -> Any:
        (value,) = self._validator.validate_json(b"[" + text + b"]", strict=True, by_alias=False, by_name=True)
        return value


_NO_JSON = {
    "generator": "an iterator can be read only once; declare list[...]",
    "callable": "a function has no JSON; pass its name",
    "is-subclass": "a class has no JSON; pass its name",
}

_BASE64 = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
_CONFIG: Any = {**_BASE64, "allow_inf_nan": False}


def _with_base64_models(schema: Any) -> tuple[Any, Any] | None:
    """A validator and a serializer that carry bytes inside of models as base64, unless the model says otherwise.

    A model keeps its own config, whose default for bytes is UTF-8 text, and no config from outside reaches it. So the
    schema is built again with another default, and pydantic is kept from using the model's ready-made one. Where
    pydantic has no such switch this is None: bytes that are not UTF-8 are then refused, with the remedy.
    """
    from pydantic_core import SchemaSerializer, SchemaValidator

    schema = _rebased(schema)
    try:
        validator = SchemaValidator(schema, _CONFIG, _use_prebuilt=False)
        return validator, SchemaSerializer(schema, _CONFIG, _use_prebuilt=False)
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
