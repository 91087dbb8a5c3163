"""The commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from queuekit.cli.dead import dead
from queuekit.cli.jobs import jobs
from queuekit.cli.options import Commands, connection_options
from queuekit.cli.queues import purge, queues, workers


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
@click.option("--queues", metavar="A,B", help="The queues to serve. All that the tasks name by default.")
@click.option("--pool", metavar="NAME", help="How the engine runs tasks, in its own word: prefork, threads, ...")
@click.option("--dev", is_flag=True, help="Bring a server in ./.queuekit, and start again when a file changes.")
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Lines for people, or JSON. Text by default.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics on 127.0.0.1:PORT.")
def worker(modules: tuple[str, ...], dev: bool, log_level: str, **options: Any) -> None:
    """Run a worker for the tasks that the modules declare.

    A module is named as in an import (package.tasks) or as a file (tasks.py). The current folder is searched first.
    """
    from queuekit.cli import worker as command

    raise SystemExit(command.run(modules, dev=dev, log_level=log_level, options=options))


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


for command in (jobs, dead, queues, workers, purge):
    cli.add_command(command)
