"""The commands, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_CONNECTION = (
    click.option("--backend", metavar="NAME", help="celery, rq or dramatiq."),
    click.option("--broker-url", metavar="URL", help="redis://..., where messages travel."),
    click.option(
        "--store-url", metavar="URL", help="redis://..., where jobs are recorded. The broker's Redis by default."
    ),
    click.option("--namespace", metavar="NAME", help="Keeps applications that share a Redis apart."),
)


def connection_options(command: F) -> F:
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
def worker(modules: tuple[str, ...], dev: bool, log_level: str, **options: Any) -> None:
    """Run a worker for the tasks that the modules declare.

    A module is named as in an import (package.tasks) or as a file (tasks.py). The current folder is searched first.
    """
    from queuekit.cli import worker as command

    raise SystemExit(command.run(modules, dev=dev, log_level=log_level, options=options))


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
