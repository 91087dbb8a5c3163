"""A job as it goes on: a bar on a terminal, else a line for each change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.output import bar, clean, console, error, is_terminal, iso, json_line
from queuekit.job import JobStatus
from queuekit.store.following import EVERY, Changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.cli.connect import Connection
    from queuekit.job import JobInfo

__all__ = ["follow_job"]


def follow_job(here: Connection, id: str, *, as_json: bool) -> int:
    """The exit code: 0 where it has succeeded. Raises as Connection.record() for an unknown id."""
    info = None
    for info in _bar(here, id) if is_terminal() and not as_json else _infos(here, id):
        if as_json:
            json_line(_data(info, here.store.now()))
        elif not is_terminal():
            click.echo(
                "\t".join("" if one is None else clean(str(one)) for one in _data(info, here.store.now()).values())
            )
    if info is None or info.status is JobStatus.succeeded:
        return 0
    error(f"job {id} {'was cancelled' if info.status is JobStatus.cancelled else 'failed'}: {info.reason}")
    return 1


def _infos(here: Connection, id: str) -> Iterator[JobInfo]:
    """As it is now, and whenever that changes, until it has ended."""
    changes = Changes(here.store, id, lambda: here.record(id).info())
    while True:
        if (info := changes.look()) is not None:
            yield info
        if changes.over:
            return
        time.sleep(EVERY)


def _data(info: JobInfo, now: float) -> dict[str, Any]:
    said = info.progress
    return {
        "at": iso(now),
        "status": str(info.status),
        "attempt": info.attempts[-1].number if info.attempts else 0,
        "done": None if said is None else said.done,
        "total": None if said is None else said.total,
        "message": None if said is None else said.message.replace("\t", " ").replace("\n", " "),
    }


def _bar(here: Connection, id: str) -> Iterator[JobInfo]:
    with bar(console()) as shown:
        its = shown.add_task("", total=None, status="")
        for info in _infos(here, id):
            said, last = info.progress, info.attempts[-1].number if info.attempts else 0
            shown.update(
                its,
                completed=0 if said is None else said.done,
                total=None if said is None else said.total,
                description="" if said is None else clean(said.message),
                status=f"{info.status}, attempt {last}" if last > 1 else str(info.status),
            )
            yield info
