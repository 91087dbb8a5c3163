"""`queuekit dead`: the jobs that failed for good, and the messages that nobody may run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.jobs import connection, job_filters, query, show_list
from queuekit.cli.options import MISUSED, as_json, store_options

if TYPE_CHECKING:
    from queuekit.cli.connect import Connection
    from queuekit.store import Quarantined

__all__ = ["dead"]


@click.group(short_help="Look at dead letters, and bring them back.")
def dead() -> None:
    """Look at dead letters, and bring them back.

    A dead letter is a job that failed for good. It is kept with its arguments and every attempt, for as long as the
    setting dead_letter_ttl says.

    \b
    queuekit dead list
    queuekit dead retry 0f3c1b2a
    queuekit dead retry --all --task tasks.summarise --backend rq
    """


@dead.command("list")
@click.option("--quarantine", is_flag=True, help="The messages in quarantine instead: malformed, forged, of no record.")
@job_filters
@as_json
@store_options
def list_dead(quarantine: bool, as_json: bool, limit: int, **options: Any) -> None:
    """List dead letters, those that failed last first.

    \b
    queuekit dead list --task tasks.summarise
    queuekit dead list --json | jq -r 'select(.reason | contains("quota")) | .id' | xargs queuekit dead retry
    queuekit dead list --quarantine
    """
    if not quarantine:
        show_list(query(["failed"], **options), limit, as_json=as_json, options=options)
        return
    if any(options[name] for name in ("task", "queue", "backend", "oldest")):
        raise click.UsageError("--quarantine goes with --limit and --json only: nobody knows whose these messages are")
    _list_quarantine(limit, as_json=as_json, options=options)


def _list_quarantine(limit: int, *, as_json: bool, options: Any) -> None:
    from queuekit.cli.connect import connect
    from queuekit.cli.output import ago, is_terminal, rows

    here = connect(connection(options))
    found, skip = [], 0
    while limit > skip and (some := here.store.quarantined(min(limit - skip, 100), skip)):
        found += some
        skip += len(some)
    now = here.store.now()
    if not found and not as_json and is_terminal():
        click.echo("the quarantine is empty")
        return
    rows(
        {"when": "WHEN", "bytes": "BYTES", "source": "FROM", "reason": "REASON", "raw": "MESSAGE"},
        [{**_put_aside(one), "when": ago(one.at, now), "raw": one.raw[:500]} for one in found],
        as_json=as_json,
        data=map(_put_aside, found),
        last="raw",
    )


def _put_aside(one: Quarantined) -> dict[str, Any]:
    from queuekit.cli.output import iso

    size = len(one.raw.encode("utf-8", "surrogatepass"))
    return {"when": iso(one.at), "bytes": size, "source": one.source, "reason": one.reason, "raw": one.raw}


@dead.command("show")
@click.argument("id")
@click.option("--reveal", is_flag=True, help="Arguments also of a job whose task is private.")
@as_json
@store_options
def show(id: str, reveal: bool, as_json: bool, **options: Any) -> None:
    """Show a dead letter: `queuekit jobs show`, for a job that has failed. Exit code 1: it is none."""
    from queuekit.cli.connect import connect
    from queuekit.cli.show import show_job
    from queuekit.errors import QueuekitError

    here = connect(options)
    record = here.record(id)
    if record.status != "failed":
        raise QueuekitError(f"job {id} is {record.status}, and no dead letter: see `queuekit jobs show {id}`")
    show_job(here, record, reveal=reveal, as_json=as_json)


@dead.command("retry")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "all_of_them", is_flag=True, help="All dead letters, or with --task and --queue all of those.")
@click.option("--task", metavar="NAME", help="With --all: only those of this task.")
@click.option("--queue", metavar="NAME", help="With --all: only those on this queue.")
@click.option("--backend", metavar="NAME", help="The engine that is to run them from now on. As before by default.")
@click.option("--anew", is_flag=True, help="With none of their steps done. So it is with other arguments.")
@click.option("--edit", is_flag=True, help="Open $EDITOR on the arguments of the one job.")
@click.option(
    "--arguments",
    type=click.File(encoding="utf-8"),
    help='Take the arguments of the one job from a file: {"args": [], "kwargs": {}}. "-" is the standard input.',
)
@click.option("--reveal", is_flag=True, help="With --edit: also where the task is private.")
@click.option("-y", "--yes", is_flag=True, help="With --all: do not ask.")
@as_json
@store_options
def retry(
    ids: tuple[str, ...],
    all_of_them: bool,
    task: str | None,
    queue: str | None,
    backend: str | None,
    anew: bool,
    edit: bool,
    arguments: Any,
    reveal: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Queue dead letters again, as they were or otherwise: on another engine, with other arguments.

    Their attempts are numbered on, and their retries are counted anew; they go on after the steps that they have
    finished. They are published by the next tick of a worker of that engine, and wait where there is none.

    Arguments that were edited are checked against the task where its module can be imported from the current folder.
    What was written is not lost where it is refused.

    Exit code 1: one of them is unknown, has not ended, or has succeeded.

    \b
    queuekit dead retry 0f3c1b2a 9d2e44c1
    queuekit dead retry 0f3c1b2a --backend dramatiq
    queuekit dead retry 0f3c1b2a --edit
    queuekit dead retry --all --task tasks.summarise --yes
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.revive import revive_all

    if all_of_them == bool(ids):
        raise click.UsageError("give IDs, or --all")
    if (task or queue) and not all_of_them:
        raise click.UsageError("--task and --queue go with --all")
    if edit and arguments:
        raise click.UsageError("--edit or --arguments, not both")
    if (edit or arguments) and len(ids) != 1:
        raise click.UsageError("--edit and --arguments are for one ID")
    here = connect(options)
    chosen = list(ids)
    if all_of_them:
        chosen = [one.id for one in here.jobs(query(["failed"], task=task, queue=queue))]
        if not chosen:
            click.echo("there is no such dead letter", err=True)
            return
        where = f" on {backend}" if backend else ""
        confirm(f"Queue {len(chosen)} dead letter{'s' if len(chosen) > 1 else ''} again{where}?", yes)
    changed = None
    if edit or arguments:
        changed = _changed(here, chosen[0], None if edit else arguments.read(), reveal=reveal)
        if edit and changed is None:
            click.echo("the arguments are as they were", err=True)
    raise SystemExit(revive_all(here, chosen, backend=backend, arguments=changed, anew=anew, as_json=as_json))


def _changed(here: Connection, id: str, text: str | None, *, reveal: bool) -> Any:
    from queuekit.cli import revive
    from queuekit.errors import QueuekitError
    from queuekit.message import InvalidMessage, Message

    record = here.record(id)
    if record.status not in {"failed", "cancelled"}:
        raise QueuekitError(f"job {id} is {record.status}: only a job that failed or was cancelled can be revived")
    try:
        message = Message.open(record.message)
    except InvalidMessage as problem:
        raise QueuekitError(f"job {id}: {problem}") from None
    if message.payload is not None:
        raise QueuekitError(f"job {id}: its arguments are encoded by a payload codec, and cannot be edited by hand")
    if text is not None:
        return revive.read_arguments(text, message, here.settings.payload_limit)
    if message.private and not reveal:
        raise click.UsageError(f"task {message.task} is private: --edit shows its arguments with --reveal only")
    return revive.edit(message, here.settings.payload_limit)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless --yes was given. Where nobody can answer it is refused."""
    if yes:
        return
    if not sys.stdin.isatty():
        click.echo(
            f"queuekit: {question} Give --yes: the standard input is no terminal, so nobody can answer", err=True
        )
        raise SystemExit(MISUSED)
    if not click.confirm(question, err=True):
        click.echo("nothing was changed", err=True)
        raise SystemExit(1)
