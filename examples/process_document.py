"""A batch of documents through a language model: each kind of failure waits in its own way, and the batch goes on.

    python model_endpoint.py                                       a model that needs no key; paste what it prints
    QUEUEKIT_BACKEND=celery queuekit worker process_document.py --dev       or rq, or dramatiq
    QUEUEKIT_BACKEND=celery python process_document.py [FILE...]   in another terminal, in the same folder

With QUEUEKIT_BACKEND=memory there is no worker, and the waits take no time.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openai import OpenAI

from queuekit import Job, JobFailed, RetryPolicy, agent_task, current_job

SCALE = float(os.environ.get("SCALE", "1"))  # 0.05: every backoff twenty times as fast, for a demonstration
POLICY = RetryPolicy.for_llm(scale=SCALE, max_attempts=6)


@dataclass(frozen=True)
class Summary:
    document: str
    text: str
    attempts: int


@cache
def client() -> OpenAI:
    # max_retries=0: the waits are the policy's. Otherwise the client sleeps and asks again inside the worker.
    return OpenAI(max_retries=0, timeout=60)


@agent_task(queue="documents", retry=POLICY, timeout=300)
def process_document(name: str, text: str) -> Summary:
    """Whatever the client raises goes to the policy: there is no `except` here."""
    answer = client().chat.completions.create(
        model="gpt-5-mini",
        messages=[
            {"role": "system", "content": "Summarise the document in one sentence."},
            {"role": "user", "content": text},
        ],
        extra_headers={"X-Client-Request-Id": name},  # the provider's logs can then be searched for the document
    )
    return Summary(name, answer.choices[0].message.content or "", current_job().attempt)


DOCUMENTS = {
    "minutes": "The committee met on Monday and agreed to publish the figures. Nobody objected to the new procedure.",
    "incident": "At noon the third pump stopped because its filter was blocked. The filter was changed within an hour.",
    "contract": "The supplier delivers forty valves in March. Payment is due thirty days after they were accepted.",
    "letter": "We thank you for the patience that you have shown. The refund was sent to your account this morning.",
    "refused": "This text is never summarised, since the endpoint refuses the key that comes with its request.",
}


def main() -> None:
    documents = {Path(name).stem: Path(name).read_text("utf-8") for name in sys.argv[1:]} or DOCUMENTS
    jobs = process_document.enqueue_many(documents.items())
    # Each in its place: a summary, or what became of the job. Without return_exceptions the first failure is raised.
    for job, found in zip(jobs, Job.wait_all(jobs, timeout=3600, return_exceptions=True), strict=True):
        if isinstance(found, Summary):
            print(f"{found.document}: {found.text} [attempt {found.attempts}]")
        elif isinstance(found, JobFailed):
            print(f"{job.id} is a dead letter: {found.category}: {found.error_type}")
        else:
            print(f"{job.id}: {found}")


if __name__ == "__main__":
    main()
