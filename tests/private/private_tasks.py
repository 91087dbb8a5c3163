"""Tasks whose arguments, results and errors carry a marker: where it is found, a prompt would have been."""

from __future__ import annotations

import logging
import os
import time

from queuekit import Backoff, JobEvent, RetryPolicy, RetryRule, SoftTimeout, agent_task, current_job

MARKER = "Zq7pRoMpT"
SOON = RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(0.3)), RetryRule("category:time_limit")], max_attempts=2)


class Refused(Exception):
    """As an SDK raises it: the text quotes the prompt, and so does what caused it."""


def _refuse(prompt: str) -> None:
    try:
        raise ValueError(f"bad prompt {prompt}")
    except ValueError as error:
        raise Refused(f"the service refused {prompt}") from error


@agent_task(name="private.answer", private=True)
def answer(prompt: str, *, system: str = "") -> str:
    return f"answer to {prompt}{system}"


@agent_task(name="private.answer_async", private=True)
async def answer_async(prompt: str) -> list[str]:
    return [prompt, prompt]


@agent_task(name="private.fail", private=True)
def fail(prompt: str) -> None:
    _refuse(prompt)


@agent_task(name="private.fail_async", private=True)
async def fail_async(prompt: str) -> None:
    _refuse(prompt)


@agent_task(name="private.retried", private=True, retry=SOON)
def retried(prompt: str) -> str:
    if current_job().attempt == 1:
        raise ConnectionError(f"away with {prompt}")
    return prompt


@agent_task(name="private.unfit", private=True)
def unfit(prompt: str) -> int:
    return prompt  # type: ignore[return-value]  # a result that does not fit is quoted in the PayloadError


@agent_task(name="private.slow", private=True, soft_timeout=0.3, retry=SOON)
async def slow(prompt: str) -> str:
    import asyncio

    try:
        await asyncio.sleep(30)
    except SoftTimeout:
        raise TimeoutError(f"too late for {prompt}") from None
    return prompt


@agent_task(name="private.killed", private=True)
def killed(prompt: str) -> str:
    if current_job().attempt == 1:
        os._exit(9)
    return prompt


@agent_task(name="private.cancelled", private=True)
async def cancelled(prompt: str) -> str:
    import asyncio

    await asyncio.sleep(60)
    return prompt


@agent_task(name="private.exits", private=True)
def exits(prompt: str) -> None:
    raise SystemExit(f"leaving with {prompt}")


@agent_task(name="private.group", private=True)
def group(prompt: str) -> None:
    raise ExceptionGroup(f"several with {prompt}", [ValueError(prompt), KeyError(prompt)])


@agent_task(name="private.unprintable", private=True)
def unprintable(prompt: str) -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError(f"no text for {prompt}")

    raise Bad(prompt)


@agent_task(name="private.open")
def in_the_open(prompt: str) -> str:
    """Not private: what a codec alone has to hide."""
    time.sleep(0)
    return f"answer to {prompt}"


class Recorder:
    """Every event goes into the log, with all its fields: the test reads it there."""

    def __call__(self, event: JobEvent) -> None:
        logging.getLogger("queuekit.test").warning("event %r", event.to_dict())


class Reversing:
    """A codec that the scan cannot see through, and no encryption at all."""

    digest_key = b"a key for the digest"

    def encode(self, data: bytes, context: object) -> bytes:
        return bytes(255 - one for one in data)

    decode = encode
