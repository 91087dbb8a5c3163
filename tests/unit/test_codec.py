"""The payload codec: what is recorded through it, and what happens where it or its key is missing."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from queuekit import (
    App,
    ConfigError,
    EnqueueError,
    Job,
    PayloadContext,
    PayloadError,
    Settings,
    agent_task,
)
from queuekit.message import Message
from queuekit.payload.encoding import Undecodable, decode, decode_result, encode

CONTEXT = PayloadContext("j", "t", "arguments")


class Box:
    """A stand-in for encryption: another text each time, bound to its context, and to a key."""

    digest_key = b"0123456789abcdef"

    def __init__(self, key: str = "one") -> None:
        self.key = key
        self.seen: list[PayloadContext] = []

    def encode(self, data: bytes, context: PayloadContext) -> bytes:
        self.seen.append(context)
        return json.dumps([self.key, secrets.token_hex(4), repr(context), data[::-1].decode("latin-1")]).encode()

    def decode(self, data: bytes, context: PayloadContext) -> bytes:
        key, _, bound, text = json.loads(data)
        if (key, bound) != (self.key, repr(context)):
            raise KeyError("s3cret: no such key")
        return text.encode("latin-1")[::-1]


class NotThere(Exception):
    pass


@agent_task(name="codec.shout")
def shout(text: str, *, times: int = 1) -> str:
    return text.upper() * times


@agent_task(name="codec.refuse")
def refuse(text: str) -> int:
    return text  # type: ignore[return-value]  # a result that does not fit


def app_of(codec: Any, **settings: Any) -> App:
    return App(Settings(backend="memory", codec=codec, **settings))


def test_arguments_and_result_are_recorded_encoded_and_arrive_as_they_were() -> None:
    box = Box()
    with app_of(box).activate() as app:
        job = shout.enqueue("hush ü", times=2)
        assert job.result(timeout=0) == "HUSH ÜHUSH Ü"
        record = app.store.get(job.id)
        assert record is not None
        kept = f"{record!r} {app.store.result(job.id)}"
        assert "hush" not in kept.lower()
        message = Message.open(record.message)
        assert (message.version, message.args, message.kwargs) == (2, [], {})
        assert Job.fetch(job.id).result(timeout=0) == "HUSH ÜHUSH Ü"
    assert {one.kind for one in box.seen} == {"arguments", "result"}
    assert {(one.job_id, one.task) for one in box.seen} == {(job.id, "codec.shout")}


def test_the_broker_is_shown_placeholders() -> None:
    with app_of(Box()).activate() as app:
        shout.enqueue("hush")
        (publication,) = app.adapter._broker  # type: ignore[attr-defined]
    assert publication.shown == (["(private)"], {})
    assert publication.doorbell.private


def test_a_job_from_before_the_codec_runs_with_it() -> None:
    with app_of(None).activate() as app:
        job = shout.enqueue("plain")
        app._settings = app.settings.replace(codec=Box())
        app.adapter._execution.settings = app.settings  # type: ignore[attr-defined]
        assert job.result(timeout=0) == "PLAIN"


# ---- the digest ----------------------------------------------------------------------------------------------------


def test_equal_requests_under_one_id_are_one_job_though_they_are_encoded_otherwise_each_time() -> None:
    with app_of(Box()).activate():
        assert shout.options(id="one").enqueue("hush").created
        assert not shout.options(id="one").enqueue("hush").created
        with pytest.raises(EnqueueError, match="asks for something else"):
            shout.options(id="one").enqueue("else")


def test_the_digest_tells_nothing_of_the_arguments() -> None:
    def digest(codec: Any, id: str = "a") -> str:
        return Message(id, "t", ["hush"], {}, "q", "rq").encoded(codec)[1]

    plain = Message("a", "t", ["hush"], {}, "q", "rq").digest
    assert digest(None) == plain
    assert digest(Box()) == digest(Box())
    assert digest(Box()) != plain
    assert digest(Box(), "a") != digest(Box(), "b")  # equal prompts of two jobs
    other = Box()
    other.digest_key = b"fedcba9876543210"
    assert digest(other) != digest(Box())  # nobody without the key can try guesses
    del Box.digest_key
    try:
        assert digest(Box()) not in {plain, digest(other)}
    finally:
        Box.digest_key = b"0123456789abcdef"


# ---- without the key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [None, Box("another")], ids=["no codec", "another key"])
def test_a_worker_without_the_key_hands_back_and_says_why(codec: Any) -> None:
    with app_of(Box()).activate() as app:
        job = shout.enqueue("hush")
        app.adapter._execution.settings = app.settings.replace(codec=codec)  # type: ignore[attr-defined]
        assert app.run_next()
        info = job.info()
        assert (info.status, info.attempts[0].outcome) == ("queued", "released")
        assert "cod" in (info.attempts[0].reason or "")
        assert "s3cret" not in repr(info)
        app.adapter._execution.settings = app.settings  # type: ignore[attr-defined]
        assert job.result(timeout=0) == "HUSH"
        assert job.info().attempts[-1].number == 1


def test_after_the_grace_it_is_a_dead_letter_with_the_reason() -> None:
    with app_of(Box(), unknown_grace=10).activate() as app:
        job = shout.enqueue("hush")
        app.adapter._execution.settings = app.settings.replace(codec=None)  # type: ignore[attr-defined]
        app.run_until_idle()
        info = job.info()
        assert info.status == "failed"
        assert "no codec is set" in (info.reason or "")


def test_a_result_without_the_key_is_a_payload_error() -> None:
    with app_of(Box()).activate() as app:
        job = shout.enqueue("hush")
        app.run_until_idle()
        app._settings = app.settings.replace(codec=None)
        with pytest.raises(PayloadError, match="no codec is set here") as caught:
            job.result(timeout=0)
        assert caught.value.parameter == "return"


# ---- codecs that fail ----------------------------------------------------------------------------------------------


class Broken(Box):
    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def encode(self, data: bytes, context: PayloadContext) -> bytes:
        if context.kind == self.when:
            raise NotThere("the key service is away")
        return super().encode(data, context)


def test_arguments_that_cannot_be_encoded_are_not_enqueued() -> None:
    with app_of(Broken("arguments")).activate() as app, pytest.raises(EnqueueError, match="NotThere") as caught:
        shout.enqueue("hush")
    assert caught.value.recorded is False
    assert app.store.get(caught.value.job_id) is None


def test_a_result_that_cannot_be_encoded_is_judged_by_the_policy() -> None:
    with app_of(Broken("result")).activate() as app:
        job = shout.enqueue("hush")
        app.run_until_idle()
        assert job.info().attempts[0].error_type == f"{__name__}.NotThere"


def test_an_error_that_quotes_a_value_does_not_quote_it_into_the_record() -> None:
    with app_of(Box()).activate() as app:
        job = refuse.enqueue("hush")
        app.run_until_idle()
        record = app.store.get(job.id)
        assert record is not None
        assert record.status == "failed"
        assert "hush" not in repr(record)
        assert "'return'" in record.reason


def test_what_a_codec_gives_has_to_be_bytes() -> None:
    class Text(Box):
        def encode(self, data: bytes, context: PayloadContext) -> Any:
            return "text"

    with pytest.raises(TypeError, match="str and not bytes"):
        encode(Text(), b"x", CONTEXT)


@pytest.mark.parametrize("text", ["%%%", "", "aGFsbG8="])
def test_what_is_no_payload_is_undecodable_and_never_anything_else(text: str) -> None:
    with pytest.raises(Undecodable, match="cannot be decoded"):
        decode(Box(), text, CONTEXT)


def test_a_plain_result_needs_no_codec() -> None:
    assert decode_result(None, '"x"', CONTEXT) == '"x"'


# ---- the setting ---------------------------------------------------------------------------------------------------


BOX = Box()


@pytest.mark.parametrize("name", ["BOX", "Box"])
def test_a_codec_by_name_is_an_object_or_a_class(name: str) -> None:
    settings = Settings(backend="memory", codec=f"{__name__}:{name}")
    assert isinstance(settings.payload_codec, Box)
    assert settings.payload_codec is settings.payload_codec
    assert Settings.from_json(settings.to_json()).codec == settings.codec


@pytest.mark.parametrize("name", [f"{__name__}:nothing", "no.such.module:x", f"{__name__}:CONTEXT"])
def test_one_that_cannot_be_is_said_when_it_is_needed(name: str) -> None:
    with pytest.raises(ConfigError, match="codec="):
        _ = Settings(backend="memory", codec=name).payload_codec


@pytest.mark.parametrize("value", ["module", "a b:c", 3, object()])
def test_what_is_no_name_of_one_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ConfigError, match="codec"):
        Settings(backend="memory", codec=value)


def test_an_object_does_not_travel_to_the_steward() -> None:
    settings = Settings(backend="memory", codec=Box())
    assert Settings.from_json(settings.to_json()).codec is None
