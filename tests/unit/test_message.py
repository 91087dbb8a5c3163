from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from queuekit import message as message_module
from queuekit.message import (
    KEPT,
    Doorbell,
    InvalidMessage,
    Message,
    Publication,
    as_text,
    bucket,
    route_of,
    shortened,
    split_route,
)

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
        (MESSAGE.seal().replace('"version":1', '"version":3'), r"version 3 is not one that is read here \(1 and 2\)"),
        (MESSAGE.seal().replace('"version":1', '"version":0'), "version 0 is not"),
        (MESSAGE.seal().replace('"version":1', '"version":true'), "version True is not"),
        (MESSAGE.seal().replace('"version":1', '"version":"1"'), "version '1' is not"),
        ('{"version":1}', "missing"),
    ],
)
def test_what_is_no_message_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        Message.open(text)


def test_a_message_carries_the_lowest_version_that_says_all_of_it() -> None:
    """So that workers of the version before run what needs nothing new."""
    assert json.loads(MESSAGE.seal())["version"] == 1
    assert "payload" not in json.loads(MESSAGE.seal())
    encoded = replace(MESSAGE, args=[], kwargs={}, payload="c2VjcmV0")
    assert json.loads(encoded.seal())["version"] == 2
    assert Message.open(encoded.seal()) == encoded


def test_a_field_that_a_reader_does_not_know_is_left_out() -> None:
    text = json.dumps({**json.loads(MESSAGE.seal()), "surprise": 1, "framed": True})
    assert Message.open(text) == MESSAGE


def test_the_version_before_is_read_by_its_upgrade_and_no_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it will be once there is a version 3, which calls `queue` otherwise."""
    monkeypatch.setattr(message_module, "VERSION", 3)
    monkeypatch.setattr(message_module, "MESSAGE_UPGRADES", {2: lambda old: {**old, "queue": old["q"]}})
    old = json.loads(MESSAGE.seal())
    before = {**old, "version": 2, "q": old["queue"]}
    del before["queue"]
    assert Message.open(json.dumps(before)) == MESSAGE
    assert Message.open(json.dumps({**old, "version": 3})) == MESSAGE
    for version in (1, 4):
        with pytest.raises(InvalidMessage, match="not one that is read here"):
            Message.open(json.dumps({**old, "version": version}))


def test_a_doorbell_of_the_version_before_is_read_by_its_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_module, "DOORBELL_VERSION", 2)
    monkeypatch.setattr(message_module, "DOORBELL_UPGRADES", {1: lambda old: {**old, "task": f"new.{old['task']}"}})
    assert Doorbell.from_header(GOOD).task == "new.t"
    assert Doorbell.from_header({**GOOD, "v": 2}).task == "t"
    with pytest.raises(InvalidMessage, match="doorbell version 3"):
        Doorbell.from_header({**GOOD, "v": 3})


def test_the_frame_of_a_later_version_can_be_published_and_shows_no_arguments() -> None:
    later = json.dumps({**json.loads(MESSAGE.seal()), "version": 9, "args": {"packed": "x"}, "retry": {"r": 1}})
    frame = Message.frame(later)
    assert (frame.id, frame.task, frame.route, frame.timeout) == ("id", "t", MESSAGE.route, 2.5)
    bell = Publication(frame, 3, 1, "e")
    assert bell.shown == (["(private)"], {})
    assert (bell.doorbell.own_policy, bell.doorbell.private) == (True, True)
    with pytest.raises(AssertionError):
        frame.seal()


@pytest.mark.parametrize("broken", [{"id": 3}, {"queue": None}, {"priority": "high"}])
def test_what_has_not_even_a_frame_is_no_message(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage, match=next(iter(broken))):
        Message.frame(json.dumps({**json.loads(MESSAGE.seal()), **broken}))


def test_the_digest_tells_requests_apart() -> None:
    def digest(**changes: Any) -> str:
        return Message.open(json.dumps({**json.loads(MESSAGE.seal()), **changes})).digest

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


@pytest.mark.parametrize(("most", "left_out"), [(None, False), (14, False), (13, True)])
def test_arguments_that_are_too_large_for_a_message_stay_in_the_record(most: int | None, left_out: bool) -> None:
    publication = Publication(replace(MESSAGE, args=["é" * 8], kwargs={}), 12, 1, "e")  # ["éééééééé"] and {}
    args, kwargs, header = publication.within(most)
    assert (args, kwargs) == ((["(in the record)"] if left_out else ["é" * 8]), {})
    bell = Doorbell.from_header(header)
    assert (bell.left_out, bell.private) == (left_out, False)
    assert ("left_out" in header) is left_out


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
        {**GOOD, "pseq": -1},
        {**GOOD, "pseq": 2**53},
        {**GOOD, "task": "x" * 1001},
        {**GOOD, "epoch": "x" * 1001},
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


# ---- for the quarantine --------------------------------------------------------------------------------------------


def test_what_is_too_long_is_kept_by_its_beginning() -> None:
    assert shortened("x" * KEPT) == "x" * KEPT
    assert shortened(b"\xff" + b"x" * (KEPT - 4)) == "\\xff" + "x" * (KEPT - 4)
    assert shortened("x" * (KEPT + 1)) == "x" * KEPT + f"... ({KEPT + 1} characters)"
    assert shortened(b"x" * 10 * KEPT) == "x" * KEPT + f"... ({10 * KEPT} bytes)"
    assert shortened("ü".encode() * KEPT) == "ü" * KEPT


def test_whatever_an_engine_has_read_can_be_kept() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert as_text({"a": object}) == """{"a": "<class 'object'>"}"""
    assert as_text(deep) == "(cannot be shown: RecursionError)"
    assert as_text({(1, 2): 3}) == "(cannot be shown: TypeError)"
    assert len(as_text(["x" * 10 * KEPT])) < KEPT + 50
