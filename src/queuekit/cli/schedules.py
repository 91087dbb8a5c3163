"""`queuekit schedules`: look at what the clock starts, pause it, run it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.options import FAILED, as_json, store_options

if TYPE_CHECKING:
    from queuekit.schedules import Schedule

__all__ = ["schedules"]


@click.group(short_help="Look at schedules, pause them, run them now.")
def schedules() -> None:
    """Look at what the clock starts, pause it, go on, run it now.

    Workers record the schedules that are declared on tasks and in the settings when they start; others are added from
    Python: queuekit.schedules.add().
    """


@schedules.command("list", short_help="List the schedules.")
@as_json
@store_options
def list_(as_json: bool, **options: Any) -> None:
    """List the schedules by their next tick."""
    from queuekit.cli.connect import connect
    from queuekit.cli.output import rows, span
    from queuekit.scheduling import seen

    here = connect(options)
    now = here.store.now()
    found = [seen(row) for row in here.store.schedules()]
    if not found and not as_json:
        click.echo(f"there is no schedule in namespace {here.settings.namespace!r}", err=True)
        return
    columns = {
        "name": "SCHEDULE", "when": "WHEN", "task": "TASK", "queue": "QUEUE", "backend": "BACKEND", "state": "STATE",
        "next_at": "NEXT", "last_at": "LAST",
    }  # fmt: skip
    lines = []
    for one in found:
        left = None if one.next_at is None else one.next_at.timestamp() - now
        ahead = None if left is None else "now" if left <= 0 else f"in {span(left)}"
        last = None if one.last_at is None else f"{span(max(now - one.last_at.timestamp(), 0.0))} ago"
        lines.append({**_data(one), "next_at": ahead, "last_at": last})
    rows(
        columns, lines, as_json=as_json, data=[_data(one) for one in found], wide=("queue", "backend"), whole=("name",)
    )


@schedules.command(short_help="Show one schedule in full.")
@click.argument("name")
@as_json
@store_options
def show(name: str, as_json: bool, **options: Any) -> None:
    """Show one schedule in full. Exit code 1: there is none of that name."""
    from queuekit.cli.connect import connect
    from queuekit.cli.output import json_line
    from queuekit.errors import QueuekitError
    from queuekit.scheduling import seen

    here = connect(options)
    row = next(iter(here.store.schedules(name)), None)
    if row is None:
        raise QueuekitError(f"there is no schedule {name!r} in namespace {here.settings.namespace!r}")
    data = _data(seen(row))
    if as_json:
        json_line(data)
        return
    for key, value in data.items():
        click.echo(f"{key:<9} {'-' if value is None else value}")


@schedules.command(short_help="Let schedules stand still.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@store_options
def pause(names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Let schedules stand still until they are resumed, whichever worker starts meanwhile. Exit code 1: not all are
    there."""
    from queuekit.cli.connect import connect

    store = connect(options).store
    _each(names, "paused", lambda name: store.pause_schedule(name, True), as_json)


@schedules.command(short_help="Let schedules go on.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@store_options
def resume(names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Let schedules go on with their next tick from now: those of the pause are not made good. Exit code 1: not all are
    there."""
    from queuekit.cli.connect import connect
    from queuekit.scheduling import resume as go_on

    store = connect(options).store
    _each(names, "resumed", lambda name: go_on(store, name), as_json)


@schedules.command(short_help="Let schedules go.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@store_options
def remove(names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Let schedules go; the jobs that they made stay. One that is declared comes back when a worker of its task starts.
    Exit code 1: not all were there."""
    from queuekit.cli.connect import connect

    _each(names, "removed", connect(options).store.remove_schedule, as_json)


@schedules.command(short_help="Make a job of a schedule now.")
@click.argument("name")
@as_json
@store_options
def run(name: str, as_json: bool, **options: Any) -> None:
    """Make a job of a schedule now, besides its ticks, and print its id; stewards publish it at their next tick. Exit
    code 1: there is no such schedule, or another job holds the key of its jobs. Where signing_key is set it is needed
    here too."""
    from queuekit.cli.connect import connect
    from queuekit.cli.output import json_line
    from queuekit.events import EventKind, event_of
    from queuekit.scheduling import run_now

    here = connect(options)
    message, id = run_now(here.store, here.settings, name)
    if hooks := here.hooks():
        hooks(event_of(message, EventKind.enqueued, here.store.now()))
    if as_json:
        json_line({"name": name, "job": id})
    else:
        click.echo(id)


def _each(names: tuple[str, ...], done: str, do: Any, as_json: bool) -> None:
    from queuekit.cli.output import error, json_line

    failed = False
    for name in names:
        there = do(name)
        failed = failed or not there
        if as_json:
            json_line({"name": name, done: there})
        elif there:
            click.echo(f"{name} {done}")
        else:
            error(f"there is no schedule {name!r}")
    if failed:
        raise SystemExit(FAILED)


def _data(one: Schedule) -> dict[str, Any]:
    def iso(moment: Any) -> str | None:
        from queuekit.cli.output import iso as written

        return None if moment is None else written(moment.timestamp())

    return {
        "name": one.name,
        "when": None if one.when is None else str(one.when),
        "task": one.task,
        "queue": one.queue,
        "backend": one.backend,
        "missed": one.missed,
        "source": one.source,
        "paused": one.paused,
        "state": "paused" if one.paused else "over" if one.next_at is None else "active",
        "next_at": iso(one.next_at),
        "last_at": iso(one.last_at),
        "last_job": one.last_job,
    }
