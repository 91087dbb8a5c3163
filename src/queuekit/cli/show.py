"""One job, in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from queuekit.cli.output import COLOURS, clean, console, iso, json_line, moment, span

if TYPE_CHECKING:
    from rich.console import Console

    from queuekit.cli.connect import Connection
    from queuekit.job import Attempt, Progress, Record

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
        "parent": info.parent,
        "root": info.root,
        "children": list(info.children),
        "workflow": info.workflow,
        "after": list(info.after),
        "waits_for": [one for one in record.waits if one not in {"^", "!"}],
        "undoes": record.undoes or None,
        "key": None if record.key is None else record.key.partition(" ")[2],
        "arguments": None if hidden or encoded else {"args": message.get("args"), "kwargs": message.get("kwargs")},
        "inputs": [{"path": path, "job": id, "task": task} for path, id, task in message.get("inputs") or []],
        "timeout": message.get("timeout"),
        "soft_timeout": message.get("soft_timeout"),
        "headers": message.get("headers") or {},
        "progress": None if info.progress is None else _progress(info.progress),
        "steps": _steps(here, record),
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


def _progress(one: Progress) -> dict[str, Any]:
    return {
        "done": one.done,
        "total": one.total,
        "message": one.message,
        "at": iso(one.at),
        "attempt": one.attempt,
    }


def _steps(here: Connection, record: Record) -> list[dict[str, Any]]:
    """In the order in which they ended, or began; a job that has succeeded has none any more."""
    found = here.store.steps(record.id) or {}
    return [
        {"name": name, "finished": one.text is not None, "attempt": one.attempt, "at": iso(one.at)}
        for name, one in sorted(found.items(), key=lambda item: item[1].at)
    ]


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
    if data["workflow"]:
        line("workflow", data["workflow"])
    if data["parent"]:
        line("parent", data["parent"])
    if data["children"]:
        line("children", _several(data["children"]))
    if data["after"]:
        line("after", _several(data["after"]))
    if record.status == "waiting":
        line("waits for", _several(data["waits_for"]) or "its workflow")
    if data["undoes"]:
        line("undoes", data["undoes"])
    if data["key"] is not None:
        line("key", data["key"])
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
    if (said := data["progress"]) is not None:
        of = "" if said["total"] is None else f" of {said['total']:g}"
        line("progress", f"{said['done']:g}{of}{': ' if said['message'] else ''}{said['message']}")
    if data["steps"]:
        line("steps", ", ".join(one["name"] + ("" if one["finished"] else " (begun)") for one in data["steps"]))
    _print_attempts(screen, record, now)


def _several(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


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
