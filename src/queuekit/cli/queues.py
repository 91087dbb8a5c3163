"""`queuekit queues`, `workers` and `purge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.options import as_json, store_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuekit.cli.connect import Connection
    from queuekit.events import Hooks
    from queuekit.store import Consumer, RouteCount

__all__ = ["purge", "queues", "workers"]

BATCH = 100  # jobs of one atomic step


@click.command(short_help="Show what waits and runs on each queue.")
@click.option("--queue", metavar="NAME", help="Only this one.")
@as_json
@store_options
def queues(queue: str | None, as_json: bool, **options: Any) -> None:
    """Show what waits and runs on each queue and priority level, and how many workers serve it.

    WAITING could run now; PARKED has a time that has not come (scheduled, or between two attempts); OLDEST is how long
    the first in line waits; IN BROKER is how many messages the broker holds, which is more than WAITING where some are
    left of jobs that have ended. It is asked where broker_url is set and the engine is installed here.
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.output import iso, rows, span

    here = connect(options)
    counts = [one for one in here.store.counts() if queue in {None, one.route.split(":")[1]}]
    counts.sort(key=lambda one: (one.route.split(":")[1], -int(one.route.split(":")[2]), one.route))
    now = here.store.now()
    alive = [one for one in here.store.consumers() if one.until > now]
    depths = _depths(here, [one.route for one in counts])
    data, lines = [], []
    for one in counts:
        engine, name, level = one.route.split(":")
        same = {
            "queue": name,
            "level": int(level),
            "backend": engine,
            "waiting": one.waiting,
            "parked": one.parked,
            "running": one.running,
            "in_broker": depths.get(one.route),
            "workers": sum(_serves(worker, engine, name) for worker in alive),
        }
        data.append({**same, "oldest": iso(one.oldest)})
        lines.append({**same, "oldest": None if one.oldest is None else span(now - one.oldest)})
    columns = {
        "queue": "QUEUE", "level": "LEVEL", "backend": "BACKEND", "waiting": "WAITING", "parked": "PARKED",
        "running": "RUNNING", "in_broker": "IN BROKER", "oldest": "OLDEST", "workers": "WORKERS",
    }  # fmt: skip
    if not counts and not as_json:
        click.echo(f"no job was ever recorded in namespace {here.settings.namespace!r}", err=True)
        return
    rows(columns, lines, as_json=as_json, data=data, whole=[key for key in columns if key != "queue"])


def _serves(worker: Consumer, backend: str, queue: str) -> bool:
    return worker.about.get("backend") == backend and queue in worker.about.get("queues", ())


def _depths(here: Connection, routes: Sequence[str]) -> dict[str, int | None]:
    """What the brokers hold. Where one cannot be asked it says so, once."""
    from queuekit.adapters import load_adapter
    from queuekit.cli.output import error
    from queuekit.errors import ConfigError

    if here.settings.broker_url is None:
        return {}
    found: dict[str, int | None] = {}
    for backend in dict.fromkeys(route.split(":")[0] for route in routes):
        try:
            adapter = load_adapter(backend)(here.settings.replace("queuekit queues", backend=backend))
            try:
                for route in routes:
                    if route.startswith(f"{backend}:"):
                        found[route] = adapter.depth(route)
            finally:
                adapter.close()
        except (ConfigError, ConnectionError) as problem:
            error(f"the broker of {backend} cannot be asked: {problem}")
    return found


@click.command(short_help="Show the workers that are alive.")
@as_json
@store_options
def workers(as_json: bool, **options: Any) -> None:
    """Show the workers that are alive: what they serve, since when, and what they run."""
    from queuekit.cli.connect import connect
    from queuekit.cli.output import iso, rows, span

    here = connect(options)
    now = here.store.now()
    every = here.store.consumers()
    columns = {
        "name": "WORKER", "backend": "BACKEND", "queues": "QUEUES", "pool": "POOL", "for": "ALIVE FOR",
        "running": "RUNNING", "jobs": "JOBS",
    }  # fmt: skip
    data = [
        {
            "name": one.name,
            "backend": one.about.get("backend"),
            "queues": one.about.get("queues", []),
            "pool": one.about.get("pool"),
            "concurrency": one.about.get("concurrency"),
            "for": None if one.since is None else round(now - one.since, 3),
            "since": iso(one.since),
            "lease_until": iso(one.until),
            "alive": one.until > now,
            "running": len(one.jobs),
            "jobs": list(one.jobs),
        }
        for one in every
    ]
    if not every and not as_json:
        click.echo("no worker is alive", err=True)
        return
    lines = [
        {**row, "for": "gone" if not row["alive"] else None if row["for"] is None else span(row["for"])} for row in data
    ]
    rows(columns, lines, as_json=as_json, data=data, wide=("pool",), whole=("name", "running"), last="jobs")


@click.command(short_help="Cancel the jobs that wait on a queue.")
@click.argument("queue")
@click.option("--backend", metavar="NAME", help="Only what waits on this engine.")
@click.option("--reason", default="the queue was purged", show_default=True, help="Kept in the records.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@as_json
@store_options
def purge(queue: str, backend: str | None, reason: str, yes: bool, as_json: bool, **options: Any) -> None:
    """Cancel the jobs that wait on a queue: queued, scheduled, and between two attempts. Running ones are left alone.

    Whoever waits for one is told that it was cancelled, and `queuekit jobs retry` brings it back. As many are cancelled
    as the question names, those first in line first: what is enqueued meanwhile stays. The messages in the broker stay
    too, and do nothing when a worker hears of them.

    Exit code 1: no job was ever recorded for the queue, or the answer was no. 2: nobody could be asked.
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.dead import confirm
    from queuekit.cli.output import json_line
    from queuekit.errors import QueuekitError

    here = connect(options)
    every = here.store.counts()
    routes = [one for one in every if one.route.split(":")[1] == queue and backend in {None, one.route.split(":")[0]}]
    if not routes:
        known = ", ".join(dict.fromkeys(one.route.split(":")[1] for one in every)) or "none"
        raise QueuekitError(f"no job was ever recorded on queue {queue!r}; the queues are: {known}")
    count = sum(one.waiting + one.parked for one in routes)
    if count:
        confirm(_question(queue, routes), yes)
    hooks = here.hooks()
    done = sum(_purge(here, hooks, one, reason) for one in routes)
    if as_json:
        json_line({"queue": queue, "cancelled": done})
    else:
        click.echo(f"{done} job{'' if done == 1 else 's'} cancelled" if count else f"nothing waits on queue {queue!r}")


def _question(queue: str, routes: Sequence[RouteCount]) -> str:
    waiting, parked = sum(one.waiting for one in routes), sum(one.parked for one in routes)
    engines = ", ".join(dict.fromkeys(one.route.split(":")[0] for one in routes if one.waiting + one.parked))
    parts = [f"{waiting} that could run now"] if waiting else []
    parts += [f"{parked} scheduled or between two attempts"] if parked else []
    total = waiting + parked
    return f"Cancel {total} job{'s' if total > 1 else ''} on queue {queue!r} of {engines} ({', '.join(parts)})?"


def _purge(here: Connection, hooks: Hooks, route: RouteCount, reason: str) -> int:
    from queuekit.events import tell_cancelled

    left, done = route.waiting + route.parked, 0
    while left > 0:
        n = min(left, BATCH)
        gone = here.store.purge(route.route, n, reason)
        tell_cancelled(hooks, here.store, gone)
        done += len(gone)
        left -= n
    return done
