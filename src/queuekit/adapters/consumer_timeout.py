"""RabbitMQ's consumer_timeout: it closes the channel of a delivery that stays unacknowledged for so long.

queuekit's own jobs are acknowledged when a process takes them up, so that it concerns native tasks beside them alone.
Neither AMQP nor the management API tells what it is; rabbitmqctl does, on the broker's own machine.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from queuekit.adapters.findings import Finding, Severity, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["about_native", "about_ours", "read"]

CHECK: Final = "consumer-timeout"
USUAL: Final = 1800.0  # seconds, of RabbitMQ since 3.8.17
PATIENCE: Final = 30.0  # seconds for rabbitmqctl
NAMED: Final = 5  # tasks
ASK: Final = "rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).' on the broker's machine"
# A tuple of ports, and not a list: Erlang would show that as text.
EXPRESSION: Final = (
    "{application:get_env(rabbit, consumer_timeout), "
    "list_to_tuple([element(6, L) || L <- rabbit_networking:active_listeners(), "
    "lists:member(element(3, L), [amqp, 'amqp/ssl'])])}."
)


def read(url: str) -> float | None:
    """Seconds, or math.inf where it is off; None where it cannot be read from here: the broker is on another machine,
    there is no rabbitmqctl that may ask it, or the node that this one reaches is another broker."""
    parts = urlsplit(url)
    if parts.hostname not in {None, "localhost", "127.0.0.1", "::1"}:
        return None
    command = shutil.which("rabbitmqctl")
    if command is None:
        return None
    said = ""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [command, "-q", "eval", EXPRESSION],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=True,
        ).stdout  # fmt: skip
    found = re.fullmatch(r"\{(?:\{ok,(\d+|\w+)\}|undefined),\{([\d,]*)\}\}", re.sub(r"\s", "", said))
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    if found is None or str(port) not in found[2].split(","):
        return None
    return int(found[1]) / 1000 if found[1] and found[1].isdigit() else math.inf


def about_ours() -> Finding:
    return Finding(
        CHECK,
        Severity.ok,
        "a job is acknowledged when a process takes it up: consumer_timeout cuts none off, however long it runs",
    )


def about_native(url: str, held: Mapping[str, float | None]) -> Iterator[Finding]:
    """`held`: native tasks that are acknowledged once they have run, with their time limits in seconds."""
    if not held:
        return
    timeout = read(url)
    known = timeout is not None
    limit = USUAL if timeout is None else timeout
    is_it = (
        f"consumer_timeout is {limit:g} s"
        if known
        else f"consumer_timeout cannot be read from here ({limit:g} s by default)"
    )
    over = [name for name, seconds in held.items() if seconds is not None and seconds > limit]
    open_ended = [name for name, seconds in held.items() if seconds is None and limit < math.inf]
    remedy = (
        "consumer_timeout = MILLISECONDS in rabbitmq.conf, above the longest time limit; or acknowledge these tasks "
        "early; or move them to @agent_task"
    )
    why = "RabbitMQ closes the channel of one that runs longer and gives its message to another worker: it runs twice"
    if over:
        found = f"{is_it}, below the time limit of the native {some(over, NAMED)}, which are acknowledged late"
        yield Finding(
            CHECK, Severity.error if known else Severity.warning, found, why, remedy if known else f"{ASK}; {remedy}"
        )
    if open_ended:
        found = f"{is_it}, and the native {some(open_ended, NAMED)}, acknowledged late, have no time limit"
        severity = Severity.warning if known else Severity.unchecked
        yield Finding(CHECK, severity, found, why, f"give them a time limit below it; or {remedy}" if known else ASK)
    if not over and not open_ended:
        yield Finding(CHECK, Severity.ok, f"{is_it}, above the time limits of native tasks that are acknowledged late")
