"""Wrong uses of the public API. Each line with a mark is an error to mypy --strict and to pyright; no other is. Never run.

A call stands on one line, so that both report it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from queuekit import (
    Backoff,
    Call,
    Job,
    JobStatus,
    RetryAfter,
    RetryPolicy,
    RetryRule,
    Task,
    Workflow,
    agent_task,
    chain,
    chord,
    current_job,
)


@dataclass
class Document:
    text: str


@agent_task
def shorten(document: Document, limit: int = 10, *, strict: bool = False) -> int:
    return limit


@agent_task(queue="documents", timeout=30)
async def search(query: str, /, *, top: int) -> list[Document]:
    return []


DOCUMENT = Document("text")

# ---- a plain call
shorten()  # reject: an argument is missing
shorten("text")  # reject: a wrong type
shorten(DOCUMENT, 3, True)  # reject: keyword-only, given by place
wrong_result: str = shorten(DOCUMENT)  # reject: the result is an int
search("x")  # reject: a keyword-only argument is missing
search(query="x", top=1)  # reject: positional-only, given by name


async def awaiting() -> None:
    await shorten(DOCUMENT)  # reject: not a coroutine
    not_awaited: list[Document] = search("x", top=1)  # reject: a coroutine, not its result
    awaited: list[str] = await search("x", top=1)  # reject: a list of documents
    print(not_awaited, awaited)


# ---- enqueue
shorten.enqueue()  # reject: an argument is missing
shorten.enqueue("text")  # reject: a wrong type
shorten.enqueue(DOCUMENT, "3")  # reject: a wrong type
shorten.enqueue(DOCUMENT, strict="yes")  # reject: a wrong type of a keyword-only argument
shorten.enqueue(DOCUMENT, loud=True)  # reject: an unknown argument
shorten.enqueue(DOCUMENT, 3, False)  # reject: keyword-only, given by place
shorten.enqueue(DOCUMENT, document=DOCUMENT)  # reject: given twice
search.enqueue("x")  # reject: a keyword-only argument is missing
search.enqueue(query="x", top=1)  # reject: positional-only, given by name
search.enqueue(3, top=1)  # reject: a wrong type
shorten.enqueue(DOCUMENT, delay=3)  # reject: options go through options()


async def enqueueing() -> None:
    await shorten.aenqueue("text")  # reject: a wrong type
    await shorten.enqueue(DOCUMENT)  # reject: enqueue is not a coroutine
    await search.aenqueue("x", top="1")  # reject: a wrong type


# ---- jobs and their results
job_of_str: Job[str] = shorten.enqueue(DOCUMENT)  # reject: a job of an int
result_of_str: str = shorten.enqueue(DOCUMENT).result()  # reject: an int
result_of_strs: list[str] = search.enqueue("x", top=1).result(timeout=3)  # reject: documents
shorten.enqueue(DOCUMENT).result(3)  # reject: timeout is keyword-only
shorten.enqueue(DOCUMENT).result(timeout="3")  # reject: seconds or a timedelta
shorten.job(3)  # reject: an id is a str
status: str = shorten.job("id").info()  # reject: a JobInfo
late: datetime = shorten.job("id").info().finished_at  # reject: it may be None
done: JobStatus = JobStatus.done  # reject: there is no such state


async def looking() -> None:
    text: str = await shorten.job("id").aresult()  # reject: an int
    lost: int = search.job("id").aresult()  # reject: a coroutine
    print(text, lost)


# ---- bind and enqueue_many
shorten.bind()  # reject: an argument is missing
shorten.bind(DOCUMENT, "3")  # reject: a wrong type
call_of_str: Call[str] = shorten.bind(DOCUMENT)  # reject: a call that gives an int
shorten.enqueue_many([search.bind("x", top=1)])  # reject: calls of another task
shorten.enqueue_many([DOCUMENT])  # reject: neither a call nor a tuple
shorten.enqueue_many(shorten.bind(DOCUMENT))  # reject: not an iterable
jobs_of_str: list[Job[str]] = shorten.enqueue_many([(DOCUMENT,)])  # reject: jobs of ints

# ---- options
shorten.options(key="k", on_duplicate="newest")  # reject: one of four
shorten.options(3)  # reject: keyword-only
shorten.options(delay="3")  # reject: seconds or a timedelta
shorten.options(at=3)  # reject: a datetime
shorten.options(retries=3)  # reject: there is no such option
shorten.options(retry=3)  # reject: a policy or its name
shorten.options(queue="fast").enqueue("text")  # reject: the type is kept
shorten.options(queue="fast").enqueue(DOCUMENT).result().upper()  # reject: the type of the result is kept
search.options(priority=9).bind(3, top=1)  # reject: the type is kept


# ---- the decorator
@agent_task(retries=3)  # reject: there is no such option
def with_an_unknown_option() -> None: ...


@agent_task(timeout="30")  # reject: seconds or a timedelta
def with_a_wrong_option() -> None: ...


@agent_task("documents")  # reject: options are keywords
def with_a_positional_option() -> None: ...


agent_task(3)  # reject: not a function


# ---- tasks passed around
def enqueue_text(task: Task[[str], int, Any]) -> None: ...


enqueue_text(shorten)  # reject: other parameters
misspelt = shorten.nmae  # reject: a misspelt attribute

# ---- policies and the context
RetryRule("openai.RateLimitError", action="stop")  # reject: retry or fail
RetryRule("openai.RateLimitError", 3)  # reject: a Backoff
RetryRule("openai.RateLimitError", Backoff(3), 5)  # reject: max_attempts is keyword-only
RetryPolicy(max_retries=5)  # reject: max_attempts, which counts the first run
RetryPolicy("openai.RateLimitError")  # reject: rules
RetryPolicy([], on_lost="ignore")  # reject: retry or fail
Backoff("3")  # reject: seconds or a timedelta
Backoff(3, jitter="some")  # reject: there is no such jitter
RetryAfter()  # reject: the delay is missing
attempt: str = current_job().attempt  # reject: an int
current_job().retry()  # reject: there is no such method


# ---- steps
def letters(text: str) -> int:
    return len(text)


current_job().step("count", letters)  # reject: the argument is missing
current_job().step("count", letters, 3)  # reject: its type
current_job().step("count", letters, text="x", more=1)  # reject: an unknown argument
current_job().step.options(on_unknown="retry")  # reject: rerun or fail
current_job().step(letters, "x")  # reject: the name is missing
current_job().astep("count", letters, "x")  # reject: not async
result: str = current_job().step("count", letters, "x")  # reject: an int


# ---- workflows
@agent_task
def measure(text: str) -> int:
    return len(text)


@agent_task
def spell(number: int) -> str:
    return str(number)


@agent_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


chain(measure.bind("x"), measure)  # reject: it takes a text, and gets a number
chain(measure.bind("x"), spell, spell)  # reject: the third takes a number, and gets a text


def measured_again(text: str) -> Call[int]:
    return measure.bind(text)


chain(measure.bind("x"), measured_again)  # reject: the function takes a text
measure.bind("x").then(measure)  # reject: a text
measure.map([3])  # reject: texts
chord([measure.bind("x")], spell)  # reject: it takes a number, and gets a list
chord([measure.bind("x").on_failure("skip")], total)  # reject: some may be None
flow = Workflow()
node = flow.add(measure.bind("x"))
flow.add(measure.bind(node.result))  # reject: a text
flow.add(total.bind([node]))  # reject: the node, and not its result
measure.bind("x").on_failure("ignore")  # reject: stop or skip
measure.bind("x").compensate(measure.bind)  # reject: a text
name: Job[str] = current_job().enqueue(measure.bind("x"))  # reject: a number
