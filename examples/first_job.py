"""A first job, on any backend.

QUEUEKIT_BACKEND=memory python first_job.py               in this process, nothing to install

QUEUEKIT_BACKEND=rq queuekit worker first_job.py --dev    or celery, or dramatiq: a worker with a server of its own
QUEUEKIT_BACKEND=rq python first_job.py                   in another terminal, in the same folder
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from queuekit import Job, agent_task


@dataclass
class Summary:
    words: int
    longest: str
    made_at: datetime


@agent_task
def summarise(text: str) -> Summary:
    words = text.split()
    return Summary(len(words), max(words, key=len), datetime.now(UTC))


@agent_task(timeout=30)
async def ask(question: str) -> str:
    await asyncio.sleep(0.1)  # a model would be called here
    return f"{question} Nobody knows."


def main() -> None:
    one = summarise.enqueue("A job is recorded before it is published")
    two = ask.enqueue("Who saw it?")
    print(one.result(timeout=30))
    print(two.result(timeout=30))
    again: Job[Summary] = summarise.job(one.id)  # later, from any process that knows the id
    print(again.status(), again.info().attempts[0].worker)


if __name__ == "__main__":
    main()
