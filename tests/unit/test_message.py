from __future__ import annotations

import json
from typing import Any

import pytest

from queuekit.message import Doorbell, InvalidMessage, Message, Publication, bucket, route_of, split_route

MESSAGE = Message("id", "t", [1, "ü"], {"k": None}, "q", "rq", priority=7, timeout=2.5)


def test_seal_and_open() -> None:
    assert Message.open(MESSAGE.seal()) == MESSAGE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", "a message is a JSON object"),
        ("{}", "version None"),
        (MESSAGE.seal().replace('"version":1', '"version":2'), "version 2 is not 1"),
        ('{"version":1}', "missing"),
        ('{"version":1,"surprise":1}', "surprise"),
    ],
)
def test_what_is_no_message_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        Message.open(text)


def test_the_digest_tells_requests_apart() -> None:
    def digest(**changes: Any) -> str:
        return Message(**{**json.loads(MESSAGE.seal()), **changes}).digest

    assert digest() == MESSAGE.digest
    assert digest(id="other", result_ttl=1.0) == MESSAGE.digest
    assert len({digest(**c) for c in ({}, {"task": "u"}, {"args": [1]}, {"kwargs": {}}, {"queue": "r"})}) == 5


def test_routes() -> None:
    assert [bucket(n) for n in range(10)] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert route_of("rq", "q.1", 7) == MESSAGE.route.replace(":q:", ":q.1:") == "rq:q.1:6"
    assert split_route("rq:q.1:6") == ("rq", "q.1", 6)


def test_only_the_first_publication_carries_the_id_of_the_job() -> None:
    assert Publication(MESSAGE, 12, 1, "e").native_id == "id"
    assert Publication(MESSAGE, 12, 2, "e").native_id == "id-12"


def test_a_doorbell_travels_as_json() -> None:
    bell = Publication(MESSAGE, 12, 1, "e").doorbell
    assert Doorbell.from_header(json.loads(json.dumps(bell.to_header()))) == bell
    assert (bell.task, bell.timeout, bell.route, bell.own_policy) == ("t", 2.5, "rq:q:6", False)


GOOD = Publication(MESSAGE, 12, 1, "e").doorbell.to_header()


@pytest.mark.parametrize(
    "header",
    [
        None,
        3,
        [],
        {},
        {**GOOD, "v": 2},
        {**GOOD, "id": None},
        {**GOOD, "id": "a b"},
        {**GOOD, "id": "x" * 1000},
        {**GOOD, "id": "../../etc"},
        {**GOOD, "pseq": "1"},
        {**GOOD, "pseq": True},
        {**GOOD, "task": 3},
        {**GOOD, "epoch": None},
        {**GOOD, "route": "rq"},
        {**GOOD, "route": "rq:q:x"},
        {**GOOD, "route": "rq:q:\u00b2"},  # a digit to str.isdigit(), and not to int()
        {**GOOD, "route": "rq:q:7"},
        {**GOOD, "route": "rq:" + "q" * 200 + ":0"},
        {**GOOD, "route": ":q:0"},
        {**GOOD, "timeout": -1},
        {**GOOD, "timeout": "1"},
        {**GOOD, "timeout": True},
    ],
)
def test_a_forged_doorbell_is_refused(header: object) -> None:
    with pytest.raises(InvalidMessage):
        Doorbell.from_header(header)
