"""Typed arguments and results <-> JSON: what arrives is what was sent, or it is refused with the parameter's name."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    NotRequired,
    Protocol,
    TypeVar,
    Unpack,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, StringConstraints
from typing_extensions import TypedDict

from queuekit.errors import ConfigError, PayloadError
from queuekit.payload import MAX_DEPTH, Arguments, Codec

if TYPE_CHECKING:
    from decimal import Context

T = TypeVar("T")


class Colour(Enum):
    red = 1
    blue = "b"


class Level(IntEnum):
    low = 1


class Model(StrEnum):
    small = "small-1"


class Page(BaseModel):
    number: int
    text: str = ""
    raw: bytes = b""
    score: float = 0.0


class Book(BaseModel):
    pages: list[Page]
    by_id: dict[UUID, Page] = {}
    cover: Page | None = None


class Tree(BaseModel):
    raw: bytes = b""
    children: list[Tree] = []


class Box(BaseModel, Generic[T]):
    item: T


class ExtraPage(Page):
    author: str = "unknown"


@dataclass
class Point:
    x: int
    y: float = 0.0
    raw: bytes = b""
    area: int = field(init=False, default=3)


@dataclass
class Point3(Point):
    z: int = 0


@dataclass(eq=False)
class ByIdentity:
    x: int


class Row(TypedDict):
    id: UUID
    note: NotRequired[bytes]


class Pair(NamedTuple):
    left: int
    right: date


class Options(TypedDict):
    depth: int


class NoJson:
    """A class that pydantic knows nothing about."""


def codec(annotation: Any, *, limit: int = 1024 * 1024) -> Codec:
    def function(value: Any) -> Any: ...

    function.__annotations__ = {"value": annotation, "return": annotation}
    return Codec(function, task="m.function", limit=limit)


def there_and_back(annotation: Any, value: Any) -> Any:
    """Through an argument and through a result, by way of JSON text."""
    subject = codec(annotation)
    sent = subject.encode_arguments((value,), {})
    text = json.dumps([sent.args, sent.kwargs], allow_nan=False)
    (argument,), named = subject.decode_arguments(*json.loads(text))
    assert named == {}
    result = subject.decode_result(subject.encode_result(value))
    assert argument == result
    return argument


def refusal(annotation: Any, value: Any) -> str:
    with pytest.raises(PayloadError) as caught:
        codec(annotation).encode_arguments((value,), {})
    assert caught.value.parameter == "value"
    with pytest.raises(PayloadError) as of_result:
        codec(annotation).encode_result(value)
    assert of_result.value.parameter == "return"
    message = str(caught.value)
    assert message.startswith("m.function: argument 'value'")
    return message


ID = UUID("12345678123456781234567812345678")
PARIS = ZoneInfo("Europe/Paris")

# Before, pydantic's strict mode refuses a deque as a deque.
STRICT_DEQUES = tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 14)

SURVIVORS: list[tuple[Any, Any]] = [
    (int, 3),
    (int, -(10**4000)),
    (float, 0.1),
    (float, -0.0),
    (float, 5e-324),
    (bool, True),
    (str, "naïve \x00 \U0001f600"),
    (None, None),
    (bytes, b"\xff\xfe\x00"),
    (bytes, b""),
    (datetime, datetime(2026, 11, 23, 1, 2, 3, 456789)),
    (datetime, datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
    (datetime, datetime(2026, 11, 23, 1, 2, 3, tzinfo=timezone(timedelta(hours=-9, minutes=-30)))),
    (datetime, datetime(2026, 7, 1, tzinfo=PARIS)),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=0, tzinfo=PARIS)),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=PARIS)),
    (datetime, datetime.max),
    (date, date.min),
    (time, time(1, 2, 3, 4)),
    (time, time(1, tzinfo=UTC)),
    (timedelta, timedelta(days=-3, microseconds=7)),
    (timedelta, timedelta.max),
    (Decimal, Decimal("1.00")),
    (Decimal, Decimal("-1E+50")),
    (UUID, ID),
    (Path, Path("a/../b")),
    (PurePosixPath, PurePosixPath("/x")),
    (Colour, Colour.red),
    (Level, Level.low),
    (Model, Model.small),
    (set[int], {1, 2}),
    (frozenset[Path], frozenset({Path("a")})),
    (set[frozenset[int]], {frozenset({1}), frozenset()}),
    (tuple[int, str], (1, "a")),
    (tuple[Decimal, ...], (Decimal(1), Decimal("2.0"))),
    (tuple[()], ()),
    (list[set[tuple[int, date]]], [{(1, date(2026, 1, 1))}, set()]),
    (dict[str, list[bytes]], {"a": [b"\xff"]}),
    (dict[int, str], {1: "a"}),
    (dict[UUID, Decimal], {ID: Decimal("1.10")}),
    (dict[date, int], {date(2026, 1, 1): 1}),
    (dict[Model, int], {Model.small: 1}),
    (dict[bytes, int], {b"\xff": 1}),
    (dict[str, Any], {"a": [1, {"b": None}], "c": 1.5}),
    (int | None, None),
    (int | str, "3"),
    (int | str, 3),
    (int | float, 1.0),
    (int | float, 1),
    (bytes | None, b"\xff"),
    (Literal["a", 1], "a"),
    (Literal["a", 1], 1),
    (Annotated[int, Field(ge=0, le=3)], 3),
    (Mapping[str, int], {"a": 1}),
    (Sequence[int], [1, 2]),
    *([(deque[int], deque([1, 2]))] if STRICT_DEQUES else []),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (defaultdict[str, int], defaultdict(int, a=1)),
    (Counter[str], Counter("aab")),
    (Fraction, Fraction(1, 3)),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (complex, 1 + 2j),
    (Page, Page(number=1, text="é", raw=b"\xff\x00", score=1.5)),
    (Book, Book(pages=[Page(number=1)], by_id={ID: Page(number=2, raw=b"\xfe")})),
    (list[Book] | None, [Book(pages=[], cover=Page(number=1, raw=b"\xfd"))]),
    (Tree, Tree(children=[Tree(raw=b"\xff", children=[Tree()])])),
    (Box[bytes], Box[bytes](item=b"\xff")),
    (Box[tuple[int, Colour]], Box[tuple[int, Colour]](item=(1, Colour.blue))),
    (Point, Point(1, 2.5, b"\xff")),
    (list[Point], [Point(1)]),
    (Row, {"id": ID, "note": b"\xff"}),
    (dict[str, Row], {"a": {"id": ID}}),
    (Pair, Pair(1, date(2026, 1, 1))),
]


def types_in(value: Any) -> Any:
    """The types of a value and of everything in it, for == is too kind: 1 == 1.0 == True."""
    if isinstance(value, dict):
        return type(value), [(types_in(k), types_in(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return type(value), [types_in(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(types_in(item)) for item in value)
    if isinstance(value, BaseModel):
        return type(value), types_in(vars(value))
    if isinstance(value, Point):
        return type(value), types_in([value.x, value.y, value.raw, value.area])
    return type(value)


@pytest.mark.parametrize(("annotation", "value"), SURVIVORS, ids=lambda item: repr(item)[:60])
def test_what_arrives_is_what_was_sent(annotation: Any, value: Any) -> None:
    back = there_and_back(annotation, value)
    assert types_in(back) == types_in(value)
    if isinstance(value, datetime):  # in the hour that a clock is set back, == between two zones is always False
        assert back.utcoffset() == value.utcoffset()
        assert back.replace(tzinfo=None) == value.replace(tzinfo=None, fold=0)
    elif isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)
        assert back == value
    elif isinstance(value, Decimal):
        assert back.as_tuple() == value.as_tuple()
    else:
        assert back == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "3"),
        (int, 3.0),
        (int, True),
        (int, Decimal(3)),
        (int, Level.low),
        (float, True),
        (float, "1.0"),
        (bool, 1),
        (bool, "true"),
        (str, 3),
        (str, b"a"),
        (str, Path("a")),
        (str, Model.small),
        (Path, "a"),
        (UUID, str(ID)),
        (datetime, "2026-01-01T00:00:00"),
        (datetime, 0),
        (datetime, date(2026, 1, 1)),
        (date, datetime(2026, 1, 1)),
        (timedelta, 3),
        (Decimal, 0.1),
        (Decimal, "0.1"),
        (bytes, "a"),
        (bytes, bytearray(b"a")),
        (Colour, 1),
        (Model, "small-1"),
        (Literal["small-1"], Model.small),
        (Literal[1], True),
        (list[int], (1,)),
        (list[int], {1}),
        (list[int], ["1"]),
        (tuple[int, ...], [1]),
        (tuple[int, int], (1,)),
        (set[int], [1]),
        (set[int], frozenset({1})),
        (dict[str, int], {1: 1}),
        (dict[int, int], {"1": 1}),
        (dict[str, int], defaultdict(int, a=1)),
        (int | str, 1.5),
        (int | None, "x"),
        (None, 0),
        (Page, {"number": 1}),
        (Page, Point(1)),
        (Point, {"x": 1}),
        (Row, {"id": str(ID)}),
        (Row, {}),
        (Pair, (1, date(2026, 1, 1))),
        (Sequence[int], (1, 2)),  # would arrive as a list
        (Annotated[int, Field(ge=0)], -1),
        (Annotated[int, BeforeValidator(int)], "3"),  # the annotation says int, and so will the worker's type checker
    ],
    ids=repr,
)
def test_a_value_of_another_type_is_refused(annotation: Any, value: Any) -> None:
    refusal(annotation, value)


def test_the_message_names_the_task_the_parameter_the_place_and_the_value() -> None:
    message = refusal(list[Page | int], [1, "three"])
    assert message.startswith("m.function: argument 'value': at [1]")
    assert "'three' (str)" in message


def test_an_int_may_stand_for_a_float_unless_it_is_too_large_for_one() -> None:
    back = there_and_back(list[float], [3, 2**53])
    assert back == [3.0, 2.0**53]
    assert {type(item) for item in back} == {float}
    assert "9007199254740993" in refusal(list[float], [2**53 + 1])
    refusal(float, 10**400)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_refused_and_never_becomes_null(value: float) -> None:
    for annotation in (float, float | None, Annotated[float, Field(allow_inf_nan=True)], Any):
        refusal(annotation, value)
    assert "JSON does not have" in refusal(dict[str, Any], {"a": [value]})
    assert "JSON does not have" in refusal(Any, {"a": [value]})
    of_recorded: list[tuple[Any, Any]] = [(float, value), (Any, [value]), (dict[str, Any], {"a": value})]
    for declared, recorded in of_recorded:
        with pytest.raises(PayloadError):
            codec(declared).decode_arguments([recorded], {})
    assert "at .score" in refusal(Page, Page(number=1, score=value))
    refusal(list[Point], [Point(1, value)])
    refusal(dict[float, int], {value: 1})
    refusal(Decimal, Decimal(value))

    class Lenient(BaseModel):
        score: float | None

    refusal(Lenient, Lenient(score=value))


# ---- without an annotation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotation", [Any, object])
def test_any_takes_json_as_it_stands(annotation: Any) -> None:
    value = {"a": [1, 2.5, None, True, "é", {"b": []}], "": 10**300}
    back = there_and_back(annotation, value)
    assert back == value
    assert types_in(back) == types_in(value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ((1, 2), "(1, 2) (tuple)"),
        ({1}, "{1} (set)"),
        (b"a", "b'a' (bytes)"),
        ({1: 2}, "the key 1 (int)"),
        ({"a": [{"b": (1,)}]}, "at ['a'][0]['b']: "),
        (OrderedDict(a=1), "OrderedDict"),
        (Model.small, "(Model)"),
        (Level.low, "(Level)"),
        (datetime(2026, 1, 1), "datetime"),
        (Page(number=1), "(Page)"),
        (NoJson(), "(NoJson)"),
        (Path("a"), "Path('a')"),
    ],
)
def test_any_refuses_what_would_not_come_back_and_says_annotate(value: Any, named: str) -> None:
    message = refusal(Any, value)
    assert named in message
    assert "annotate the parameter" in message


def test_a_parameter_and_a_result_without_an_annotation_are_any() -> None:
    def function(a, *rest, **more): ...  # type: ignore[no-untyped-def]

    subject = Codec(function, task="m.function")
    sent = subject.encode_arguments((1, [2], None), {"k": {"a": 1}})
    assert sent == Arguments.of(args=[1, [2], None], kwargs={"k": {"a": 1}})
    assert subject.decode_arguments(sent.args, sent.kwargs) == ((1, [2], None), {"k": {"a": 1}})
    with pytest.raises(PayloadError, match="annotate the function's return type") as caught:
        subject.encode_result((1,))
    assert caught.value.parameter == "return"


def test_what_is_encoded_is_a_copy() -> None:
    value = {"a": [1]}
    sent = codec(Any).encode_arguments((value,), {})
    value["a"].append(2)
    assert sent.args == [{"a": [1]}]


# ---- nothing gets lost ---------------------------------------------------------------------------------------------


def test_a_subclass_whose_fields_would_be_dropped_is_refused() -> None:
    assert "(ExtraPage) would arrive as" in refusal(Page, ExtraPage(number=1, author="x"))
    assert "ExtraPage" in refusal(Book, Book(pages=[ExtraPage(number=1, author="x")]))
    assert "Point3" in refusal(Point, Point3(1, z=3))
    assert "Point3" in refusal(dict[str, Point], {"a": Point3(1)})


def test_an_unknown_key_of_a_typed_dict_is_refused() -> None:
    message = refusal(Row, {"id": ID, "nott": b""})
    assert "'nott'" in message
    assert "would get lost" in message


def test_a_union_whose_members_look_alike_in_json_is_refused_where_it_would_be_mistaken() -> None:
    assert there_and_back(datetime | str, "hello") == "hello"
    survived = 0
    for annotation, value in [
        (datetime | str, datetime(2026, 1, 1)),
        (datetime | str, "2026-01-01T00:00:00"),
        (Path | str, Path("a")),
        (Path | str, "a"),
        (UUID | str, ID),
        (UUID | str, str(ID)),
        (tuple[int, ...] | list[int], (1,)),
        (tuple[int, ...] | list[int], [1]),
        (set[int] | list[int], {1}),
        (set[int] | list[int], [1]),
    ]:
        try:
            back = there_and_back(annotation, value)
        except PayloadError as error:
            assert "would arrive as" in str(error)
        else:
            survived += 1
            assert (type(back), back) == (type(value), value)
    assert survived == 5  # one of each two: JSON cannot tell them apart


def test_what_a_serializer_masks_drops_or_changes_is_refused() -> None:
    class Masked(BaseModel):
        secret: pydantic.SecretStr

    class Excluding(BaseModel):
        kept: int
        dropped: int = Field(default=0, exclude=True)

    refusal(pydantic.SecretStr, pydantic.SecretStr("x"))
    refusal(Masked, Masked(secret=pydantic.SecretStr("x")))
    assert there_and_back(Excluding, Excluding(kept=1)) == Excluding(kept=1)
    assert "at .dropped" in refusal(Excluding, Excluding(kept=1, dropped=2))
    refusal(Annotated[int, PlainSerializer(lambda value: value + 1)], 1)
    refusal(Annotated[int, PlainSerializer(str)], 1)
    refusal(Annotated[Decimal, PlainSerializer(lambda value: str(value.normalize()))], Decimal("1.00"))


def test_a_collection_that_loses_gains_or_exchanges_items_is_refused() -> None:
    def fewer(annotation: Any) -> Any:
        return Annotated[annotation, PlainSerializer(lambda value: list(value)[1:])]

    def more(annotation: Any) -> Any:
        return Annotated[annotation, PlainSerializer(lambda value: [*value, 9])]

    for annotation, value in [
        (list[int], [1]),
        (list[int], [1, 1]),
        (tuple[int, ...], (1,)),
        (set[int], {1}),
        (deque[int], deque([1])),
    ]:
        refusal(fewer(annotation), value)
        refusal(more(annotation), value)
    refusal(Annotated[set[int], PlainSerializer(lambda value: [item + 1 for item in value])], {1})
    refusal(Annotated[dict[str, int], PlainSerializer(lambda value: {**value, "more": 1})], {"a": 1})
    refusal(Annotated[dict[str, int], PlainSerializer(lambda value: {})], {"a": 1})


def test_what_a_declared_constraint_changes_is_wanted() -> None:
    name = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)]
    assert there_and_back(name, "  Ada ") == "ada"
    assert there_and_back(list[name], [" A", "b"]) == ["a", "b"]


def test_a_validator_that_changes_its_own_output_is_refused() -> None:
    more = Annotated[int, pydantic.AfterValidator(lambda value: value + 1)]
    assert "2 (int) would arrive as 3 (int)" in refusal(more, 1)


def test_models_that_were_made_invalid_are_refused() -> None:
    page = Page(number=1)
    page.number = "one"  # type: ignore[assignment]
    assert "number" in refusal(Page, page)
    assert "number" in refusal(list[Page], [page])
    refusal(Page, Page.model_construct())
    refusal(Page, Page.model_construct(number=1, text=3))
    point = Point(1)
    del point.x
    refusal(Point, point)
    refusal(Point, Point("1"))  # type: ignore[arg-type]


def test_aliases_computed_fields_and_forbidden_extras_travel() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(extra="forbid", serialize_by_alias=True)
        size: int = Field(validation_alias="inSize", serialization_alias="outSize")

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.size

    value = Aliased(inSize=3)  # type: ignore[call-arg]
    assert there_and_back(Aliased, value) == value


def test_bytes_in_models_whose_fields_are_named_like_parts_of_a_schema() -> None:
    class Inner(BaseModel):
        raw: bytes

    class Schema(BaseModel):
        default: Inner
        metadata: Page
        config: dict[str, Any] = {"type": "model", "config": {}}
        type: str = "model"

    value = Schema(default=Inner(raw=b"\xff"), metadata=Page(number=2, raw=b"\xfe"))
    assert there_and_back(Schema, value) == value
    recorded = {"default": {"raw": ""}, "metadata": {"number": 1}}
    assert codec(Schema).decode_arguments([recorded], {})[0][0].config == {
        "type": "model",
        "config": {},
    }


def test_a_model_that_says_how_its_bytes_travel_is_heard() -> None:
    class Hex(BaseModel):
        model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
        raw: bytes

    assert codec(Hex).encode_result(Hex(raw=b"\xff")) == '{"raw":"ff"}'
    assert there_and_back(Hex, Hex(raw=b"\xff")) == Hex(raw=b"\xff")


def test_without_the_switch_for_bytes_in_models_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.payload.wires._with_base64_models", lambda schema: None)  # as with an older pydantic
    assert "val_json_bytes to 'base64'" in refusal(Page, Page(number=1, raw=b"\xff"))
    assert there_and_back(Page, Page(number=1, raw="é".encode())) == Page(number=1, raw="é".encode())


def test_extras_and_private_attributes_of_a_model() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Private(BaseModel):
        number: int
        _count: int = PrivateAttr(default=0)
        _lock: Any = PrivateAttr(default_factory=threading.Lock)

    assert there_and_back(Open, Open(a=[1])) == Open(a=[1])  # type: ignore[call-arg]
    refusal(Open, Open(a=(1,)))  # type: ignore[call-arg]

    private = Private(number=1)
    assert codec(Private).decode_result(codec(Private).encode_result(private)).number == 1
    private._count = 5
    assert "_count" in refusal(Private, private)


def test_attributes_that_a_dataclass_does_not_declare_are_refused_and_cached_ones_are_not() -> None:
    @dataclass
    class Text:
        words: list[str]

        @functools.cached_property
        def count(self) -> int:
            return len(self.words)

    text = Text(["a"])
    assert text.count == 1
    assert there_and_back(Text, text) == text
    text.note = "x"  # type: ignore[attr-defined]
    assert "at .note" in refusal(Text, text)


def test_what_has_no_equality_of_its_own_is_compared_by_what_it_holds() -> None:
    subject = codec(ByIdentity)
    assert vars(subject.decode_result(subject.encode_result(ByIdentity(3)))) == {"x": 3}


def test_what_a_collection_keeps_beside_its_items_is_not_dropped() -> None:
    assert "maxlen" in refusal(deque[int], deque([1], maxlen=3))
    refusal(defaultdict[str, int], defaultdict(lambda: 3, a=1))
    refusal(list[datetime], [datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=561)))])


def test_an_equality_that_raises_is_a_refusal() -> None:
    class Moody:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("not today")

        __hash__ = None  # type: ignore[assignment]

    annotation = Annotated[
        Moody, pydantic.PlainValidator(lambda _: Moody()), PlainSerializer(lambda _: "moody", return_type=str)
    ]
    refusal(annotation, Moody())


# ---- what cannot be encoded ----------------------------------------------------------------------------------------


def test_half_of_a_surrogate_pair_is_refused() -> None:
    for annotation, value in [
        (str, "\ud800"),
        (Any, "a\udfff"),
        (Any, {"\ud800": 1}),
        (dict[str, Any], {"\ud800": 1}),
        (Page, Page.model_construct(number=1, text="\ud800")),
        (list[Any], ["\ud800"]),
    ]:
        assert "surrogate" in refusal(annotation, value) or annotation is Page


@pytest.mark.parametrize("annotation", [Any, list[Any], list])
def test_a_value_that_is_too_deep_or_contains_itself_is_refused(annotation: Any) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    loop: list[Any] = []
    loop.append(loop)
    try:
        assert "contains itself" in refusal(annotation, deep)
        assert "contains itself" in refusal(annotation, loop)
    finally:
        while deep:  # one level at a time, for freeing it at once is a recursion too
            deep = deep.pop()


def test_the_depth_that_can_be_relied_on() -> None:
    def nested(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    for annotation in (Any, list[Any]):
        assert there_and_back(annotation, nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    refusal(Any, nested(MAX_DEPTH + 1))


def test_code_of_the_user_that_raises_is_a_refusal() -> None:
    def broken(value: Any) -> Any:
        raise KeyError("inside the user's code")

    for wrapper in (pydantic.AfterValidator(broken), PlainSerializer(broken), BeforeValidator(broken)):
        refusal(Annotated[int, wrapper], 3)

    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "<Unprintable> (Unprintable)" in refusal(Any, Unprintable())
    refusal(int, Unprintable())


def test_integers_beyond_what_python_prints_are_refused() -> None:
    refusal(int, 10**5000)
    refusal(Any, [10**5000])


# ---- calls ---------------------------------------------------------------------------------------------------------


def call(a: int, b: Path = Path("x"), /, c: date = date(2026, 1, 1), *rest: UUID, d: bytes, e: set[int] | None = None,
         **more: Decimal) -> list[Page]:  # fmt: skip
    raise NotImplementedError


def simple(text: str, times: int = 1, *, loud: bool = False) -> None: ...


def identity(page: Page) -> Page:
    return page


def test_positional_arguments_stay_positional_and_defaults_are_not_filled_in() -> None:
    subject = Codec(call, task="m.call")
    sent = subject.encode_arguments((1,), {"d": b"\xff"})
    assert sent == Arguments.of(args=[1], kwargs={"d": "_w=="})
    assert subject.decode_arguments(sent.args, sent.kwargs) == ((1,), {"d": b"\xff"})


def test_every_kind_of_parameter_arrives() -> None:
    subject = Codec(call, task="m.call")
    args = (1, Path("p"), date(2026, 2, 3), ID, ID)
    kwargs = {"d": b"", "e": {1}, "tax": Decimal("0.20"), "b": Decimal(1)}  # b by name belongs to **more
    sent = subject.encode_arguments(args, kwargs)
    assert sent.args == [1, "p", "2026-02-03", str(ID), str(ID)]
    assert sent.kwargs == {"d": "", "e": [1], "tax": "0.20", "b": "1"}
    assert subject.decode_arguments(sent.args, sent.kwargs) == (args, kwargs)
    assert subject.decode_arguments(*json.loads(json.dumps([sent.args, sent.kwargs]))) == (args, kwargs)


def test_rest_arguments_are_of_their_declared_type() -> None:
    subject = Codec(call, task="m.call")
    with pytest.raises(PayloadError) as caught:
        subject.encode_arguments((1, Path("p"), date(2026, 2, 3), ID, "x"), {"d": b""})
    assert caught.value.parameter == "rest"
    with pytest.raises(PayloadError) as caught:
        subject.encode_arguments((1,), {"d": b"", "tax": 0.2})
    assert caught.value.parameter == "tax"


@pytest.mark.parametrize(
    ("args", "kwargs", "parameter", "words"),
    [
        ((), {}, "text", ["missing", "m.simple(text, times, *, loud)"]),
        ((), {"times": 2}, "text", ["missing"]),
        (("a",), {"lod": True}, "lod", ["unknown", "did you mean 'loud'?"]),
        (("a",), {"zzzzz": True}, "zzzzz", ["unknown", "m.simple(text, times, *, loud)"]),
        (("a",), {"text": "b"}, "text", ["twice"]),
        (("a", 1, True), {}, None, ["at most 2 positional", "3 were given"]),
        (("a",), {"times": "2"}, "times", ["valid integer", "'2' (str)"]),
        (("a",), {"loud": 1}, "loud", ["bool"]),
    ],
)
def test_a_call_that_does_not_fit_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], parameter: str | None, words: list[str]
) -> None:
    subject = Codec(simple, task="m.simple")
    with pytest.raises(PayloadError) as caught:
        subject.encode_arguments(args, kwargs)
    assert caught.value.parameter == parameter
    for word in words:
        assert word in str(caught.value)


def test_a_positional_only_parameter_cannot_be_named() -> None:
    def function(a: int, /) -> None: ...

    with pytest.raises(PayloadError, match="only be given by place") as caught:
        Codec(function, task="m.f").encode_arguments((), {"a": 1})
    assert caught.value.parameter == "a"


def test_recorded_arguments_that_no_longer_fit_name_the_parameter() -> None:
    subject = Codec(simple, task="m.simple")
    misfits: list[tuple[list[Any], dict[str, Any], str | None]] = [
        (["a"], {"louder": True}, "louder"),
        ([], {}, "text"),
        (["a", 1, 2], {}, None),
        ([3], {}, "text"),
        (["a", "1"], {}, "times"),
        (["a", 1.5], {}, "times"),
        (["a", True], {}, "times"),
        (["a"], {"loud": "yes"}, "loud"),
        (["a"], {"loud": None}, "loud"),
        ([{"a": "\ud800"}], {}, "text"),
    ]
    for args, kwargs, parameter in misfits:
        with pytest.raises(PayloadError, match="m.simple") as caught:
            subject.decode_arguments(args, kwargs)
        assert caught.value.parameter == parameter
    with pytest.raises(PayloadError, match="another version of the task"):
        subject.decode_arguments(["a"], {"louder": True})


def test_a_recorded_result_that_no_longer_fits() -> None:
    subject = codec(list[Page])
    for text in ["{}", "[1]", "1", "", "[", "[]]", "[],[]", "NaN", '[{"number":"1"}]', "\ud800"]:
        with pytest.raises(PayloadError) as caught:
            subject.decode_result(text)
        assert caught.value.parameter == "return"
    for text in ["", "[", "[],[]", "NaN", "[Infinity]", "\ud800", "[" * 100_000]:
        with pytest.raises(PayloadError):
            codec(Any).decode_result(text)


def test_partial_callable_objects_wrapped_and_bound_functions() -> None:
    class Caller:
        def __call__(self, pages: list[Page]) -> Page:
            raise NotImplementedError

        def method(self, page: Page) -> Page:
            raise NotImplementedError

    @functools.wraps(simple)
    def wrapped(*args: Any, **kwargs: Any) -> Any: ...

    page = Page(number=1, raw=b"\xff")
    for subject, argument in [
        (Codec(Caller(), task="m.c"), [page]),
        (Codec(Caller().method, task="m.c"), page),
        (Codec(functools.partial(Caller().method), task="m.c"), page),
        (Codec(functools.lru_cache(identity), task="m.c"), page),
    ]:
        sent = subject.encode_arguments((argument,), {})
        assert subject.decode_arguments(sent.args, sent.kwargs) == ((argument,), {})
        assert subject.decode_result(subject.encode_result(page)) == page
    with pytest.raises(PayloadError):
        Codec(wrapped, task="m.w").encode_arguments((1,), {})


def test_an_async_function_has_the_type_it_gives_when_awaited() -> None:
    async def function(page: Page) -> Page:
        return page

    subject = Codec(function, task="m.f")
    assert subject.decode_result(subject.encode_result(Page(number=3))) == Page(number=3)


# ---- results -------------------------------------------------------------------------------------------------------


def test_a_result_of_none() -> None:
    subject = Codec(simple, task="m.simple")
    assert subject.encode_result(None) == "null"
    assert subject.decode_result("null") is None
    with pytest.raises(PayloadError, match=r"m.simple: the result: .*got 'x' \(str\)"):
        subject.encode_result("x")


def test_a_function_that_only_raises() -> None:
    def function() -> NoReturn:
        raise RuntimeError

    Codec(function, task="m.f").check()


# ---- the limit -----------------------------------------------------------------------------------------------------


def test_the_limit_counts_the_bytes_of_all_arguments_as_json() -> None:
    def function(a: Any, b: str = "", **more: Any) -> Any: ...

    sent = len('{"args":["é"],"kwargs":{"b":"xx"}}'.encode()) + 1  # and a comma, counted for each argument
    Codec(function, task="m.f", limit=sent + 1).encode_arguments(("é",), {"b": "xx"})
    with pytest.raises(PayloadError) as caught:
        Codec(function, task="m.f", limit=sent - 2).encode_arguments(("é",), {"b": "xx"})
    message = str(caught.value)
    assert f"over the limit of {sent - 2} bytes" in message
    assert "payload_limit" in message
    assert "send its key" in message
    assert caught.value.parameter in ("a", "b")


def test_the_limit_names_the_largest_argument() -> None:
    def function(a: str, b: str) -> None: ...

    subject = Codec(function, task="m.f", limit=1000)
    subject.encode_arguments(("x" * 400, "y" * 400), {})
    with pytest.raises(PayloadError) as caught:
        subject.encode_arguments(("x" * 500,), {"b": "y" * 600})
    assert caught.value.parameter == "b"
    with pytest.raises(PayloadError) as caught:
        subject.encode_arguments(("x" * 5000,), {"b": "y"})
    assert caught.value.parameter == "a"
    assert "5002 bytes" in str(caught.value)


@pytest.mark.parametrize("annotation", [str, Any])
def test_the_limit_of_a_result_is_exact(annotation: Any) -> None:
    assert len(codec(annotation, limit=100).encode_result("x" * 98)) == 100
    with pytest.raises(PayloadError, match="101 bytes as JSON, over the limit of 100 bytes.*payload_limit") as caught:
        codec(annotation, limit=100).encode_result("x" * 99)
    assert caught.value.parameter == "return"


def test_no_arguments_are_never_over_the_limit() -> None:
    def function() -> None: ...

    assert Codec(function, task="m.f", limit=1).encode_arguments((), {}) == Arguments.of([], {})


# ---- declarations --------------------------------------------------------------------------------------------------


class Stream(Protocol):
    def read(self) -> bytes: ...


@pytest.mark.parametrize(
    "annotation",
    [
        NoJson,
        list[NoJson],
        dict[str, NoJson | None],
        bytearray,
        Stream,
        Callable[[], int],
        type[Page],
        Iterable[int],
        range,
    ],
    ids=str,
)
def test_a_type_that_cannot_travel_is_refused_by_check(annotation: Any) -> None:
    def of_parameter(fine: int, value: Any) -> None: ...

    def of_result() -> Any: ...

    of_parameter.__annotations__["value"] = annotation
    of_result.__annotations__["return"] = annotation
    with pytest.raises(ConfigError, match=r"m.f: argument 'value': .*annotate the parameter with"):
        Codec(of_parameter, task="m.f").check()
    with pytest.raises(ConfigError, match=r"m.f: the result: .*annotate the result with"):
        Codec(of_result, task="m.f").check()


def test_a_name_that_does_not_resolve_is_refused_with_the_remedy() -> None:
    def function(fine: int, bad: Context) -> None: ...

    subject = Codec(function, task="m.f")  # not an error yet: it may be defined further down
    with pytest.raises(ConfigError, match=r"m.f: argument 'bad': .*'Context'.*TYPE_CHECKING"):
        subject.check()
    with pytest.raises(ConfigError, match="bad"):
        subject.encode_arguments((1, 2), {})


def test_a_model_with_a_forward_reference_that_does_not_resolve() -> None:
    class Later(BaseModel):
        context: Context

    with pytest.raises(ConfigError, match="argument 'value'"):
        codec(Later).check()


def test_annotations_are_resolved_late_and_nested_forward_references_too() -> None:
    def function(later: list[DefinedLater], quoted: dict[str, DefinedLater]) -> DefinedLater | None: ...

    subject = Codec(function, task="m.f")
    value = DefinedLater(x=1)
    sent = subject.encode_arguments(([value],), {"quoted": {"a": value}})
    assert subject.decode_arguments(sent.args, sent.kwargs) == (([value],), {"quoted": {"a": value}})


class DefinedLater(BaseModel):
    x: int


def test_keywords_of_a_typed_dict_are_refused_by_name() -> None:
    def function(**options: Unpack[Options]) -> None: ...

    def rest(*args: *tuple[int, str]) -> None: ...

    for bad in (function, rest):
        with pytest.raises(ConfigError, match="name each argument in the signature"):
            Codec(bad, task="m.f").check()


def test_a_function_without_a_signature_is_refused() -> None:
    with pytest.raises(ConfigError, match="wrap it in a function"):
        Codec(type, task="m.f")


def test_check_accepts_what_can_travel() -> None:
    for annotation, _ in SURVIVORS:
        codec(annotation).check()
    Codec(call, task="m.call").check()


def test_a_validator_is_built_once() -> None:
    built = 0

    class Counted:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            nonlocal built
            built += 1
            return handler(int)

    subject = codec(Annotated[int, Counted])
    assert built == 0
    for _ in range(3):
        subject.encode_arguments((1,), {})
    assert built == 1


def test_pydantic_is_not_imported_before_an_annotated_value_needs_it() -> None:
    code = """
import sys
from queuekit.payload import Codec
def plain(a, b=2): ...
def typed(a: int) -> int: ...
codec = Codec(plain, task="t"); codec.check(); codec.encode_arguments(([1],), {}); codec.decode_result("1")
typed = Codec(typed, task="t")
assert "pydantic" not in sys.modules
typed.check()
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_one_codec_serves_many_threads() -> None:
    subject = Codec(call, task="m.call")
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for index in range(50):
            sent = subject.encode_arguments((number,), {"d": bytes([index])})
            back = subject.decode_arguments(sent.args, sent.kwargs)
            if back != ((number,), {"d": bytes([index])}):
                wrong.append(back)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
