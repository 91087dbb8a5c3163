"""The tasks of the recorded jobs. Their names and signatures are frozen: what is under recorded/ asks for them."""

from __future__ import annotations

import time

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job

POLICY = RetryPolicy([RetryRule(ConnectionError, Backoff(5, jitter="none"))], max_attempts=3)


class Shifted:
    """A payload codec, for recordings of message version 2 and later. No encryption at all."""

    def encode(self, data: bytes, context: object) -> bytes:
        return bytes((one + 1) % 256 for one in data)

    def decode(self, data: bytes, context: object) -> bytes:
        return bytes((one - 1) % 256 for one in data)


@agent_task(name="replay.add")
def add(a: int, b: int = 1) -> int:
    return a + b


@agent_task(name="replay.describe")
def describe(text: str, *, tags: list[str]) -> dict[str, list[str]]:
    return {text: tags}


@agent_task(name="replay.confidential", private=True)
def confidential(secret: str) -> str:
    return secret[::-1]


@agent_task(name="replay.broken")
def broken() -> None:
    raise ValueError("as recorded")


@agent_task(name="replay.second_time", retry=POLICY, timeout=60)
async def second_time() -> int:
    """Fails in its first attempt."""
    if current_job().attempt == 1:
        raise ConnectionError("away")
    return current_job().attempt


@agent_task(name="replay.interrupted")
def interrupted() -> int:
    """Is killed in its first attempt."""
    if current_job().attempt == 1:
        time.sleep(600)
    return current_job().attempt


@agent_task(name="replay.ignored", keep_result=False)
def ignored() -> str:
    return "nobody reads this"
