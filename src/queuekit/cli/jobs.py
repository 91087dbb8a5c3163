"""`queuekit jobs`: look at jobs, cancel them, bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.options import FAILED, as_json, store_options
from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from queuekit.cli.connect import Connection
    from queuekit.store import Listed

__all__ = ["COLUMNS", "described", "job_filters", "jobs", "query"]

COLUMNS = {
    "id": "ID", "status": "STATUS", "task": "TASK", "backend": "BACKEND", "queue": "QUEUE", "attempts": "TRIES",
    "when": "WHEN", "reason": "REASON",
}  # fmt: skip
STATUSES = [str(status) for status in JobStatus]


def job_filters(command: Any) -> Any:
    """--task, --queue, --backend, --oldest, --limit."""
    for option in reversed(
        (
            click.option("--task", metavar="NAME", help="Only jobs of this task."),
            click.option("--queue", metavar="NAME", help="Only jobs on this queue."),
            click.option("--backend", metavar="NAME", help="Only jobs of this engine."),
            click.option("--oldest", is_flag=True, help="The oldest first, instead of the newest."),
            click.option(
                "-n",
                "--limit",
                metavar="N",
                type=click.IntRange(1),
                default=50,
                show_default=True,
                help="At most so many.",
            ),
        )
    ):
        command = option(command)
    return command


def query(statuses: Iterable[str] = (), **asked: Any) -> Any:
    """The Query of these options."""
    from queuekit.store import Query

    return Query(
        frozenset(JobStatus(status) for status in statuses),
        task=asked.get("task"),
        queue=asked.get("queue"),
        backend=asked.get("backend"),
        newest_first=not asked.get("oldest"),
    )


def described(one: Listed, now: float | None = None) -> Mapping[str, Any]:
    """A listed job, for programs; with `now` for people."""
    from queuekit.cli.output import ago, iso

    backend, queue, level = one.route.split(":")
    return {
        "id": one.id,
        "status": str(one.status),
        "task": one.task or None,
        "backend": backend,
        "queue": queue,
        "level": int(level),
        "attempts": one.attempt,
        "when": iso(one.moment) if now is None else ago(one.moment, now),
        "enqueued_at": iso(one.created),
        "ready_at": iso(one.ready),
        "started_at": iso(one.started),
        "ended_at": iso(one.finished),
        "worker": one.worker or None,
        "reason": one.reason or None,
    }


@click.group(short_help="Look at jobs, cancel them, bring them back.")
def jobs() -> None:
    """Look at jobs, cancel them, bring them back.

    These commands need the store alone: --store-url or --broker-url, or what the environment and the settings file say.

    \b
    queuekit jobs list --status running
    queuekit jobs show 0f3c1b2a
    queuekit jobs cancel 0f3c1b2a --reason "asked twice"
    """


@jobs.command("list")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these. May be given repeatedly."
)
@job_filters
@as_json
@store_options
def list_jobs(statuses: tuple[str, ...], as_json: bool, limit: int, **options: Any) -> None:
    """List jobs, the newest first: by when they were enqueued or, once they have ended, by when they did.

    Ended jobs are listed for as long as the settings retention and dead_letter_ttl say. In a pipe the columns are
    separated by tabs, and have no heading: id, status, task, backend, queue, attempts, moment, reason.

    \b
    queuekit jobs list
    queuekit jobs list --status queued --status retrying --queue mail --oldest
    queuekit jobs list --task tasks.summarise --status failed --json | jq -r .id
    """
    show_list(query(statuses, **options), limit, as_json=as_json, options=options)


def show_list(asked: Any, limit: int, *, as_json: bool, options: Mapping[str, Any]) -> None:
    from queuekit.cli.connect import connect
    from queuekit.cli.output import is_terminal, rows

    here = connect(connection(options))
    if as_json or not is_terminal():  # as they come
        rows(COLUMNS, (), as_json=as_json, data=map(described, here.jobs(asked, limit)))
        return
    now = here.store.now()
    found = [described(one, now) for one in here.jobs(asked, limit)]
    if not found:
        click.echo("no such job" if asked != query() else f"no jobs in namespace {here.settings.namespace!r}")
        return
    known = ("status",) if len(asked.statuses) == 1 else ()
    columns = {key: head for key, head in COLUMNS.items() if key not in known}
    rows(columns, found, as_json=False, wide=("backend", "queue", "attempts"), last="reason")
    if len(found) == limit:
        click.echo(f"the first {limit}; --limit for more", err=True)


def connection(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that say where the store is."""
    return {name: options.get(name) for name in ("broker_url", "store_url", "namespace")}


@jobs.command("show")
@click.argument("id")
@click.option("--reveal", is_flag=True, help="Arguments and result also of a job whose task is private.")
@click.option("--follow", is_flag=True, help="How far it is, until it has ended.")
@as_json
@store_options
def show(id: str, reveal: bool, follow: bool, as_json: bool, **options: Any) -> None:
    """Show a job: what was asked, where it stands, the steps that it has finished, and every attempt with its error.

    Arguments and result of a task that was declared private are shown with --reveal only. They stand in the record in
    the clear unless a payload codec encodes them: whoever reaches the store can read them.

    With --follow: a bar of its progress on a terminal; in a pipe a line for each change: moment, status, attempt, done,
    total, message. Exit code 1: it failed or was cancelled.
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.show import show_job

    here = connect(options)
    if follow:
        from queuekit.cli.follow import follow_job

        raise SystemExit(follow_job(here, id, as_json=as_json))
    show_job(here, here.record(id), reveal=reveal, as_json=as_json)


@jobs.command("tree")
@click.argument("id")
@click.option("--mermaid", is_flag=True, help="As a Mermaid graph, for documents and issues.")
@as_json
@store_options
def tree(id: str, mermaid: bool, as_json: bool, **options: Any) -> None:
    """Show the tree that a job, or a workflow, is in: what has started it, and all that this has started. The steps of
    a workflow say which others they come after.

    \b
    queuekit jobs tree 0f3c1b2a
    queuekit jobs tree 0f3c1b2a --mermaid > graph.mmd
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.tree import show_tree

    show_tree(connect(options), id, as_mermaid=mermaid, as_json=as_json)


@jobs.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--reason", default="cancelled by hand", show_default=True, help="Kept in the record.")
@click.option("--whole", is_flag=True, help="The workflows that they are steps of, in all. Takes those ids too.")
@as_json
@store_options
def cancel(ids: tuple[str, ...], reason: str, whole: bool, as_json: bool, **options: Any) -> None:
    """Cancel jobs, and the jobs that these have started. One that has not started never starts; a running one is asked
    to end, and is not retried.

    Exit code 1: one of them is unknown, or had ended.
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.output import error, json_line
    from queuekit.events import tell_cancelled

    here = connect(options)
    said = {
        "cancelled": "cancelled",
        "requested": "runs, and was asked to end",
        "ended": "has ended already",
        "missing": f"there is no such job in namespace {here.settings.namespace!r}",
    }
    failed, hooks = False, here.hooks()
    for id in dict.fromkeys(ids):
        answer = _cancel_whole(here, id, reason) if whole else here.store.cancel(id, reason)
        if answer == "cancelled":
            tell_cancelled(hooks, here.store, [id])
        failed = failed or answer in {"ended", "missing"}
        if as_json:
            json_line({"id": id, "outcome": answer})
        elif answer in {"ended", "missing"}:
            error(f"{id}: {said[answer]}")
        else:
            click.echo(f"{id}: {said[answer]}")
    if failed:
        raise SystemExit(FAILED)


def _cancel_whole(here: Connection, id: str, reason: str) -> str:
    """Of a job that is no step it is the job alone."""
    record = here.store.get(id)
    if record is not None and not record.flow:
        return here.store.cancel(id, reason)
    return here.store.cancel_flow(id if record is None else record.flow, reason)


@jobs.command("retry")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--backend", metavar="NAME", help="The engine that is to run them. As before by default.")
@click.option("--anew", is_flag=True, help="With none of their steps done.")
@as_json
@store_options
def retry(ids: tuple[str, ...], backend: str | None, anew: bool, as_json: bool, **options: Any) -> None:
    """Queue failed or cancelled jobs again. Their attempts are numbered on, and their retries are counted anew; they go
    on after the steps that they have finished.

    They are published by the next tick of a worker of that engine. `queuekit dead retry` does the same, and can change
    the arguments.

    Exit code 1: one of them is unknown, has not ended, or has succeeded.
    """
    from queuekit.cli.connect import connect
    from queuekit.cli.revive import revive_all

    raise SystemExit(revive_all(connect(options), ids, backend=backend, anew=anew, as_json=as_json))
