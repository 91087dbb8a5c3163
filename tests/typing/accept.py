"""Right uses of the public API. mypy --strict and pyright report nothing here, and see exactly these types. Never run."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from queuekit import (
    App,
    Attempt,
    Backoff,
    BlobStore,
    Call,
    Category,
    ConfigError,
    EnqueueError,
    Flow,
    Group,
    GroupJob,
    Job,
    JobContext,
    JobFailed,
    JobInfo,
    JobNotReady,
    JobStatus,
    Node,
    PayloadError,
    QueuekitError,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    Task,
    Workflow,
    agent_task,
    chain,
    chord,
    configure,
    current_job,
    group,
)
from queuekit.blobs import Directory


@dataclass
class Document:
    text: str


@dataclass
class Summary:
    words: int


# ---- the decorator, bare and called, on sync and async functions ---------------------------------------------------


@agent_task
def shorten(document: Document, limit: int = 10, *, strict: bool = False) -> Summary:
    return Summary(min(limit, len(document.text)))


@agent_task
async def summarise(document: Document, limit: int = 10, *, strict: bool = False) -> Summary:
    return Summary(limit)


@agent_task(
    name="documents.count",
    aliases=["documents.tally"],
    queue="documents",
    retry=RetryPolicy.for_llm(),
    timeout=300,
    soft_timeout=timedelta(minutes=4),
    result_ttl=3600.0,
    keep_result=True,
    priority=5,
    private=True,
)
def count(*documents: Document, **weights: float) -> int:
    return len(documents)


@agent_task(retry="careful")
async def search(query: str, /, *, top: int) -> list[Document]:
    return []


@agent_task()
def ping() -> None:
    return None


DOCUMENT = Document("text")

assert_type(shorten(DOCUMENT), Summary)
assert_type(shorten(DOCUMENT, 3, strict=True), Summary)
assert_type(count(DOCUMENT, DOCUMENT, first=0.5), int)
assert_type(ping.enqueue(), Job[None])
to_await = assert_type(summarise(DOCUMENT), Coroutine[Any, Any, Summary])


async def called_here_and_now() -> None:
    assert_type(await summarise(DOCUMENT, limit=3), Summary)
    assert_type(await search("x", top=3), list[Document])
    assert_type(await search.options(priority=9)("x", top=3), list[Document])


# ---- a task and its jobs -------------------------------------------------------------------------------------------

assert_type(shorten.name, str)
assert_type(shorten.enqueue(DOCUMENT, 3, strict=True), Job[Summary])
assert_type(summarise.enqueue(document=DOCUMENT), Job[Summary])
assert_type(count.enqueue(DOCUMENT, first=1.0), Job[int])
assert_type(search.enqueue("x", top=1), Job[list[Document]])

assert_type(shorten.enqueue(DOCUMENT).result(), Summary)
assert_type(summarise.enqueue(DOCUMENT).result(timeout=60), Summary)
assert_type(search.enqueue("x", top=1).result(timeout=timedelta(seconds=1)), list[Document])
assert_type(ping.enqueue().result(), None)

assert_type(shorten.job("some-id"), Job[Summary])
assert_type(search.job("some-id").result(timeout=0), list[Document])
assert_type(Job.fetch("some-id"), Job[Any])


def about(job: Job[Summary]) -> None:
    assert_type(job.id, str)
    assert_type(job.created, bool)
    assert_type(job.status(), JobStatus)
    assert_type(job.info(), JobInfo)
    assert_type(job.info().attempts, tuple[Attempt, ...])
    assert_type(job.info().attempts[0].category, Category | None)
    assert_type(job.info().finished_at, datetime | None)
    assert_type(job.cancel("no longer needed"), bool)


async def without_blocking(job: Job[Summary]) -> None:
    assert_type(await summarise.aenqueue(DOCUMENT, strict=True), Job[Summary])
    assert_type(await job.aresult(timeout=1.5), Summary)
    assert_type(await job.astatus(), JobStatus)
    assert_type(await job.ainfo(), JobInfo)
    assert_type(await job.acancel(), bool)
    assert_type(await Job.afetch("some-id"), Job[Any])
    assert_type(await shorten.aenqueue_many([shorten.bind(DOCUMENT)]), list[Job[Summary]])


def gathered(jobs: list[Job[Summary]], one: Job[int], other: Job[int]) -> None:
    assert_type(Job.wait_all(jobs), list[Summary])
    assert_type(Job.wait_all((job for job in jobs), timeout=timedelta(minutes=1)), list[Summary])
    assert_type(Job.wait_all([one, other], timeout=3, return_exceptions=False), list[int])
    assert_type(Job.wait_all([one, other], return_exceptions=True), list[int | QueuekitError])


async def gathered_without_blocking(jobs: list[Job[Summary]]) -> None:
    assert_type(await Job.await_all(jobs, timeout=1.5), list[Summary])
    assert_type(await Job.await_all(jobs, return_exceptions=True), list[Summary | QueuekitError])


# ---- requests as values --------------------------------------------------------------------------------------------

assert_type(shorten.bind(DOCUMENT, strict=True), Call[Summary])
assert_type(search.bind("x", top=1), Call[list[Document]])
assert_type(shorten.enqueue_many([shorten.bind(DOCUMENT), shorten.bind(DOCUMENT, 3)]), list[Job[Summary]])
assert_type(shorten.enqueue_many([(DOCUMENT,), (DOCUMENT, 3)]), list[Job[Summary]])
assert_type(search.enqueue_many(search.bind(word, top=1) for word in ("a", "b")), list[Job[list[Document]]])

# ---- options keep the type ------------------------------------------------------------------------------------------

SOON = datetime(2026, 1, 1, tzinfo=UTC)

assert_type(shorten.options(id="a", queue="fast", delay=3, priority=9).enqueue(DOCUMENT, strict=True), Job[Summary])
assert_type(summarise.options(at=SOON, expires=timedelta(hours=1), key="k").enqueue(DOCUMENT), Job[Summary])
assert_type(shorten.options(key="k", on_duplicate="replace", key_ttl=3).enqueue(DOCUMENT, strict=True), Job[Summary])
assert_type(count.options(retry="careful", timeout=timedelta(minutes=1), soft_timeout=30.0)(DOCUMENT), int)
assert_type(search.options(expires=SOON, result_ttl=60).bind("x", top=2), Call[list[Document]])
assert_type(ping.options(retry=RetryPolicy()).enqueue(), Job[None])


# ---- tasks are passed around ---------------------------------------------------------------------------------------


def enqueue_text(task: Task[[str], int, Any], text: str) -> int:
    return task.enqueue(text).result()


def any_task(task: Task[..., Any, Any]) -> str:
    return task.name


@agent_task
def length(text: str) -> int:
    return len(text)


@agent_task
async def length_later(text: str) -> int:
    return len(text)


assert_type(enqueue_text(length, "x"), int)
assert_type(enqueue_text(length_later, "x"), int)
assert_type([any_task(length), any_task(summarise), any_task(ping)], list[str])


# ---- policies, errors, the context, the composition root -----------------------------------------------------------

RetryPolicy(
    [
        RetryRule("openai.RateLimitError", Backoff(30, 2, cap=timedelta(minutes=5)), max_attempts=6),
        RetryRule(["category:timeout", TimeoutError], Backoff.fixed(10), name="slow"),
        RetryRule(lambda error: "later" in str(error), action="retry", honour_retry_after=False),
        RetryRule("category:auth", action="fail"),
    ],
    max_attempts=6,
    max_elapsed=timedelta(hours=1),
    on_lost="fail",
)
assert_type(Backoff.fixed(3), Backoff)
assert_type(RetryPolicy.for_llm(), RetryPolicy)
assert_type(RetryPolicy.from_dict(RetryPolicy().to_dict()), RetryPolicy)
assert_type(configure(backend="memory"), App)
assert_type(current_job(), JobContext)
assert_type(current_job().attempt, int)
assert_type(current_job().deadline, datetime | None)


# ---- steps
def letters(text: str, *, twice: bool = False) -> int:
    return len(text) * (1 + twice)


async def letters_later(text: str) -> int:
    return len(text)


async def steps() -> None:
    job = current_job()
    assert_type(job.step("count", letters, "text", twice=True), int)
    assert_type(job.step.options(key=3, on_unknown="fail")("count", letters, "text"), int)
    assert_type(await job.astep("count", letters_later, "text"), int)
    assert_type(await job.astep.options(key="k")("count", letters_later, text="text"), int)


def handled(job: Job[int]) -> int:
    try:
        with App().activate() as app:
            assert_type(app, App)
        return job.result(timeout=1)
    except JobNotReady as error:
        as_timeout: TimeoutError = error
        raise RetryAfter(timedelta(seconds=3)) from as_timeout
    except JobFailed as error:
        assert_type(error.info, JobInfo)
        assert_type(error.category, Category)
        assert_type(error.error_type, str)
    except EnqueueError as error:
        assert_type(error.recorded, bool | None)
        assert_type(error.job_id, str)
    except PayloadError as error:
        assert_type(error.parameter, str | None)
    except ConfigError as error:
        as_base: QueuekitError = error
        raise as_base from None
    return 0


# ---- workflows
@agent_task
def measure(text: str) -> int:
    return len(text)


@agent_task
async def spell(number: int, *, language: str = "en") -> str:
    return f"{number} {language}"


@agent_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@agent_task
def total_of_some(numbers: list[int | None]) -> int:
    return sum(number or 0 for number in numbers)


@agent_task
def withdraw(number: int) -> None: ...


async def workflows() -> None:
    assert_type(chain(measure.bind("x"), spell), Flow[str])
    assert_type(chain(measure.bind("x"), spell, measure), Flow[int])
    assert_type(chain(measure.bind("x"), lambda n: spell.bind(n, language="de"), measure).enqueue(), Job[int])
    assert_type(measure.bind("x").then(spell).then(measure), Flow[int])
    assert_type(group([measure.bind("x"), measure.bind("y")]), Group[int])
    assert_type(measure.map(["x", "y"]).enqueue().results(), list[int])
    assert_type(measure.map(["x", "y"]).then(total).enqueue().result(), int)
    assert_type(chord([measure.bind("x"), chain(measure.bind("y"), spell, measure)], total), Flow[int])
    assert_type(chord([measure.bind("x").on_failure("skip")], total_of_some).enqueue(), Job[int])
    assert_type(await chain(measure.bind("x"), spell).aenqueue(), Job[str])
    flow = Workflow(id="x")
    n = flow.add(measure.bind("x").compensate(withdraw.bind))
    m = flow.add(total.bind([n.result, 3]), after=[n])
    assert_type(n, Node[int])
    assert_type(m.result, int)
    assert_type(flow.add(spell.bind(m.result, language="de")).result, str)
    assert_type(flow.enqueue().job(m).result(), int)
    assert_type(current_job().enqueue(measure.bind("x"), key=3), Job[int])
    assert_type(current_job().enqueue(measure.map(["x"])), GroupJob[int])
    assert_type(await current_job().aenqueue(chain(measure.bind("x"), spell)), Job[str])


# ---- the blob hook -------------------------------------------------------------------------------------------------


class Shelf:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)


def blobs() -> None:
    hooks: list[BlobStore] = [Shelf(), Directory("blobs")]
    assert_type(hooks[0].get("key"), bytes | None)
    assert_type(configure(blobs=Shelf(), blob_over=4096), App)
