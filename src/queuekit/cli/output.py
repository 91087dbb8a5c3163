"""How the commands show things: tables on a terminal, tab-separated lines in a pipe, JSON lines where asked for. And
how they read JSON.

What stands in a record was written by others: control characters are shown, and never sent to the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from queuekit.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "ago",
    "bar",
    "clean",
    "console",
    "error",
    "is_terminal",
    "iso",
    "json_line",
    "moment",
    "read_json",
    "rows",
    "span",
]

COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "retrying": "magenta",
}  # fmt: skip
NARROW = 100  # columns: below it, what is marked as wide is left out
NARROWEST = 8  # a column that is cut keeps so much

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; without colours where NO_COLOR is set."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)


def bar(screen: Console, **options: Any) -> Progress:
    """A bar between its `status`, how many of how many, the time, and what is said of it. `options` go to rich's."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[status]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    return Progress(*columns, console=screen, **options)


def error(text: str) -> None:
    click.echo(f"queuekit: {clean(text)}", err=True)


def clean(text: str) -> str:
    """The text with its control characters spelled out, but for tabs and newlines."""
    text = text.encode("utf-8", "backslashreplace").decode()  # half an emoji
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


# ---- time ----------------------------------------------------------------------------------------------------------


def iso(seconds: float | datetime | None) -> str | None:
    """2026-11-24T02:24:37.123Z"""
    if seconds is None:
        return None
    when = seconds if isinstance(seconds, datetime) else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """A length of time in its largest unit: "42 s", "3 min", "5 h", "2 days"."""
    seconds = abs(seconds)
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def ago(then: float, now: float) -> str:
    """ "3 min ago", "in 5 h"."""
    return f"in {span(then - now)}" if then > now else f"{span(now - then)} ago"


def moment(then: float | datetime | None, now: float) -> str:
    """2026-11-24 02:24:37 UTC (3 min ago)"""
    if then is None:
        return "-"
    seconds = then.timestamp() if isinstance(then, datetime) else then
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC ({ago(seconds, now)})"


# ---- JSON ----------------------------------------------------------------------------------------------------------


def read_json(text: str) -> Any:
    """Raises PayloadError."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise PayloadError(f"not JSON: {problem}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# ---- rows ----------------------------------------------------------------------------------------------------------


def json_line(value: Any) -> None:
    """In ASCII: half an emoji in somebody's error message breaks no pipe."""
    click.echo(json.dumps(value))


def rows(
    columns: Mapping[str, str],
    lines: Iterable[Mapping[str, Any]],
    *,
    as_json: bool,
    data: Iterable[Mapping[str, Any]] = (),
    wide: Sequence[str] = (),
    whole: Sequence[str] = ("id",),
    last: str | None = None,
) -> None:
    """Show `lines` as a table, or `data`, which is the same for programs, in a pipe or as JSON.

    Args:
        columns: the keys that are shown, with their headings. In a pipe they are tab-separated, without the headings.
        wide: left out of a table on a terminal that is less than 100 columns wide.
        whole: never cut.
        last: stands on a line of its own below each row, cut to the width.
    """
    if as_json:
        for one in data:
            json_line(one)
    elif is_terminal():
        _table(columns, lines, wide, whole, last)
    else:
        for one in data:
            click.echo("\t".join(_field(one.get(key)) for key in columns))


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return re.sub(r"[\t\n]+", " ", clean(str(value)))


def _table(
    columns: Mapping[str, str],
    lines: Iterable[Mapping[str, Any]],
    wide: Sequence[str],
    whole: Sequence[str],
    last: str | None,
) -> None:
    """A line for each, and below it its note: a table of rich's knows no line across all columns."""
    from rich.text import Text

    screen = console()
    shown = [key for key in columns if key != last and (screen.width >= NARROW or key not in wide)]
    every = list(lines)
    cells = [{key: _one_line(one.get(key)) or "-" for key in shown} for one in every]
    widths = _widths(cells, {key: columns[key] for key in shown}, whole, screen.width)
    numbers = {key for key in shown if any(isinstance(one.get(key), int) for one in every)}

    def line(row: Mapping[str, str], style: str = "") -> Text:
        text = Text(style=style)
        for key in shown:
            cell = Text(row[key], style=COLOURS.get(row[key], "") if key == "status" else "")
            cell.truncate(widths[key], overflow="ellipsis")
            space = " " * (widths[key] - cell.cell_len)
            text.append(space).append_text(cell) if key in numbers else text.append_text(cell).append(space)
            text.append("  ")
        text.rstrip()
        return text

    screen.print(line({key: columns[key] for key in shown}, "bold"), soft_wrap=True)
    for one, row in zip(every, cells, strict=True):
        screen.print(line(row), soft_wrap=True)
        if last and (note := _one_line(one.get(last))):
            screen.print(Text(f"  {note}", style="dim"), no_wrap=True, overflow="ellipsis")


def _one_line(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "" if value is None else re.sub(r"\s+", " ", clean(str(value)))


def _widths(
    cells: Sequence[Mapping[str, str]], columns: Mapping[str, str], whole: Sequence[str], width: int
) -> dict[str, int]:
    """As wide as what stands in them. Where that is too much the widest are cut, but none of `whole`."""
    from rich.cells import cell_len

    widths = {
        key: max(cell_len(text) for text in (head, *(row[key] for row in cells))) for key, head in columns.items()
    }
    while sum(widths.values()) + 2 * (len(widths) - 1) > width:
        widest = max((key for key in widths if key not in whole), key=lambda key: widths[key], default=None)
        if widest is None or widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    return widths
