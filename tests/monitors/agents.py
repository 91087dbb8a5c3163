"""The task whose jobs the monitors are shown: what happens to an attempt is said by the document."""

from __future__ import annotations

import asyncio
import os
import signal

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job


class RateLimited(Exception):
    status_code = 429


@agent_task(queue="documents", retry=RetryPolicy([RetryRule("category:rate_limit", Backoff(600))], max_attempts=3))
async def summarise(document: str) -> str:
    match document:
        case "rate-limited.txt":
            raise RateLimited("429 Too Many Requests: come back in 10 minutes")
        case "broken.txt":
            raise ValueError("the document has no pages")
        case "crash.txt" if current_job().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "long.txt" | "cancelled.txt":
            await asyncio.sleep(600)
    return f"{document}: three paragraphs on queues"
