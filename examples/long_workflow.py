"""An article by an agent, longer than any HTTP request: a chain of tasks, looked at later by the id that it was given.

    QUEUEKIT_BACKEND=rq queuekit worker long_workflow.py --dev      after model_endpoint.py
    QUEUEKIT_BACKEND=rq python long_workflow.py start "How do bees find home?"       prints an id, and is done
    QUEUEKIT_BACKEND=rq python long_workflow.py status ID
    QUEUEKIT_BACKEND=rq python long_workflow.py result ID           waits for it
    QUEUEKIT_BACKEND=rq python long_workflow.py cancel ID

Without arguments: all of it in one process, also on the memory backend, for an article that is written and for one that
cannot be. Each step is a job of its own: it is retried as its own policy says, on whatever worker comes first, and what
the steps before it have done is not done again. The one rule for failure: what reserve() took, release() gives back.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from openai import OpenAI

from queuekit import (
    Backoff,
    Job,
    JobCancelled,
    JobFailed,
    JobInfo,
    RetryPolicy,
    RetryRule,
    agent_task,
    chain,
    current_job,
)

SCALE = float(os.environ.get("SCALE", "1"))
ARTICLES = Path(os.environ.get("ARTICLES", str(Path(tempfile.gettempdir(), "queuekit-articles"))))

# Each step has its own patience: the search is worth most of it, and a disk works again soon or not at all.
SEARCHING = RetryPolicy.for_llm(scale=SCALE, max_attempts=8)
WRITING = RetryPolicy.for_llm(scale=SCALE, max_attempts=5)
STORAGE = RetryPolicy([RetryRule(OSError, Backoff.fixed(5))], max_attempts=3).scaled(SCALE)


@dataclass(frozen=True)
class Article:
    """What the steps hand on, each with what it has added."""

    topic: str
    slot: str
    facts: str = ""
    text: str = ""


@dataclass(frozen=True)
class Published:
    topic: str
    words: int
    path: Path


@cache
def client() -> OpenAI:
    return OpenAI(max_retries=0, timeout=60)


def ask(article: Article, prompt: str) -> str:
    answer = client().chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": prompt}],
        extra_headers={"X-Client-Request-Id": f"{article.slot}-{current_job().task}"},
    )
    return answer.choices[0].message.content or ""


@agent_task(queue="articles", retry=STORAGE, timeout=30)
def reserve(topic: str, slot: str) -> Article:
    ARTICLES.mkdir(parents=True, exist_ok=True)
    (ARTICLES / f"{slot}.reserved").touch()  # a step may run twice: doing it again changes nothing
    return Article(topic, slot)


@agent_task(queue="articles", retry=STORAGE, timeout=30)
def release(article: Article) -> None:
    (ARTICLES / f"{article.slot}.reserved").unlink(missing_ok=True)


@agent_task(queue="articles", retry=SEARCHING, timeout=900)
def research(article: Article) -> Article:
    return replace(article, facts=ask(article, f"Which facts answer this? {article.topic}"))


@agent_task(queue="articles", retry=WRITING, timeout=300)
def write(article: Article) -> Article:
    return replace(article, text=ask(article, f"Write an article of these facts. {article.facts}"))


@agent_task(queue="articles", retry=STORAGE, timeout=30)
def publish(article: Article) -> Published:
    path = ARTICLES / f"{article.slot}.txt"
    path.write_text(article.text, "utf-8")
    (ARTICLES / f"{article.slot}.reserved").unlink(missing_ok=True)
    return Published(article.topic, len(article.text.split()), path)


def start(topic: str) -> str:
    id = uuid.uuid4().hex
    slot = f"{re.sub(r'[^a-z]+', '-', topic.lower()).strip('-')}-{id[:6]}"
    undo = release.options(id=undo_of(id))  # an id that is known: whoever wants to wait for it can
    # All of it is recorded when this returns. A type checker sees that each step takes what the one before gives.
    return chain(reserve.bind(topic, slot).compensate(undo.bind), research, write, publish).enqueue(id=id).id


def undo_of(id: str) -> str:
    return f"{id}-release"


def steps(id: str) -> list[JobInfo]:
    """The chain, from its first step to this one. The id is that of its last job, and each knows whom it waits for."""
    info = Job.fetch(id).info()
    return [step for before in info.after for step in steps(before)] + [info]


def status(id: str) -> str:
    return "\n".join(
        f"  {info.task.split('.')[-1]:9} {info.status:10} attempts: {len(info.attempts)}" for info in steps(id)
    )


def result(id: str) -> str:
    try:
        done = publish.job(id).result(timeout=7200)  # a Published: the task knows the type
    except (JobCancelled, JobFailed) as error:  # cancelled: also where a step before it has failed; the text says which
        with suppress(JobCancelled):  # release() too, where nothing had been reserved
            release.job(undo_of(id)).result(timeout=600)
        return f"{error}; nothing is reserved any more"
    return f"{done.words} words in {done.path.name}"


def cancel(id: str) -> str:
    """The workflow, and not just its last step. What runs is told, and what was reserved is released."""
    return "it will end" if publish.job(id).cancel("no longer wanted", whole=True) else "it is over"


def main() -> None:
    commands = {"start": start, "status": status, "result": result, "cancel": cancel}
    match sys.argv[1:]:
        case [command, argument] if command in commands:
            print(commands[command](argument))
        case []:
            for topic in ("How do bees find home?", "The article that is refused"):  # by the endpoint, each time
                id = start(topic)
                print(f"{id}: {topic}\n{status(id)}")
                print(f"{result(id)}\n{status(id)}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
