"""Dozens of jobs at once, gathered in order, and one that puts them together.

    QUEUEKIT_BACKEND=rq queuekit worker fan_out.py --dev --concurrency 4      after model_endpoint.py
    QUEUEKIT_BACKEND=rq python fan_out.py

The caller gathers, not a task: a task that waits for other jobs holds a place in the worker that they may need.
"""

from __future__ import annotations

import os
from functools import cache

from openai import OpenAI

from queuekit import Job, RetryPolicy, agent_task

SCALE = float(os.environ.get("SCALE", "1"))
POLICY = RetryPolicy.for_llm(scale=SCALE)


@cache
def client() -> OpenAI:
    return OpenAI(max_retries=0, timeout=60)


@agent_task(queue="sections", retry=POLICY, timeout=300)
def summarise_section(number: int, text: str) -> str:
    answer = client().chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": text}],
        extra_headers={"X-Client-Request-Id": f"section-{number}"},
    )
    return f"{number}: {answer.choices[0].message.content}"


@agent_task(queue="sections", timeout=300)
def combine(sections: list[str]) -> str:
    return f"{len(sections)} sections, from {sections[0].split(' (')[0]!r} to {sections[-1].split(' (')[0]!r}"


def main() -> None:
    sections = [
        (number, f"Section {number} says what happened on day {number} of the journey.") for number in range(36)
    ]
    jobs = summarise_section.enqueue_many(sections)  # all are checked before the first is recorded
    # In the order of the jobs, whichever ended first. One look at the store for all of them; raises what failed.
    summaries = Job.wait_all(jobs, timeout=3600)
    print(combine.enqueue(summaries).result(timeout=600))
    print(f"{sum(len(job.info().attempts) > 1 for job in jobs)} of {len(jobs)} needed more than one attempt")


if __name__ == "__main__":
    main()
