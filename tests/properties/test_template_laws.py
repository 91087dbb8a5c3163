"""A job that is made by a template is the one that is made at length."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from queuekit.clients import packed
from queuekit.message import Message, Publication, header_around
from queuekit.payload import Codec
from queuekit.payload.arguments import Arguments
from queuekit.template import Template

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.text("abcXYZ019_-", min_size=1, max_size=8)
seconds = st.none() | st.floats(0.001, 1e6)
messages = st.builds(
    Message,
    names,
    texts,
    st.lists(values, max_size=3),
    st.dictionaries(texts, values, max_size=3),
    names,
    st.sampled_from(["celery", "rq", "dramatiq"]),
    priority=st.integers(0, 9),
    timeout=seconds,
    soft_timeout=seconds,
    result_ttl=st.floats(0, 1e6),
    keep_result=st.booleans(),
    private=st.booleans(),
    retry=st.none() | texts | st.just({"max_attempts": 3, "rules": [{"on": "429"}]}),
)


def no_wire(*_: object) -> Any: ...


@given(messages)
def test_the_message_and_its_digest(message: Message) -> None:
    template = Template(replace(message, id="", args=[], kwargs={}), no_wire)
    arguments = Arguments.of(message.args, message.kwargs)
    assert template.seal(message.id, arguments) == message.seal()
    assert Message.open(template.seal(message.id, arguments)) == message
    assert template.digest(arguments) == message.digest


def takes(one: Any, *rest: Any, **more: Any) -> None: ...


scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts | st.just("\x7f")


@given(st.lists(scalars | values, min_size=1, max_size=3), st.dictionaries(texts.map("k".__add__), scalars, max_size=3))
def test_what_the_codec_has_written_is_digested_as_it_would_be_at_length(args: list[Any], kwargs: Any) -> None:
    arguments = Codec(takes, task="t", limit=10**6, remedy="").encode_arguments(tuple(args), kwargs)
    message = Message("id", "t", arguments.args, arguments.kwargs, "q", "rq")
    template = Template(replace(message, id="", args=[], kwargs={}), no_wire)
    assert template.digest(arguments) == message.digest
    assert Message.open(template.seal("id", arguments)) == message
    if arguments.plain:
        assert Arguments.of(arguments.args, arguments.kwargs) == replace(arguments, plain=False)


def test_plain_arguments_are_known() -> None:
    codec = Codec(takes, task="t", limit=10**6, remedy="")
    plain = [((1, "text", True, 2.5), {}), (("x",), {"k": 1})]
    others = [(("\x7f",), {}), (("ü",), {}), ((None,), {}), (([1],), {}), ((1e300,), {}), ((1,), {"b": 1, "a": 2})]
    assert [codec.encode_arguments(*one).plain for one in plain] == [True] * len(plain)
    assert [codec.encode_arguments(*one).plain for one in others] == [False] * len(others)


@given(messages, st.booleans(), st.integers(0, 2**53), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_the_header(message: Message, left_out: bool, pseq: int, epoch: str) -> None:
    before, between, then, behind = header_around(replace(message, id="", args=[], kwargs={}), left_out=left_out)
    text = f"{before}{message.id}{between}{pseq}{then}{epoch}{behind}"
    assert json.loads(text) == dict(Publication(message, pseq, 1, epoch).header(left_out=left_out))


@given(st.lists(st.text(max_size=20) | st.integers() | st.floats(allow_nan=False), min_size=1, max_size=5))
def test_a_command_is_packed_as_redis_py_packs_it(command: list[Any]) -> None:
    from redis._parsers.encoders import Encoder
    from redis.connection import PythonRespSerializer

    theirs: Any = PythonRespSerializer(10**9, Encoder("utf-8", "surrogatepass", decode_responses=False).encode)
    assert packed(["SET", *command]) == b"".join(theirs.pack("SET", *command))
