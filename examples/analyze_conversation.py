"""An async task with two limits: at the soft one it saves what it has, at the hard one it is ended.

    QUEUEKIT_BACKEND=dramatiq queuekit worker analyze_conversation.py --dev     after model_endpoint.py
    QUEUEKIT_BACKEND=dramatiq python analyze_conversation.py

SoftTimeout is raised once, at the await where the task is; it is a BaseException, so that no `except Exception` in a
library swallows it. All async tasks of a worker share one loop, so that one client serves them all.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import cache

from openai import AsyncOpenAI

from queuekit import JobFailed, RetryPolicy, SoftTimeout, agent_task

SCALE = float(os.environ.get("SCALE", "1"))
POLICY = RetryPolicy.for_llm(scale=SCALE, time_limit="fail")  # one that was too slow is not tried again


@dataclass
class Analysis:
    complete: bool
    notes: list[str] = field(default_factory=list)


@cache
def client() -> AsyncOpenAI:
    return AsyncOpenAI(max_retries=0, timeout=60)


async def note(conversation: str, turn: int, text: str) -> str:
    answer = await client().chat.completions.create(
        model="gpt-5-mini",
        messages=[{"role": "user", "content": text}],
        extra_headers={"X-Client-Request-Id": f"{conversation}-{turn}"},
    )
    return answer.choices[0].message.content or ""


@agent_task(queue="conversations", retry=POLICY, soft_timeout=120 * SCALE, timeout=150 * SCALE)
async def analyze_conversation(conversation: str, turns: list[str]) -> Analysis:
    analysis = Analysis(complete=False)
    try:
        for turn, text in enumerate(turns):
            analysis.notes.append(await note(conversation, turn, text))
    except SoftTimeout:
        return analysis  # there are 30 s left to bring home what there is
    analysis.complete = True
    return analysis


@agent_task(queue="conversations", retry=POLICY, soft_timeout=20 * SCALE, timeout=40 * SCALE)
async def analyze_at_leisure(conversation: str, turns: list[str]) -> Analysis:
    """As one should not: it goes on after the soft limit, until the hard one ends it."""
    try:
        return Analysis(complete=True, notes=[await note(conversation, 0, turns[0])])
    except SoftTimeout:
        await asyncio.sleep(3600)
        raise


TURNS = [
    "My parcel has not arrived, though the tracking page says that it has.",
    "We are sorry for that. Could you tell us the number that is printed on the receipt?",
    "It is 4711. The neighbours have not seen it, and the shop is closed on Mondays.",
]


def main() -> None:
    quick = analyze_conversation.enqueue("parcel", TURNS)
    slow = analyze_conversation.enqueue("silent", TURNS)  # the endpoint never answers to this name
    careless = analyze_at_leisure.enqueue("silent", TURNS)
    for name, job in (("quick", quick), ("slow", slow)):
        found = job.result(timeout=1800)
        print(f"{name}: {len(found.notes)} of {len(TURNS)} turns, {'complete' if found.complete else 'partial'}")
    try:
        careless.result(timeout=1800)
    except JobFailed as error:
        print(f"careless: {error.category}")


if __name__ == "__main__":
    main()
