"""The tasks of a chaos run on queuekit: short, paid for, and some of them fail once."""

from __future__ import annotations

import asyncio
import time

from ledger import execution

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job

POLICY = RetryPolicy([RetryRule("category:connection", Backoff(0.3, jitter="none"))], max_attempts=8)


def _meet(failures: int) -> None:
    if current_job().attempt <= failures:
        raise ConnectionResetError("the service hung up")


@agent_task(retry=POLICY)
def work(seconds: float, failures: int) -> str:
    with execution(current_job().id):
        time.sleep(seconds)
        _meet(failures)
        return "done"


@agent_task(retry=POLICY)
async def work_async(seconds: float, failures: int) -> str:
    with execution(current_job().id):
        await asyncio.sleep(seconds)
        _meet(failures)
        return "done"
