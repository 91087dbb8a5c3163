"""A program before its deploy: see ../new/shop.py."""

from __future__ import annotations

from queuekit import Backoff, RetryPolicy, RetryRule, agent_task, current_job


@agent_task(name="shop.steady")
def steady(number: int) -> list[str | int]:
    return ["steady", number]


@agent_task(name="shop.price")
def price(item: str) -> list[str]:
    return ["old price", item]


@agent_task(name="shop.summarise", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))]))
def summarise(text: str, fails: int = 0) -> list[str]:
    if current_job().attempt <= fails:
        raise ConnectionError("away")
    return ["summary", text]


@agent_task(name="shop.discontinued")
def discontinued() -> list[str]:
    return ["discontinued"]


REQUESTS = [
    lambda number: ("either", steady, (number,), {}, ["steady", number]),
    lambda number: ("old", price, (f"item {number}",), {}, ["old price", f"item {number}"]),
    lambda number: ("either", summarise, (f"text {number}",), {"fails": number % 2}, ["summary", f"text {number}"]),
    lambda number: ("old", discontinued, (), {}, ["discontinued"]),
]
