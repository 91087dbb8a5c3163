"""The options that commands share, and the group that turns errors into exit codes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAILED", "MISUSED", "STORE_AWAY", "Commands", "as_json", "connection_options", "moment_of", "store_options"]

F = TypeVar("F", bound="Callable[..., Any]")

FAILED: Final = 1  # what was asked for could not be done: an unknown job, one that has not ended
MISUSED: Final = 2  # click's own: an unknown option, a setting that cannot be
STORE_AWAY: Final = 3

_BACKEND = click.option("--backend", metavar="NAME", help="celery, rq or dramatiq.")
_STORE = (
    click.option("--broker-url", metavar="URL", help="redis://..., where messages travel."),
    click.option(
        "--store-url", metavar="URL", help="redis://..., where jobs are recorded. The broker's Redis by default."
    ),
    click.option("--namespace", metavar="NAME", help="Keeps applications that share a Redis apart."),
)


def connection_options(command: F) -> F:
    """For what runs or publishes jobs."""
    return _with((_BACKEND, *_STORE), command)


def store_options(command: F) -> F:
    """For what only looks at the records, or writes into them. The function gets them as `connection`."""
    return _with(_STORE, command)


def _with(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


as_json = click.option("--json", "as_json", is_flag=True, help="JSON, a line for each; moments in UTC.")


def moment_of(context: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A moment with its time zone, in ISO 8601."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no moment such as 2030-01-31T09:00+01:00", context, param) from None
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone: {value}Z, or {value}+01:00", context, param)
    return moment


class Commands(click.Group):
    """Errors of queuekit's own become one line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from queuekit.cli.output import error
        from queuekit.errors import ConfigError, QueuekitError
        from queuekit.store import StoreAway

        try:
            return super().invoke(ctx)
        except QueuekitError as problem:
            error(str(problem))
            code = (
                STORE_AWAY
                if isinstance(problem, StoreAway)
                else MISUSED
                if isinstance(problem, ConfigError)
                else FAILED
            )
            return ctx.exit(code)
