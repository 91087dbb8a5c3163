"""A workflow that outlives its caller: enqueue it, keep the id, and ask later, from any process.

    QUEUEKIT_BACKEND=rq queuekit worker run_agent_workflow.py --dev      after model_endpoint.py, as in process_document
    QUEUEKIT_BACKEND=rq python run_agent_workflow.py start "How do bees find home?"        prints the job's id
    QUEUEKIT_BACKEND=rq python run_agent_workflow.py status ID
    QUEUEKIT_BACKEND=rq python run_agent_workflow.py result ID           waits for it
    QUEUEKIT_BACKEND=rq python run_agent_workflow.py cancel ID

Without arguments: all of it in one process, also on the memory backend.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import cache

from openai import AsyncOpenAI

from queuekit import Job, RetryPolicy, agent_task, current_job

SCALE = float(os.environ.get("SCALE", "1"))
POLICY = RetryPolicy.for_llm(scale=SCALE)


@dataclass
class Report:
    question: str
    answer: str
    steps: list[str] = field(default_factory=list)


@cache
def client() -> AsyncOpenAI:
    return AsyncOpenAI(max_retries=0, timeout=60)


async def ask(step: str, prompt: str) -> str:
    answer = await client().chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": prompt}],
        extra_headers={"X-Client-Request-Id": f"{current_job().id}-{step}"},
    )
    return answer.choices[0].message.content or ""


@agent_task(queue="agents", retry=POLICY, timeout=900)
async def run_agent_workflow(question: str) -> Report:
    """Plan, research, write. An attempt that fails in one step starts anew with the first: see checkpoint.py."""
    plan = await ask("plan", f"Which facts are needed to answer this? {question}")
    facts = await ask("research", f"Find these facts. {plan}")
    text = await ask("write", f"Answer the question with these facts. {question} {facts}")
    return Report(question, text, ["plan", "research", "write"])


def start(question: str) -> str:
    return run_agent_workflow.enqueue(question).id


def status(id: str) -> str:
    info = Job.fetch(id).info()
    return f"{info.status}, attempt {len(info.attempts)}, enqueued {info.enqueued_at:%H:%M:%S}"


def result(id: str) -> str:
    # job() knows the task's type: the result is a Report, and a type checker sees that.
    report = run_agent_workflow.job(id).result(timeout=1800)
    return f"{report.question} {report.answer} ({', '.join(report.steps)})"


def cancel(id: str) -> str:
    return "it will end" if run_agent_workflow.job(id).cancel("no longer needed") else "it is over"


def main() -> None:
    commands = {"start": start, "status": status, "result": result, "cancel": cancel}
    match sys.argv[1:]:
        case [command, argument] if command in commands:
            print(commands[command](argument))
        case []:
            id = start("How do bees find home?")
            print(f"{id}: {status(id)}")
            print(result(id))
            print(f"{id}: {status(id)}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
