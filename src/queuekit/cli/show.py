"""One job, in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from queuekit.cli.output import COLOURS, clean, console, iso, json_line, moment, span

if TYPE_CHECKING:
    from rich.console import Console

    from queuekit.cli.connect import Connection
    from queuekit.job import Attempt, Record

__all__ = ["show_job"]

PRIVATE = "(private: --reveal shows it)"
ENCODED = "(encoded by a payload codec)"


def show_job(here: Connection, record: Record, *, reveal: bool, as_json: bool) -> None:
    data = _data(here, record, reveal=reveal)
    if as_json:
        json_line(data)
    else:
        _print(data, record, here.store.now())


def _data(here: Connection, record: Record, *, reveal: bool) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(record.message)
    private, encoded = bool(message.get("private")), message.get("payload") is not None
    hidden = private and not reveal
    _, _, level = record.route.split(":")
    info = record.info()
    data: dict[str, Any] = {
        "id": record.id,
        "status": str(record.status),
        "task": info.task,
        "backend": info.backend,
        "queue": info.queue,
        "priority": info.priority,
        "level": int(level),
        "private": private,
        "encoded": encoded,
        "enqueued_at": iso(record.created),
        "due_at": iso(record.due),
        "ended_at": iso(record.finished),
        "reason": record.reason or None,
        "cancel_requested": record.cancel_requested,
        "suspect": record.suspect > 0,
        "arguments": None if hidden or encoded else {"args": message.get("args"), "kwargs": message.get("kwargs")},
        "timeout": message.get("timeout"),
        "soft_timeout": message.get("soft_timeout"),
        "headers": message.get("headers") or {},
        "attempts": [_attempt(one) for one in info.attempts],
    }
    if record.status == "succeeded":
        text = None if hidden else here.store.result(record.id)
        data["result"] = _parsed(text)
        data["result_kept"] = text is not None
    return data


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:  # encoded
        return text


def _attempt(one: Attempt) -> dict[str, Any]:
    return {
        "number": one.number,
        "outcome": one.outcome,
        "started_at": iso(one.started_at),
        "ended_at": iso(one.ended_at),
        "worker": one.worker,
        "error_type": one.error_type,
        "error_message": one.error_message,
        "category": None if one.category is None else str(one.category),
        "reason": one.reason,
        "delay": one.delay,
        "company": one.company,
        "traceback": one.traceback,
    }


# ---- for people ----------------------------------------------------------------------------------------------------


def _print(data: dict[str, Any], record: Record, now: float) -> None:
    from rich.text import Text

    screen = console()

    def line(name: str, value: Any, style: str = "") -> None:
        text = Text(f"{name:<11} ", style="bold")
        screen.print(text.append(clean(str(value)), style=f"not bold {style}".strip()), soft_wrap=True)

    line("job", data["id"])
    line("task", data["task"])
    line("status", data["status"], COLOURS.get(data["status"], ""))
    if data["reason"]:
        line("reason", data["reason"])
    if data["cancel_requested"] is not None and data["status"] == "running":
        line("cancel", f"asked for: {data['cancel_requested'] or 'no reason given'}")
    if data["suspect"]:
        line("suspect", "its last attempt was lost: it runs alone until one ends by itself")
    line("queue", f"{data['queue']} on {data['backend']}, priority {data['priority']}")
    line("enqueued", moment(record.created, now))
    if record.due is not None:
        line("due", moment(record.due, now))
    if record.finished is not None:
        line("ended", moment(record.finished, now))
    limits = [f"{name} {data[name]:g} s" for name in ("timeout", "soft_timeout") if data[name]]
    if limits:
        line("limits", ", ".join(limits))
    line("arguments", _arguments(data))
    if "result" in data:
        hidden = data["private"] and not data["result_kept"]
        kept = json.dumps(data["result"], ensure_ascii=False) if data["result_kept"] else "(not kept, or expired)"
        line("result", PRIVATE if hidden else kept)
    _print_attempts(screen, record, now)


def _arguments(data: dict[str, Any]) -> str:
    if data["encoded"]:
        return ENCODED
    if data["arguments"] is None:
        return PRIVATE
    args, kwargs = data["arguments"]["args"] or [], data["arguments"]["kwargs"] or {}
    shown = [json.dumps(value, ensure_ascii=False) for value in args]
    shown += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in kwargs.items()]
    return ", ".join(shown) or "none"


def _print_attempts(screen: Console, record: Record, now: float) -> None:
    from rich.text import Text

    for one in record.attempts():
        screen.print()
        head = Text(f"attempt {one.number}  ", style="bold").append(one.outcome, style=COLOURS.get(one.outcome, ""))
        if one.category is not None:
            head.append(f"  {one.category}", style="not bold")
        screen.print(head, soft_wrap=True)
        took = "" if one.ended_at is None else f", for {_took((one.ended_at - one.started_at).total_seconds())}"
        lines = [f"started {moment(one.started_at, now)}{took}", f"by {one.worker}"]
        if one.error_type:
            lines.append(f"{one.error_type}: {one.error_message or ''}".rstrip())
        if one.company and one.outcome == "lost":
            lines.append(f"lost together with {one.company} {'other' if one.company == 1 else 'others'}")
        if one.reason and one.reason not in (one.error_message or ""):
            lines.append(one.reason)
        if one.delay is not None:
            lines.append(f"the next one {span(one.delay)} later" if one.delay else "the next one at once")
        for text in lines:
            screen.print(Text("  " + clean(text).replace("\n", "\n  ")), soft_wrap=True)
        if one.traceback:
            screen.print(Text("  " + clean(one.traceback).rstrip().replace("\n", "\n  "), style="dim"), soft_wrap=True)


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else span(seconds)
