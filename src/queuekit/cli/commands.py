"""The commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from queuekit.cli.dead import dead
from queuekit.cli.jobs import jobs
from queuekit.cli.options import Commands, as_json, connection_options, moment_of
from queuekit.cli.queues import purge, queues, workers
from queuekit.cli.schedules import schedules


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="queuekit")
def cli() -> None:
    """One definition of an AI agent job, run by Celery, RQ or Dramatiq."""


@cli.command()
@click.argument("modules", nargs=-1, required=True, metavar="MODULE-or-FILE...")
@connection_options
@click.option(
    "--concurrency", type=click.IntRange(1), help="How many jobs at a time. The pool's own default otherwise."
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="How many workers, each a process with all of the above; another is started for one that dies. This process "
    "itself otherwise.",
)
@click.option("--queues", metavar="A,B", help="The queues to serve. All that the tasks name by default.")
@click.option(
    "--pool", metavar="NAME", help="How the engine runs tasks: async, or in its own word: prefork, threads, ..."
)
@click.option("--dev", is_flag=True, help="Bring a server in ./.queuekit, and start again when a file changes.")
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Lines for people, or JSON. Text by default.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics on 127.0.0.1:PORT.")
def worker(modules: tuple[str, ...], dev: bool, log_level: str, processes: int | None, **options: Any) -> None:
    """Run a worker for the tasks that the modules declare.

    A module is named as in an import (package.tasks) or as a file (tasks.py). The current folder is searched first.
    """
    from queuekit.cli import worker as command

    raise SystemExit(command.run(modules, dev=dev, processes=processes, log_level=log_level, options=options))


@cli.command()
@click.argument("target", metavar="MODULE:TASK")
@click.option("--backend", metavar="NAME", help="celery, rq or dramatiq. All that are installed by default.")
@click.option("--pool", metavar="NAME", help="One pool of the engine, in its own word. All by default.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
def compile(target: str, backend: str | None, pool: str | None, as_json: bool) -> None:
    """Show what a task becomes on each engine, field by field: native, emulated, degraded or refused, and why.

    MODULE is named as in an import (package.tasks) or as a file (tasks.py); TASK is a name in it. Connects to nothing.
    Exit code 1: something is refused.
    """
    from queuekit.cli import compile as command

    raise SystemExit(command.run(target, backend=backend, pool=pool, as_json=as_json))


@cli.command()
@click.argument("target", metavar="MODULE:TASK")
@click.option("--args", metavar="JSON", help="The positional arguments: '[\"a\", 1]'.")
@click.option("--kwargs", metavar="JSON", help="The named arguments: '{\"page\": 1}'.")
@click.option("--file", type=click.File("rb"), help='Many jobs, one from each line. "-" is the standard input.')
@click.option("--skip", type=click.IntRange(0), metavar="N", help="With --file: leave out the first N lines.")
@click.option("--id", help="The job's id. With --file: ID_1 is that of the first line, ID_2 of the second.")
@click.option("--queue", metavar="NAME", help="Another queue than the task's.")
@click.option("--priority", type=click.IntRange(0, 9), help="Higher first.")
@click.option("--delay", type=float, metavar="SECONDS", help="Not before so long from now.")
@click.option("--at", metavar="MOMENT", callback=moment_of, help="Not before that moment: 2030-01-31T09:00+01:00.")
@click.option("--expires", type=float, metavar="SECONDS", help="Cancel what has not started so long from now.")
@click.option("--key", metavar="TEXT", help="While a job of the task with this key has not ended, make no other.")
@click.option("-q", "--quiet", is_flag=True, help="Print how many jobs there were, and no ids.")
@as_json
@connection_options
def enqueue(
    target: str,
    args: str | None,
    kwargs: str | None,
    file: Any,
    skip: int | None,
    quiet: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Enqueue a job with arguments given as JSON, or a job for each line of a file, and print their ids.

    MODULE is named as in an import (package.tasks) or as a file (tasks.py); TASK is a name in it. A line is one JSON
    value: an array has positional arguments, an object named ones. An empty line is none. Lines are read, checked and
    recorded 200 at a time: all of these or none.

    Exit code 1: a line is no JSON or does not fit the task. It says which and why, how many are recorded, and the
    options to go on with, which double nothing whatever was recorded. So it does where the store goes away (3). The
    same --id with the same lines doubles nothing either.

    \b
    queuekit enqueue tasks.py:fetch --args '["https://example.org"]'
    queuekit enqueue proj.tasks:summarise --kwargs '{"document": 17}' --queue interactive --delay 60
    jq -c '{document: .id}' documents.json | queuekit enqueue proj.tasks:summarise --file - --id nightly > ids
    """
    from queuekit.cli import enqueue as command

    if file is not None and (args or kwargs or others["key"]):
        raise click.UsageError("--file, or --args, --kwargs and --key: not both")
    if skip is not None and file is None:
        raise click.UsageError("--skip goes with --file")
    if quiet and as_json:
        raise click.UsageError("--quiet or --json, not both")
    connection = {name: others.pop(name) for name in ("backend", "broker_url", "store_url", "namespace")}
    raise SystemExit(
        command.run(
            target,
            args=args,
            kwargs=kwargs,
            file=file,
            skip=skip or 0,
            as_json=as_json,
            quiet=quiet,
            asked=others,
            connection=connection,
        )
    )


@cli.command()
@click.argument("modules", nargs=-1, metavar="[MODULE-or-FILE...]")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "unchecked", "hint"]),
    default="warning",
    show_default=True,
    help="The mildest finding for which the exit code is 1.",
)
@click.option("-q", "--quiet", is_flag=True, help="Leave out what is well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on one line.")
@connection_options
def doctor(modules: tuple[str, ...], fail_on: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Look at what a promise depends on: servers, workers, clocks, versions, an app's own settings. Changes nothing.

    It says of each thing what it found, why that matters, and the line to add or the command to run. With the modules
    that a worker is given it looks at what they bring too: a Celery app or Dramatiq broker that queuekit was installed
    into, and clients of SDKs that ask again by themselves.

    A finding is an "error" (a promise does not hold, or jobs do not run), a "warning" (it is weaker than it should be,
    or soon will be), "unchecked" (it could not be looked at, and what is missing for that) or a "hint".

    Exit code 1: there is an error or a warning; a store or a broker that does not answer is one. 2: misused.

    \b
    queuekit doctor
    queuekit doctor proj.tasks --fail-on error
    queuekit doctor --json | jq -r '.findings[] | select(.severity == "error") | .remedy'
    """
    from queuekit.cli import doctor as command

    raise SystemExit(command.run(modules, fail_on=fail_on, quiet=quiet, as_json=as_json, options=options))


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=1, show_default=True, help="Which calls fail, and the jitter of waits.")
@click.option("--jobs", type=click.IntRange(1, 200), default=12, show_default=True, help="How many documents at most.")
@click.option("--keep", is_flag=True, help="Keep the workers' logs and the server's data.")
@click.option("--engines", default="celery,rq,dramatiq", hidden=True)
def demo(folder: Path | None, seed: int, jobs: int, keep: bool, engines: str) -> None:
    """Run one task on all three engines, against a model that misbehaves, and compare what they do.

    The documents are the text files in FOLDER, or else the descriptions of the packages that are installed here. Takes
    less than a minute, needs no key and no server, and leaves nothing behind. Exit code 0: all three agree.
    """
    from queuekit.cli import demo as command

    raise SystemExit(command.run(folder, seed=seed, jobs=jobs, engines=engines, keep=keep))


for command in (jobs, dead, queues, workers, purge, schedules):
    cli.add_command(command)
