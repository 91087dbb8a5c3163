"""Each kind of failure waits in its own way: the schedule is the same on every engine.

QUEUEKIT_BACKEND=memory python smart_retry.py             here the waits take no time: the clock jumps

QUEUEKIT_BACKEND=rq queuekit worker smart_retry.py --dev  here they do; set SCALE=0.05 for both, and they are short
QUEUEKIT_BACKEND=rq python smart_retry.py
"""

from __future__ import annotations

import os

from queuekit import Backoff, JobFailed, RetryPolicy, RetryRule, agent_task, current_job

SCALE = float(os.environ.get("SCALE", "1"))  # 0.05: every wait twenty times as short, for a demonstration
SMART = RetryPolicy(
    [
        RetryRule("category:rate_limit", Backoff(30, factor=2)),  # 30 s, 60 s, 120 s, ... or as Retry-After says
        RetryRule("category:timeout", Backoff(10, factor=2)),
        RetryRule("category:server", Backoff.fixed(5)),
        RetryRule("category:auth", action="fail"),  # a bad key gets no better
    ],
    max_attempts=6,  # the first run and five retries
).scaled(SCALE)


class RateLimitError(Exception):
    """As SDKs have it: the policy goes by the status."""

    status_code = 429


class AuthenticationError(Exception):
    status_code = 401


@agent_task(retry=SMART)
def call_model(prompt: str, failures: list[str]) -> str:
    """Fails as told, one failure an attempt."""
    attempt = current_job().attempt
    if attempt <= len(failures):
        kind = failures[attempt - 1]
        if kind == "rate_limit":
            raise RateLimitError("slow down")
        if kind == "auth":
            raise AuthenticationError("who are you?")
        raise TimeoutError("nobody answered")
    return f"answer to {prompt!r} in attempt {attempt}"


def main() -> None:
    for failures in (["rate_limit", "rate_limit", "timeout"], ["auth"]):
        job = call_model.enqueue("hello", failures)
        try:
            print(job.result(timeout=600))
        except JobFailed as error:
            print(error)
        for one in job.info().attempts:
            print(f"  attempt {one.number}: {one.outcome:9} {one.reason or ''}")


if __name__ == "__main__":
    main()
