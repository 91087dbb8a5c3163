"""The blob hook: what lies outside of the record, on the memory backend."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queuekit import (
    App,
    Backoff,
    ConfigError,
    Job,
    JobFailed,
    RetryPolicy,
    RetryRule,
    Settings,
    StaleAttempt,
    agent_task,
    current_job,
)
from queuekit.blobs import Directory
from queuekit.errors import BlobAway, JobCancelled
from queuekit.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
OVER = 1000
POLICY = RetryPolicy([RetryRule("category:connection", Backoff.fixed(1))], max_attempts=3)

did: Counter[str] = Counter()
code: Callable[[], Any]
acode: Callable[[], Any]


@agent_task(name="blobs.run", retry=POLICY)
def run() -> Any:
    return code()


@agent_task(name="blobs.arun", retry=POLICY)
async def arun() -> Any:
    return await acode()


class Shelf(dict[str, bytes]):
    """A hook in memory that fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[BaseException] = []  # what the next calls raise
        self.gets: list[BaseException] = []
        self.calls: Counter[str] = Counter()

    def put(self, key: str, data: bytes) -> None:
        self.calls["put"] += 1
        assert type(data) is bytes
        if self.puts:
            raise self.puts.pop(0)
        self[key] = data

    def get(self, key: str) -> Any:  # type: ignore[override]
        self.calls["get"] += 1
        if self.gets:
            raise self.gets.pop(0)
        return self[key]


def app_of(blobs: Any, **more: Any) -> App:
    return App(Settings(backend="memory", blobs=blobs, blob_over=OVER, **more))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    did.clear()
    monkeypatch.setattr("queuekit.execution.outside.PAUSES", (0.0,) * 5)


def write(size: int = 5000) -> str:
    did["write"] += 1
    return "x" * size


async def awrite(size: int = 5000) -> str:
    await asyncio.sleep(0)
    return write(size)


def fail_once() -> None:
    if current_job().attempt == 1:
        raise ConnectionError("away")


def play(app: App, what: Callable[[], Any]) -> Job[Any]:
    global code
    code = what
    with app.activate():
        job = run.enqueue()
        app.run_until_idle()
    return job


def write_then_fail_once() -> int:
    text = current_job().step("write", write)
    fail_once()
    return len(text)


def ended(job: Job[Any]) -> list[str]:
    return [one.outcome for one in job.info().attempts]


def refused(job: Job[Any]) -> str:
    """What is said of a job that ended by a StepError, in its last attempt, without paying again."""
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=0)
    assert failed.value.error_type == "queuekit.errors.StepError"
    assert f"step 'write#0' of job {job.id}: " in failed.value.error_message
    assert did == {"write": 1}
    return failed.value.error_message


# ---- what it is for ------------------------------------------------------------------------------------------------


def test_a_large_result_lies_outside_and_is_found_by_the_next_attempt() -> None:
    shelf, kept = Shelf(), []
    app = app_of(shelf)

    def task() -> int:
        text = current_job().step("write", write)
        kept.append(app.store.steps(current_job().id))
        fail_once()
        return len(text)

    job = play(app, task)
    assert (job.result(timeout=0), ended(job)) == (5000, ["retried", "succeeded"])
    assert (did, shelf.calls) == ({"write": 1}, {"put": 1, "get": 1})
    ((key, data),) = shelf.items()
    assert re.fullmatch(rf"default/{job.id}/write-[0-9a-f]{{64}}", key)
    assert data == b'"' + b"x" * 5000 + b'"'
    assert len(kept[0]["write#0"].text) < 300
    assert key in kept[0]["write#0"].text


def test_async_steps_too_and_gathered() -> None:
    shelf = Shelf()
    app = app_of(shelf)
    shelf.puts = [OSError("away"), OSError("away")]

    async def task() -> list[int]:
        step = current_job().astep
        texts = await asyncio.gather(
            step("write", awrite, 3000), step("write", awrite, 10), step("write", awrite, 4000)
        )
        fail_once()
        return [len(text) for text in texts]

    global acode
    acode = task
    with app.activate():
        job = arun.enqueue()
        app.run_until_idle()
    assert job.result(timeout=0) == [3000, 10, 4000]
    assert (did, shelf.calls) == ({"write": 3}, {"put": 4, "get": 2})


@pytest.mark.parametrize(("over", "payload_limit"), [(OVER, 10_000), (10_000, OVER)])
def test_what_has_more_bytes_than_either_limit_goes_outside(over: int, payload_limit: int) -> None:
    for size, count in ((OVER - 2, 0), (OVER - 1, 1), (20_000, 1)):
        shelf = Shelf()
        app = App(Settings(backend="memory", blobs=shelf, blob_over=over, payload_limit=payload_limit))
        job = play(app, lambda size=size: len(current_job().step("write", write, size)))
        assert (job.result(timeout=0), len(shelf)) == (size, count)


def test_steps_limit_counts_the_references() -> None:
    app = app_of(Shelf(), steps_limit=1000)
    assert play(app, lambda: [len(current_job().step("write", write)) for _ in range(3)]).result(timeout=0)
    job = play(app, lambda: [len(current_job().step("write", write)) for _ in range(9)])
    with pytest.raises(JobFailed, match=r"over the limit of 1000; set blobs \(or a lower blob_over\)"):
        job.result(timeout=0)


def test_without_a_hook_it_is_the_remedy() -> None:
    app = App(Settings(backend="memory", payload_limit=100))
    with pytest.raises(JobFailed, match="over the limit of 100 bytes; set blobs, keep the data in a file"):
        play(app, lambda: current_job().step("write", write)).result(timeout=0)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=1200), max_size=4), st.integers(1, 2000), st.booleans(), st.booleans())
def test_any_result_comes_back_as_it_was(texts: list[str], over: int, coded: bool, signed: bool) -> None:
    """Of any size, on either side of the threshold, through a codec and under a signature or not."""
    more: dict[str, Any] = {"codec": Reverse()} if coded else {}
    more |= {"signing_key": "a-key-that-nobody-can-guess-7"} if signed else {}
    app = App(Settings(backend="memory", blobs=Shelf(), blob_over=over, **more))
    found: list[list[str]] = []

    def give(text: str) -> str:
        did[text] += 1
        return text

    def task() -> None:
        found.append([current_job().step("give", give, text) for text in texts])
        fail_once()

    did.clear()
    play(app, task).result(timeout=0)
    assert found == [texts, texts]
    assert did == Counter(texts)


# ---- what is private, and what is signed ---------------------------------------------------------------------------


class Reverse:
    def encode(self, data: bytes, context: Any, /) -> bytes:
        return data[::-1]

    def decode(self, data: bytes, context: Any, /) -> bytes:
        return data[::-1]


def test_the_hook_is_shown_what_the_payload_codec_made() -> None:
    class Flip(Reverse):
        def encode(self, data: bytes, context: Any, /) -> bytes:
            return bytes(one ^ 255 for one in data)

        decode = encode

    shelf = Shelf()
    assert play(app_of(shelf, codec=Flip()), write_then_fail_once).result(timeout=0) == 5000
    assert did == {"write": 1}
    (data,) = shelf.values()
    assert data.startswith(b"codec:")
    assert b"xxx" not in data


@pytest.mark.parametrize("signed", [True, False])
def test_the_signature_covers_the_reference_and_the_hash_the_data(signed: bool) -> None:
    """Another step's reference in its place, a reference that somebody made up, and other data under the key."""

    def other_reference(app: App, shelf: Shelf) -> None:
        steps = app.store._jobs[current_job().id].steps  # type: ignore[attr-defined]
        steps["write#0"] = replace(steps["write#0"], text=steps["write#1"].text)

    def other_data(app: App, shelf: Shelf) -> None:
        for key in shelf:
            shelf[key] = b'"yyy"'

    for forge in (other_reference, other_data):
        did.clear()
        shelf = Shelf()
        app = app_of(shelf, **({"signing_key": "a-key-that-nobody-can-guess-7"} if signed else {}))

        def task(forge: Any = forge, app: App = app, shelf: Shelf = shelf) -> int:
            step = current_job().step
            found = len(step("write", write)) + len(step("write", lambda: "y" * 2000))
            if current_job().attempt == 1:
                forge(app, shelf)
            fail_once()
            return found

        job = play(app, task)
        if forge is other_data:
            assert "is not what was put there (5 bytes and not 5002, or others)" in refused(job)
        elif signed:
            assert "the signature of the step is of none of the keys here" in refused(job)
        else:
            assert job.result(timeout=0) == 4000  # who can write to the store is trusted without a key


@pytest.mark.parametrize("text", ["blob:", "blob:{}", "blob:[1]", 'blob:{"key":1,"sha256":"","size":2}'])
def test_a_reference_that_is_none(text: str) -> None:
    app = app_of(Shelf())

    def task() -> None:
        current_job().step("write", write)
        steps = app.store._jobs[current_job().id].steps  # type: ignore[attr-defined]
        steps["write#0"] = replace(steps["write#0"], text=text)
        fail_once()

    assert "its reference to a blob cannot be read" in refused(play(app, task))


# ---- what fails ----------------------------------------------------------------------------------------------------


def test_a_put_that_fails_for_a_while_is_done_again_and_the_step_is_not() -> None:
    shelf = Shelf()
    shelf.puts = [OSError("away") for _ in range(5)]
    job = play(app_of(shelf), write_then_fail_once)
    assert (job.result(timeout=0), ended(job)) == (5000, ["retried", "succeeded"])
    assert (did, shelf.calls) == ({"write": 1}, {"put": 6, "get": 1})


def test_a_put_that_goes_on_failing_loses_the_result_and_the_policy_decides() -> None:
    shelf = Shelf()
    shelf.puts = [RuntimeError("away") for _ in range(6)]
    job = play(app_of(shelf), lambda: len(current_job().step("write", write)))
    assert (job.result(timeout=0), did) == (5000, {"write": 2})
    first, second = job.info().attempts
    assert (first.outcome, first.error_type, first.category) == ("retried", "queuekit.errors.BlobAway", "connection")
    said = rf"step 'write#0' of job {job.id}: the result is lost: test_blobs.Shelf could not put the key '.*': RuntimeError: away"
    assert re.fullmatch(said, first.error_message or "")
    assert second.outcome == "succeeded"


def test_a_refusal_of_the_hook_is_not_tried_again_by_the_policy() -> None:
    class Denied(Exception):
        status_code = 403

    shelf = Shelf()
    shelf.puts = [Denied("no") for _ in range(6)]
    job = play(app_of(shelf), lambda: len(current_job().step("write", write)))
    assert (ended(job), job.info().attempts[0].category, did) == (["failed"], "auth", {"write": 1})


def test_a_careful_step_whose_result_was_lost_does_not_run_again() -> None:
    shelf = Shelf()
    shelf.puts = [OSError("away") for _ in range(6)]
    job = play(app_of(shelf), lambda: len(current_job().step.options(on_unknown="fail")("write", write)))
    with pytest.raises(JobFailed, match="nobody knows whether it took effect"):
        job.result(timeout=0)
    assert (ended(job), did) == (["retried", "failed"], {"write": 1})


def test_a_get_that_fails_costs_attempts_and_no_money() -> None:
    shelf = Shelf()
    shelf.gets = [OSError("away") for _ in range(8)]
    job = play(app_of(shelf), write_then_fail_once)
    assert (job.result(timeout=0), ended(job)) == (5000, ["retried", "retried", "succeeded"])
    assert (did, shelf.calls) == ({"write": 1}, {"put": 1, "get": 9})
    assert job.info().attempts[1].error_type == "queuekit.errors.BlobAway"
    assert "could not get the key" in str(job.info().attempts[1].error_message)


@pytest.mark.parametrize("gone", [None, KeyError("k"), FileNotFoundError("k")])
def test_a_blob_that_is_gone_ends_the_job_and_says_what_to_do(gone: Exception | None) -> None:
    class Lost(Shelf):
        def get(self, key: str) -> None:
            self.calls["get"] += 1
            if gone is not None:
                raise gone

    shelf = Lost()
    job = play(app_of(shelf), write_then_fail_once)
    said = refused(job)
    assert (ended(job), shelf.calls["get"]) == (["retried", "failed"], 1)
    (key,) = shelf
    assert (
        f"its result is gone from test_blobs.test_a_blob_that_is_gone_ends_the_job_and_says_what_to_do.<locals>.Lost, key {key!r}"
        in said
    )
    assert f"`queuekit jobs retry {job.id}`" in said
    assert f"`queuekit jobs retry {job.id} --anew`" in said


def test_one_that_was_put_back_is_found_when_the_job_is_revived() -> None:
    shelf = Shelf()
    app = app_of(shelf)
    aside: dict[str, bytes] = {}

    def task() -> int:
        text = current_job().step("write", write)
        if not aside:
            aside.update(shelf)
            shelf.clear()
        fail_once()
        return len(text)

    job = play(app, task)
    assert "is gone" in refused(job)
    shelf.update(aside)
    with app.activate():
        app.revive(job.id)
        app.run_until_idle()
    assert (job.result(timeout=0), did) == (5000, {"write": 1})


def test_a_worker_without_the_hook_says_which_setting() -> None:
    app = app_of(Shelf())

    def task() -> int:
        text = current_job().step("write", write)
        app.adapter._execution.settings = app.settings.replace(blobs=None)  # type: ignore[attr-defined]
        fail_once()
        return len(text)

    job = play(app, task)
    assert "and the setting blobs is not set here: set it as the worker has it that kept the result" in refused(job)


def test_what_is_no_bytes_is_a_bug_of_the_hook() -> None:
    class Text(Shelf):
        def get(self, key: str) -> str:
            return self[key].decode()

    job = play(app_of(Text()), write_then_fail_once)
    assert "TypeError: get() gave str and not bytes" in str(job.info().attempts[-1].error_message)
    assert did == {"write": 1}


def test_a_cancel_in_the_hook_is_no_outage() -> None:
    shelf = Shelf()
    shelf.puts = [JobCancelled("cancelled")]
    assert ended(play(app_of(shelf), lambda: len(current_job().step("write", write))))[0] != "succeeded"
    assert shelf.calls["put"] == 1


def test_a_zombie_puts_what_nobody_refers_to() -> None:
    """Its worker counts as gone, and another attempt has kept another result meanwhile."""
    shelf = Shelf()
    app = app_of(shelf)
    told: list[BaseException] = []

    def late() -> str:
        (worker,) = [one.name for one in app.store.consumers()]
        app.store.leave(worker)
        return write(3000)

    def zombie() -> int:
        try:
            return len(current_job().step("write", late))
        except BaseException as error:
            told.append(error)
            raise

    def task() -> int:
        text = current_job().step("write", write)
        return len(text) if current_job().attempt > 1 else 0

    global code
    code = zombie
    with app.activate():
        job = run.enqueue()
        assert app.run_next()
        assert [type(error) for error in told] == [StaleAttempt]
        assert len(shelf) == 1
        code = task
        app.run_until_idle()
        assert job.result(timeout=0) == 5000
    assert len(shelf) == 2


def test_an_attempt_that_has_ended_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has left behind in a thread gives up at the next failure."""
    from queuekit.execution.outside import Outside
    from queuekit.message import Message

    over = False
    outside = Outside(app_of(shelf := Shelf()).settings, Message("j", "t", [], {}, "q", "memory"), lambda: over)
    shelf.puts = [OSError("away") for _ in range(6)]
    work = outside.put("write#0", "x")
    assert next(work) == 0.0
    over = True
    with pytest.raises(BlobAway):
        next(work)
    assert shelf.calls["put"] == 2


# ---- the setting ---------------------------------------------------------------------------------------------------


def test_the_hook_is_an_object_or_the_name_of_one() -> None:
    shelf = Shelf()
    assert Settings(blobs=shelf).blob_store is shelf
    assert Settings().blob_store is None
    named = Settings(blobs=f"{__name__}:Shelf")
    assert isinstance(named.blob_store, Shelf)
    assert named.blob_store is named.blob_store
    with pytest.raises(ConfigError, match="an object with the methods put and get"):
        Settings(blobs=object())
    with pytest.raises(ConfigError, match="an object with the methods put and get"):
        _ = Settings(blobs=f"{__name__}:Reverse").blob_store
    with pytest.raises(ConfigError, match="has no 'Nothing'"):
        _ = Settings(blobs=f"{__name__}:Nothing").blob_store


def test_an_object_stays_in_its_process_and_a_name_is_handed_on() -> None:
    """What a suspect runs in is told by name."""
    assert Settings.from_json(Settings(blobs=Shelf()).to_json()).blobs is None
    assert Settings.from_json(Settings(blobs="a.b:C").to_json()).blobs == "a.b:C"
    assert not Settings(blobs=Shelf()).can_be_handed_over
    assert not Settings(codec=Reverse()).can_be_handed_over
    assert Settings(blobs="a.b:C", codec="a.b:D").can_be_handed_over

    def apart(**more: Any) -> bool:
        app = App(Settings(backend="memory", **more))
        worker = Worker(app.store, app.settings, [], find=lambda name: None, shared=True)
        return worker.execution._apart is not None

    assert (apart(), apart(blobs=Shelf())) == (True, False)


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_a_folder_keeps_what_it_is_given(tmp_path: Path) -> None:
    folder = Directory(tmp_path / "not" / "there")
    assert folder.get("ns/job/write-0") is None
    folder.put("ns/job/write-0", b"one")
    folder.put("ns/job/write-0", b"one")
    folder.put("ns/job/write-1", b"")
    assert (folder.get("ns/job/write-0"), folder.get("ns/job/write-1")) == (b"one", b"")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["write-0", "write-1"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert play(app_of(folder), write_then_fail_once).result(timeout=0) == 5000


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a\0b"])
def test_a_folder_gives_nothing_out_of_another_place(tmp_path: Path, key: str) -> None:
    folder = Directory(tmp_path / "blobs")
    with pytest.raises(ValueError, match="leads out of the folder"):
        folder.put(key, b"x")
    with pytest.raises(ValueError, match="leads out of the folder"):
        folder.get(key)


def test_a_folder_keeps_the_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Directory(tmp_path)
    folder.put("a", b"one")

    def full(file: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        folder.put("a", b"another one")
    assert folder.get("a") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_bucket_of_the_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/durable-steps.md, with a client that stands for S3's."""

    class NoSuchKey(Exception):
        pass

    class Client:
        exceptions = types.SimpleNamespace(NoSuchKey=NoSuchKey)

        def __init__(self) -> None:
            self.kept: dict[str, bytes] = {}

        def put_object(self, **said: Any) -> None:
            assert said["Bucket"] == "agents"
            self.kept[said["Key"]] = said["Body"]

        def get_object(self, **said: Any) -> dict[str, Any]:
            if said["Key"] not in self.kept:
                raise NoSuchKey
            return {"Body": io.BytesIO(self.kept[said["Key"]])}

    boto3: Any = types.ModuleType("boto3")
    boto3.client = lambda service, **more: Client()
    config: Any = types.ModuleType("botocore.config")
    config.Config = dict
    for name, module in (("boto3", boto3), ("botocore", types.ModuleType("botocore")), ("botocore.config", config)):
        monkeypatch.setitem(sys.modules, name, module)
    page = (ROOT / "docs/how-to/durable-steps.md").read_text()
    found = re.search(r"^```python\n(# bucket\.py\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    names: dict[str, Any] = {"__name__": "bucket"}
    exec(found[1], names)
    bucket = names["Bucket"]()
    assert bucket.get("a") is None
    assert play(app_of(bucket), write_then_fail_once).result(timeout=0) == 5000
    assert (did, len(bucket.client.kept)) == ({"write": 1}, 1)
