"""An agent whose every step is paid for: one job plans, `number` look into it, one writes the report; five steps each."""

from __future__ import annotations

import json
import os
import time

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job

VARIABLE = "CHAOS_PAID"
STEPS = 5
# Its worker is killed again and again: that is no fault of the job's.
POLICY = RetryPolicy([RetryRule("category:lost", Backoff(0.1, jitter="none"))], max_attempts=200)


def pay(step: int) -> int:
    """What a model's endpoint writes down: which job asks for which of its steps."""
    line = json.dumps([current_job().task, current_job().id, step, time.time()]) + "\n"
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    time.sleep(0.15)
    return step


def work() -> int:
    return sum(current_job().step("pay", pay, step) for step in range(STEPS))


@agent_task(name="agents.look", retry=POLICY)
def look(number: int) -> int:
    return number + work()


@agent_task(name="agents.report", retry=POLICY)
def report(found: list[int]) -> int:
    return sum(found) + work()


@agent_task(name="agents.plan", retry=POLICY)
def plan(number: int) -> str:
    work()
    return current_job().enqueue(look.map(range(number)).then(report)).id
