"""The demo's task: nothing in it knows an engine, a broker or the demo.

The OpenAI client finds its endpoint and its key in OPENAI_BASE_URL and OPENAI_API_KEY, as it always does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from openai import OpenAI

from queuekit import RetryPolicy, agent_task

__all__ = ["CLIENT_TIMEOUT", "POLICY", "SCALE", "Summary", "process_document"]

CLIENT_TIMEOUT = 3.0  # seconds that one request may take
SCALE = 1 / 20
POLICY = RetryPolicy.for_llm(scale=SCALE)  # the preset's rules, twenty times as fast: a demonstration cannot wait 30 s


@dataclass(frozen=True)
class Summary:
    text: str
    model: str
    tokens: int


@cache
def client() -> OpenAI:
    # max_retries=0: the waits are the policy's. Otherwise the client sleeps and asks again inside the worker.
    return OpenAI(max_retries=0, timeout=CLIENT_TIMEOUT)


@agent_task(queue="documents", retry=POLICY, timeout=30)
def process_document(doc_id: str, text: str) -> Summary:
    """Ask the model for a summary. Whatever the client raises goes to the policy."""
    answer = client().chat.completions.create(
        model="stand-in",
        messages=[
            {"role": "system", "content": "Summarise the document in one sentence."},
            {"role": "user", "content": text},
        ],
        extra_headers={"X-Client-Request-Id": doc_id},  # the provider's logs can then be searched for the document
    )
    usage = answer.usage
    return Summary(
        text=answer.choices[0].message.content or "", model=answer.model, tokens=usage.total_tokens if usage else 0
    )
