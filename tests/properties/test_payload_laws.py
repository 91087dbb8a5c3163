"""Laws of the payload: what arrives is what was sent, with its types, or a PayloadError says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from queuekit.errors import PayloadError
from queuekit.payload import Arguments, Codec

T = TypeVar("T")
Typed = tuple[Any, "st.SearchStrategy[Any]"]  # an annotation, and values of it


class Colour(Enum):
    red = 1
    blue = "b"


class Level(IntEnum):
    low = 1
    high = 2


class Name(StrEnum):
    ada = "ada"


class Box(BaseModel, Generic[T]):
    item: T
    raw: bytes = b""


class BiggerBox(Box[T], Generic[T]):
    more: int = 0


@dataclass
class Pair(Generic[T]):
    left: T
    right: float = 0.0


class Row(TypedDict):
    at: datetime
    value: Decimal | None


class Span(NamedTuple):
    start: date
    length: timedelta


# ---- annotations with their values ---------------------------------------------------------------------------------

offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
zones = st.none() | offsets
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
paths = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(Path)
moments = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=zones)

HASHABLE: list[Typed] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (str, st.text(max_size=8)),
    (bytes, st.binary(max_size=8)),
    (float, floats),
    (Decimal, decimals),
    (date, st.dates()),
    (datetime, moments),
    (time, st.times(timezones=zones)),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Path, paths),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Name, st.sampled_from(Name)),
]
KEYS = [typed for typed in HASHABLE if typed[0] is not Colour]  # its members are not all alike as keys of an object

leaves: st.SearchStrategy[Typed] = st.sampled_from(
    [
        *HASHABLE,
        (type(None), st.none()),
        (Row, st.fixed_dictionaries({"at": moments, "value": st.none() | decimals})),
        (Span, st.builds(Span, st.dates(), st.timedeltas())),
    ]
)


def larger(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def one(typed: Typed) -> st.SearchStrategy[Typed]:
        annotation, values = typed
        few = st.lists(values, max_size=3)
        return st.sampled_from(
            [
                (list[annotation], few),
                (tuple[annotation, ...], few.map(tuple)),
                (annotation | None, values | st.none()),
                (dict[str, annotation], st.dictionaries(st.text(max_size=3), values, max_size=3)),
                (Box[annotation], st.builds(Box[annotation], item=values, raw=st.binary(max_size=3))),
                (Pair[annotation], st.builds(Pair, left=values, right=floats)),
            ]
        )

    def two(pair: tuple[Typed, Typed]) -> Typed:
        (first, firsts), (second, seconds) = pair
        return tuple[first, second], st.tuples(firsts, seconds)

    def of_hashable(typed: Typed) -> st.SearchStrategy[Typed]:
        annotation, values = typed
        return st.sampled_from(
            [(set[annotation], st.sets(values, max_size=3)), (frozenset[annotation], st.frozensets(values, max_size=3))]
        )

    def by_key(pair: tuple[Typed, Typed]) -> Typed:
        (key, keys), (annotation, values) = pair
        return dict[key, annotation], st.dictionaries(keys, values, max_size=3)

    return (
        inner.flatmap(one)
        | st.tuples(inner, inner).map(two)
        | st.sampled_from(HASHABLE).flatmap(of_hashable)
        | st.tuples(st.sampled_from(KEYS), inner).map(by_key)
    )


typed_values = st.recursive(leaves, larger, max_leaves=4)


def shape(value: Any) -> Any:
    """A value with its types, for == is too kind (1 == 1.0 == True), and a datetime's offset."""
    if isinstance(value, dict):
        return type(value), {(type(key), shape(key)): shape(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), tuple(shape(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(shape(item) for item in value)
    if isinstance(value, (BaseModel, Pair)):
        return type(value), tuple((name, shape(item)) for name, item in sorted(vars(value).items()))
    if isinstance(value, (datetime, time)):
        return type(value), value.utcoffset(), value.replace(tzinfo=None)
    if isinstance(value, (float, Decimal)):
        return type(value), repr(value)
    return type(value), value


def codec(annotation: Any, *, limit: int = 1024 * 1024) -> Codec:
    def function(value: Any) -> Any: ...

    function.__annotations__ = {"value": annotation, "return": annotation}
    return Codec(function, task="m.f", limit=limit)


def parsed(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_values_of_an_annotated_type_arrive_as_they_were_sent(data: st.DataObject) -> None:
    annotation, values = data.draw(typed_values)
    value = data.draw(values)
    subject = codec(annotation)

    sent = subject.encode_arguments((value,), {})
    carried = parsed(json.dumps([sent.args, sent.kwargs], allow_nan=False))
    assert shape(subject.decode_arguments(*carried)) == shape(((value,), {}))

    text = subject.encode_result(value)
    assert parsed(text) == sent.args[0]
    assert shape(subject.decode_result(text)) == shape(value)


# ---- anything at all -----------------------------------------------------------------------------------------------


class Moody:
    """Raises whatever is asked of it."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("no items")


def looped() -> list[Any]:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    return loop


oddities = st.one_of(
    st.floats(),
    st.text(st.characters(), max_size=4),  # with halves of surrogate pairs
    st.builds(Moody),
    st.builds(looped),
    st.builds(lambda: iter([1])),
    st.builds(object),
    st.builds(BiggerBox[Any], item=st.integers(), more=st.integers()),
    st.builds(lambda item: Box[Any].model_construct(item=item, raw="x"), st.text(max_size=2)),
    st.builds(Pair, st.integers(), st.text(max_size=2)),
    st.fixed_dictionaries({"at": moments, "value": st.none(), "extra": st.integers()}),
    st.builds(lambda: 10**5000),
    st.sampled_from([bytearray(b"a"), range(3), len, int, 1j, Decimal("NaN"), Ellipsis]),
    leaves.flatmap(lambda typed: typed[1]),
)
anything = st.recursive(
    oddities,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers() | st.sampled_from(Name), inner, max_size=3)
        | st.builds(lambda item: Box[Any](item=item), inner)
    ),
    max_leaves=4,
)

ANNOTATIONS: list[Any] = [
    Any,
    object,
    list,
    list[Any],
    dict[str, Any],
    dict[Any, Any],
    tuple[Any, ...],
    Box[Any],
    Box[int],
    Pair[Any],
    Row,
    int | str | float | bool | None,
    datetime | str,
    bytes | str | Path,
    set[int] | list[int] | tuple[int, ...],
    Box[int] | Row | Span | dict[str, int],
    Decimal | float | int,
    str | Name | UUID,
    list[int | datetime | Path] | None,
    dict[int | str, Any],
    *(annotation for annotation, _ in HASHABLE),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ANNOTATIONS), anything)
def test_whatever_is_given_arrives_as_it_is_or_is_refused(annotation: Any, value: Any) -> None:
    subject = codec(annotation)
    try:
        sent = subject.encode_arguments((value,), {})
    except PayloadError as error:
        assert error.parameter == "value"
        sent = None
    try:
        text = subject.encode_result(value)
    except PayloadError as error:
        assert error.parameter == "return"
        assert sent is None
        return
    assert sent is not None
    assert parsed(text) == sent.args[0]
    back = subject.decode_result(text)
    assert shape(subject.decode_arguments(sent.args, {})) == shape(((back,), {}))
    if type(value) is int and type(back) is float:
        assert value == back
    elif not _holds_int_for_float(value, back):
        assert shape(back) == shape(value)


def _holds_int_for_float(value: Any, back: Any) -> bool:
    """An int may stand for a float; inside of another value that is seen by == alone."""
    return bool(value == back) and "float" in str(shape(back)) and "'int'" in str(shape(value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(max_size=4) | moments.map(datetime.isoformat),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["at", "value", "item", "raw", "left", "1"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ANNOTATIONS), json_values | st.floats())
def test_decoding_foreign_json_gives_a_value_or_a_payload_error(annotation: Any, value: Any) -> None:
    subject = codec(annotation)
    try:
        (decoded,), _ = subject.decode_arguments([value], {})
    except PayloadError as error:
        assert error.parameter == "value"
        return
    assert shape(subject.decode_result(json.dumps(value))) == shape(decoded)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ANNOTATIONS), st.text(st.characters(), max_size=20) | json_values.map(json.dumps))
def test_decoding_foreign_text_gives_a_value_or_a_payload_error(annotation: Any, text: str) -> None:
    try:
        codec(annotation).decode_result(text)
    except PayloadError as error:
        assert error.parameter == "return"


# ---- calls ---------------------------------------------------------------------------------------------------------


def plain(a: int, b: int = 2) -> None: ...
def places(a: int, /, b: int, *rest: int) -> None: ...
def names(a: int, *, b: int = 2, c: int) -> None: ...
def everything(a: int, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> None: ...


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([plain, places, names, everything]),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=4),
)
def test_a_call_is_taken_exactly_where_python_takes_it(function: Any, args: list[int], kwargs: dict[str, int]) -> None:
    subject = Codec(function, task="m.f")
    try:
        function(*args, **kwargs)
    except TypeError:
        for attempt in (subject.encode_arguments, subject.decode_arguments):
            try:
                attempt(tuple(args), kwargs)  # type: ignore[arg-type]
            except PayloadError:
                continue
            raise AssertionError("a call was taken that Python refuses") from None
        return
    sent = subject.encode_arguments(tuple(args), kwargs)
    assert sent == Arguments.of(args=list(args), kwargs=dict(kwargs))
    assert subject.decode_arguments(sent.args, sent.kwargs) == (tuple(args), kwargs)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.binary(max_size=20), st.integers(1, 200))
def test_a_payload_under_the_limit_is_taken_and_one_over_it_is_not(text: str, raw: bytes, limit: int) -> None:
    def function(text: Any, *, raw: bytes) -> None: ...

    sent = Codec(function, task="m.f").encode_arguments((text,), {"raw": raw})
    whole = {"args": sent.args, "kwargs": sent.kwargs}
    size = len(json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode())
    try:
        Codec(function, task="m.f", limit=limit).encode_arguments((text,), {"raw": raw})
    except PayloadError as error:
        assert size > limit - 2  # a comma is counted after each argument
        assert error.parameter in ("text", "raw")
    else:
        assert size <= limit
