"""The program after its deploy: a task has another signature, one another name, one is gone, and one is new."""

from __future__ import annotations

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job


@agent_task(name="shop.steady")
def steady(number: int) -> list[str | int]:
    return ["steady", number]


@agent_task(name="shop.price")
def price(item: str, *, currency: str) -> list[str]:
    return ["new price", item, currency]


@agent_task(
    name="shop.digest",
    aliases=["shop.summarise"],
    retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))]),
)
def digest(text: str, fails: int = 0) -> list[str]:
    if current_job().attempt <= fails:
        raise ConnectionError("away")
    return ["summary", text]


@agent_task(name="shop.launched")
def launched() -> list[str]:
    return ["launched"]


REQUESTS = [
    lambda number: ("either", steady, (number,), {}, ["steady", number]),
    lambda number: ("new", price, (f"item {number}",), {"currency": "EUR"}, ["new price", f"item {number}", "EUR"]),
    lambda number: ("new", digest, (f"text {number}",), {"fails": number % 2}, ["summary", f"text {number}"]),
    lambda number: ("new", launched, (), {}, ["launched"]),
]
