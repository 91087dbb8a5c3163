"""Signatures: what they hold, and what becomes of a job or a message whose signature does not."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, ConfigError, QueuekitError, Settings, agent_task
from queuekit.adapters.memory import VirtualClock
from queuekit.execution import Delivery, Dropped, Execution, Failed, Released, Succeeded
from queuekit.message import Doorbell, InvalidMessage, Message, Publication
from queuekit.settings import load
from queuekit.signing import Signer
from queuekit.store import NewJob
from queuekit.store.memory import MemoryStore
from queuekit.task import find_task
from queuekit.ticks import Ticker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from queuekit.handle import Job

NEW, OLD, THEIRS = (sha256(name.encode()).hexdigest() for name in ("new", "old", "theirs"))
MESSAGE = Message("id", "t", [1, "ü"], {"k": "\ud83d"}, "q", "rq", priority=7, timeout=2.5)

ran: list[str] = []


@agent_task(name="signing.note")
def note(text: str) -> str:
    ran.append(text)
    return text


@pytest.fixture(autouse=True)
def nothing_has_run() -> None:
    ran.clear()


# ---- the setting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["", "short", "aaaaaaaaaaaaaaaaaaaaaaaa", f"{NEW},", f"{NEW},short", "a b" * 20, 7, [7]]
)
def test_a_key_that_can_be_guessed_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"signing_key='\*\*\*' \(Settings\(\)\): give .*(16 characters|a list)"
    ) as told:
        Settings(signing_key=key)
    assert NEW not in str(told.value)


def test_several_keys_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    assert load(cwd=tmp_path, environ={"QUEUEKIT_SIGNING_KEY": f"{NEW}, {OLD}"}).signing_key == (NEW, OLD)
    (tmp_path / "queuekit.toml").write_text(f'signing_key = ["{NEW}", "{OLD}"]')
    settings = load(cwd=tmp_path, environ={})
    assert settings.signing_key == (NEW, OLD)
    assert Settings.from_json(settings.to_json()).signing_key == (NEW, OLD)  # to a steward


def test_keys_are_shown_nowhere() -> None:
    settings = Settings(signing_key=[NEW, OLD])
    shown = f"{settings!r} {settings.signer!r} {settings.source('signing_key')} {App(settings)!r}"
    assert NEW not in shown
    assert "signing_key='***'" in shown


@pytest.mark.parametrize("asked", [{"adopt": True}, {"store_lost": "adopt"}])
def test_what_runs_by_a_message_alone_does_not_go_with_a_key(asked: dict[str, Any]) -> None:
    settings = Settings(backend="memory", signing_key=NEW, **asked)
    with pytest.raises(ConfigError, match=rf"{next(iter(asked))} .*and signing_key .*cannot go together.*Unset"):
        settings.resolve()


# ---- what is signed ------------------------------------------------------------------------------------------------


def signer(*keys: str, namespace: str = "n", accept: bool = False) -> Signer:
    return Signer(keys, namespace, accept_unsigned=accept)


def test_the_first_key_signs_and_all_are_taken() -> None:
    text = MESSAGE.seal(signer(OLD))
    signer(OLD).check(text)
    signer(NEW, OLD).check(text)
    assert MESSAGE.seal(signer(OLD, NEW)) == text != MESSAGE.seal(signer(NEW, OLD))
    assert Message.open(text) == MESSAGE  # also for who has no key, and knows no signatures
    for other in (signer(NEW), signer(OLD, namespace="m")):
        with pytest.raises(InvalidMessage, match="of none of the keys"):
            other.check(text)


def test_nothing_of_a_message_can_be_changed() -> None:
    """Neither a character of it, nor its spaces, nor a word that is there twice."""
    one = signer(NEW)
    text = MESSAGE.seal(one)
    for place in range(len(text)):
        changed = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
        with pytest.raises(InvalidMessage, match="message"):
            one.check(changed)
    for changed in (text + " ", text.replace('"t"', ' "t"'), '{"id":"other",' + text[1:], text[:-1] + ',"task":"u"}'):
        with pytest.raises(InvalidMessage, match="message"):
            one.check(changed)


def test_a_message_of_a_later_version_can_be_checked_too() -> None:
    text = json.dumps({**json.loads(MESSAGE.seal()), "version": 99, "more": [1]}, separators=(",", ":"))
    signer(NEW).check(signer(NEW).sign(text))


def test_without_a_signature() -> None:
    text = MESSAGE.seal()
    with pytest.raises(InvalidMessage, match="no signature"):
        signer(NEW).check(text)
    signer(NEW, accept=True).check(text)
    with pytest.raises(InvalidMessage, match="none of the keys"):
        signer(NEW, accept=True).check(MESSAGE.seal(signer(THEIRS)))


def bell(by: Signer | None = None, **changes: Any) -> Doorbell:
    header = {**Publication(MESSAGE, 12, 1, "e", by).header(), **changes}
    return Doorbell.from_header(json.loads(json.dumps(header)))


def test_a_doorbell_is_signed_with_all_that_its_header_says() -> None:
    one = signer(NEW, OLD)
    one.check_bell(bell(one))
    one.check_bell(bell(signer(OLD)))
    assert bell(one) == bell()  # who knows no signatures reads the same
    changes: list[dict[str, Any]] = [
        {"id": "other"}, {"task": "u"}, {"pseq": 13}, {"epoch": "f"}, {"route": "rq:r:0"}, {"timeout": None},
        {"own_policy": True}, {"private": True}, {"later": 1}, {"signature": THEIRS},
    ]  # fmt: skip
    for changed in changes:
        with pytest.raises(InvalidMessage, match="of none of the keys here, or it was changed"):
            one.check_bell(bell(one, **changed))
    for signature in (1, "", "é" * 64, [], "x" * 64, True):
        with pytest.raises(InvalidMessage, match="the signature of the doorbell is none"):
            one.check_bell(bell(one, signature=signature))
    with pytest.raises(InvalidMessage, match="no signature"):
        one.check_bell(bell())
    signer(NEW, accept=True).check_bell(bell())
    with pytest.raises(InvalidMessage, match="none of the keys"):
        signer(NEW, accept=True).check_bell(bell(signer(THEIRS)))


def test_a_signature_is_good_for_one_thing() -> None:
    """That of a doorbell for no message, that of one namespace for no other."""
    one = signer(NEW)
    header = bell(one).to_header()
    text = json.dumps({k: v for k, v in header.items() if k != "signature"}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(InvalidMessage):
        one.check(f'{text[:-1]},"signature":"{header["signature"]}"}}')
    with pytest.raises(InvalidMessage):
        signer(NEW, namespace="m").check_bell(bell(one))


@pytest.mark.parametrize("odd", [b"x", float("nan"), {1: 2, "a": 1}, object()])
def test_a_header_that_json_cannot_say_is_none_of_ours(odd: Any) -> None:
    with pytest.raises(InvalidMessage, match="cannot be read as JSON"):
        signer(NEW).check_bell(Doorbell.from_header({**bell(signer(NEW)).to_header(), "odd": odd}))


def test_the_native_id_is_the_jobs() -> None:
    for native in ("id", "id-12"):
        bell().check_native(native)
    for native in ("other", "id-13", None, 7, ["id"]):
        with pytest.raises(InvalidMessage, match="came as"):
            bell().check_native(native)


# ---- the claim -----------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.clock = VirtualClock(1_000_000)
        self.store = MemoryStore(clock=self.clock)
        self.settings = Settings(backend="memory", **{"signing_key": NEW, **settings})
        self.execution = Execution(
            self.store,
            self.settings,
            find=find_task,
            worker=lambda: "w",
            renew=lambda: self.store.beat("w", start=True) and None,  # type: ignore[func-returns-value]
        )
        self.epoch = self.store.epoch()

    def record(self, text: str, id: str = "j") -> None:
        self.store.create(NewJob(id, text, "d", "memory:q:0", id, 60))

    def deliver(self, by: Signer | None, job: str = "j", **changes: Any) -> Any:
        message = replace(self.message, id=job)
        header = {**Publication(message, 1, 1, self.epoch, by).header(), **changes}
        return self.execution.execute(Delivery(Doorbell.from_header(header), ["shown"], {}, "the.queue"))

    @property
    def message(self) -> Message:
        return Message("j", "signing.note", ["recorded"], {}, "q", "memory")

    @property
    def signer(self) -> Signer:
        assert self.settings.signer is not None
        return self.settings.signer

    def aside(self) -> list[tuple[str, str]]:
        return [(one.reason, one.source) for one in self.store.quarantined(10)]


THEIR_SIGNER = Signer([THEIRS], "default")


@pytest.mark.parametrize(
    ("by", "changes", "why"),
    [
        (None, {}, "the doorbell has no signature, and a signing_key is set here"),
        (THEIR_SIGNER, {}, "the signature of the doorbell is of none of the keys here, or it was changed since"),
        ("ours", {"id": "k"}, "the signature of the doorbell is of none of the keys here, or it was changed since"),
        ("ours", {"signature": 7}, "the signature of the doorbell is none"),
    ],
)
def test_a_doorbell_that_nobody_signed_goes_to_quarantine_before_the_store_is_asked(
    by: Any, changes: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    for id in "jk":
        bench.record(replace(bench.message, id=id).seal(bench.signer), id)
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "claim", None)
        outcome = bench.deliver(bench.signer if by == "ours" else by, **changes)
    assert outcome == Dropped(f"put aside: {why}")
    assert bench.aside() == [(why, "the.queue")]
    assert "shown" in bench.store.quarantined(1)[0].raw
    assert not ran
    assert isinstance(bench.deliver(bench.signer), Succeeded)  # its neighbour, or itself by its own doorbell
    assert ran == ["recorded"]


def test_the_same_doorbell_again_is_a_duplicate_and_no_more() -> None:
    bench = Bench()
    bench.record(bench.message.seal(bench.signer))
    assert isinstance(bench.deliver(bench.signer), Succeeded)
    assert bench.deliver(bench.signer) == Dropped("it has succeeded")
    assert bench.aside() == []


def records(bench: Bench) -> dict[str, tuple[str, str]]:
    changed = bench.message.seal(bench.signer).replace("recorded", "forged")
    return {
        "changed": (changed, "of none of the keys here, or it was changed since"),
        "another key": (bench.message.seal(THEIR_SIGNER), "of none of the keys here"),
        "unsigned": (bench.message.seal(), "the message has no signature"),
        "another job": (replace(bench.message, id="k").seal(bench.signer), "its message is that of the job 'k'"),
        "another namespace": (bench.message.seal(Signer([NEW], "other")), "of none of the keys here"),
    }


@pytest.mark.parametrize("which", records(Bench()))
def test_a_record_that_nobody_signed_does_not_run_and_does_not_ring_for_ever(which: str) -> None:
    """Handed back, as a key that is not here yet would look the same; then a dead letter with the reason."""
    bench = Bench(unknown_grace=2.0)
    text, why = records(bench)[which]
    bench.record(text)
    outcome = bench.deliver(bench.signer)
    assert isinstance(outcome, Released)
    assert why in outcome.reason
    ((reason, source),) = bench.aside()
    assert reason.startswith("the record of job j: ")
    assert why in reason
    assert source == "the.queue"
    bench.clock.advance(3)
    assert len(bench.store.take_due("memory:q:0", 5)) == 1
    outcome = bench.deliver(bench.signer)
    assert isinstance(outcome, Failed)
    record = bench.store.get("j")
    assert record is not None
    assert record.status == "failed"
    assert why in record.reason
    assert record.message == text
    assert len(bench.aside()) == 1  # told once
    assert not ran


def test_a_worker_with_the_key_runs_what_one_without_has_handed_back() -> None:
    bench = Bench()
    bench.record(bench.message.seal(THEIR_SIGNER))
    assert isinstance(bench.deliver(bench.signer), Released)
    bench.clock.advance(2)
    bench.store.take_due("memory:q:0", 5)
    bench.settings = Settings(backend="memory", signing_key=[NEW, THEIRS])
    bench.execution.settings = bench.settings
    assert isinstance(bench.deliver(bench.signer), Succeeded)


def test_while_the_key_is_rolled_out_what_is_unsigned_runs_and_what_is_forged_does_not() -> None:
    bench = Bench(unsigned="accept")
    bench.record(bench.message.seal())
    assert isinstance(bench.deliver(None), Succeeded)
    bench.record(replace(bench.message, id="k").seal(THEIR_SIGNER), "k")
    assert isinstance(bench.deliver(None, "k"), Released)
    assert isinstance(bench.deliver(THEIR_SIGNER, "k"), Dropped)


def test_a_policy_of_an_unsigned_record_is_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may name a predicate, which would be imported."""
    (tmp_path / "signing_bomb.py").write_text("def bad(error): return True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = {"rules": [{"on": {"predicate": "signing_bomb:bad"}}]}
    bench = Bench()
    bench.record(replace(bench.message, args=[], retry=policy).seal(THEIR_SIGNER))
    assert isinstance(bench.deliver(bench.signer, own_policy=True), Dropped)
    header = {**Publication(bench.message, 1, 1, bench.epoch).header(), "own_policy": True}
    forged = Doorbell.from_header(bench.signer.sign_header(header))
    assert isinstance(bench.execution.execute(Delivery(forged, [], {})), Released)
    assert "signing_bomb" not in sys.modules


# ---- from enqueue to the end ---------------------------------------------------------------------------------------


def app(**settings: Any) -> App:
    return App(Settings(backend="memory", **{"signing_key": NEW, **settings}))


def text_of(here: App, job: Job[Any]) -> str:
    record = here.store.get(job.id)
    assert record is not None
    return record.message


def test_a_job_is_signed_where_it_is_enqueued_and_runs() -> None:
    here = app()
    with here.activate():
        job = note.enqueue("one")
        signed = text_of(here, job)
        Signer([NEW], "default").check(signed)
        assert job.result() == "one"
        assert text_of(here, job) == signed


def test_what_a_hook_adds_at_enqueue_is_signed_too() -> None:
    class Adds:
        def around_enqueue(self, event: Any, headers: dict[str, str]) -> Any:
            from contextlib import nullcontext

            headers["trace"] = "x"
            return nullcontext()

        def __call__(self, event: Any) -> None: ...

    here = App(Settings(backend="memory", signing_key=NEW), hooks=[Adds()])
    with here.activate():
        job = note.enqueue("one")
        assert '"trace":"x"' in text_of(here, job)
        assert job.result() == "one"


def test_a_steward_publishes_the_sealed_message_as_it_was() -> None:
    """Of whatever version: it signs the doorbell, and leaves the record alone, byte by byte."""

    class Adapter:
        name = "memory"
        sent: list[Publication] = []  # noqa: RUF012

        def publish(self, publications: Sequence[Publication]) -> None:
            self.sent += publications

        def depth(self, route: str) -> int:
            return len(self.sent)

    bench = Bench()
    later = json.dumps({**json.loads(bench.message.seal()), "version": 99, "ω": 1e3}, separators=(",", ":"))
    texts = {"j": bench.message.seal(THEIR_SIGNER), "k": bench.signer.sign(later.replace('"j"', '"k"', 1))}
    for id, text in texts.items():
        bench.store.create(NewJob(id, text, "d", "memory:q:0", id, 60, delay=1))
    bench.clock.advance(1)
    adapter = Adapter()
    Ticker(bench.store, adapter, signer=bench.signer).tick()  # type: ignore[arg-type]
    assert sorted(one.native_id for one in adapter.sent) == ["j", "k"]
    for one in adapter.sent:
        bench.signer.check_bell(Doorbell.from_header(dict(one.header())))
    assert {id: bench.store.get(id).message for id in texts} == texts  # type: ignore[union-attr]


# ---- revived -------------------------------------------------------------------------------------------------------


def failed(here: App, text: str | None = None) -> Job[Any]:
    """A dead letter; of that text."""
    with here.activate():
        job = note.enqueue("one")
        assert here.store.cancel(job.id, "why") == "cancelled"
    if text is not None:
        here.store._jobs[job.id].message = text.replace("ID", job.id)  # type: ignore[attr-defined]
    return job


def test_a_job_that_is_revived_is_signed_by_the_first_key() -> None:
    here = app(signing_key=[OLD, NEW])
    job = failed(here)
    before = text_of(here, job)
    rotated = App(Settings(backend="memory", signing_key=[NEW, OLD]))
    rotated._store = here.store
    rotated.revive(job.id)
    after = text_of(rotated, job)
    Signer([NEW], "default").check(after)
    assert after[:-80] == before[:-80]


def test_moved_to_another_backend_and_with_other_arguments_it_is_signed_anew() -> None:
    here = app()
    job = failed(here)
    here.revive(job.id, backend="rq", arguments=(["two"], {}))
    text = text_of(here, job)
    Signer([NEW], "default").check(text)
    assert (Message.open(text).backend, Message.open(text).args) == ("rq", ["two"])


def test_what_is_not_signed_is_not_signed_by_being_revived() -> None:
    here = app()
    forged = Message("ID", "signing.note", ["forged"], {}, "default", "memory")
    for text in (forged.seal(), forged.seal(THEIR_SIGNER)):
        job = failed(here, text)
        with pytest.raises(QueuekitError, match=r"not revived: .*signing_key for this once.*unsigned='accept'"):
            here.revive(job.id)
        with pytest.raises(QueuekitError, match="not revived"):
            here.revive(job.id, arguments=(["x"], {}))
    accepting = App(here.settings.replace(unsigned="accept"))
    accepting._store = here.store
    job = failed(here, forged.seal())
    accepting.revive(job.id)
    Signer([NEW], "default").check(text_of(here, job))


def test_without_the_key_a_signed_job_is_revived_as_it_is_and_not_changed() -> None:
    here = app()
    job = failed(here)
    before = text_of(here, job)
    keyless = App(Settings(backend="memory"))
    keyless._store = here.store
    with pytest.raises(QueuekitError, match="is signed, and cannot be changed without the key: set signing_key"):
        keyless.revive(job.id, backend="rq")
    keyless.revive(job.id)
    assert text_of(here, job) == before
