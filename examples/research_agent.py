"""A research agent: one job plans, one for each question looks into it in steps, and one writes the report.

    QUEUEKIT_BACKEND=rq queuekit worker research_agent.py --dev --concurrency 4      after model_endpoint.py
    QUEUEKIT_BACKEND=rq python research_agent.py

Kill the worker in the middle, and start it again: what was answered is not asked again, the jobs that were started are
not started twice, and the report is written once. `queuekit jobs tree ID` shows all of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from openai import OpenAI

from queuekit import RetryPolicy, agent_task, current_job

SCALE = float(os.environ.get("SCALE", "1"))
POLICY = RetryPolicy.for_llm(scale=SCALE)


@dataclass
class Finding:
    question: str
    answer: str


@cache
def client() -> OpenAI:
    return OpenAI(max_retries=0, timeout=60)


def ask(prompt: str) -> str:
    """One call of a model, which costs money. Inside a step its answer is kept before the next one begins."""
    answer = client().chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": prompt}],
        # the same in each attempt: an endpoint that knows such keys answers once
        extra_headers={"X-Client-Request-Id": current_job().idempotency_key or ""},
    )
    return answer.choices[0].message.content or ""


@agent_task(queue="agents", retry=POLICY, timeout=300)
def research(question: str) -> Finding:
    job = current_job()
    notes = job.step("look-up", ask, f"What is known about this? {question}")
    doubts = job.step("doubt", ask, f"What speaks against it? {notes}")
    return Finding(question, job.step("answer", ask, f"Answer it. {question} {doubts}"))


@agent_task(queue="agents", retry=POLICY, timeout=300)
def report(findings: list[Finding]) -> str:
    text = " ".join(finding.answer for finding in findings)
    return f"{len(findings)} findings. {current_job().step('write', ask, f'Make one text of it. {text}')}"


@agent_task(queue="agents", retry=POLICY, timeout=300)
def agent(topic: str, questions: int) -> str:
    """Gives the id of the report, which the last of its jobs will have written."""
    job = current_job()
    plan = job.step("plan", ask, f"Which {questions} questions does one have to ask about this? {topic}")
    asked = [f"Question {number} of {plan}" for number in range(1, questions + 1)]
    # Children of this job: an attempt that runs again finds them, and a cancel of this job reaches them.
    return job.enqueue(research.map(asked).then(report)).id


def main() -> None:
    job = agent.enqueue("How do bees find home?", 6)
    written = report.job(job.result(timeout=600))
    print(written.result(timeout=1800))
    findings = [research.job(id) for id in written.info().after]
    print(f"{len(findings)} questions, {sum(len(one.info().attempts) for one in findings)} attempts at them")


if __name__ == "__main__":
    main()
