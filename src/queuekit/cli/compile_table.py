"""The compile report for people: a grid of levels, what is the same everywhere, and then each engine."""

from __future__ import annotations

import os
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from queuekit.adapters.report import FAULTS, Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from queuekit.adapters.report import Engine, Row, Target
    from queuekit.task import Task

__all__ = ["show"]

PIPE_WIDTH: Final = 120
COLOURS: Final = {Level.native: "green", Level.emulated: "cyan", Level.degraded: "yellow", Level.refused: "red"}


def show(task: Task[..., Any, Any], engines: Sequence[Engine]) -> None:
    """On a terminal in colours and as wide as that; in a pipe plain, and 120 wide or as COLUMNS says."""
    console = Console(highlight=False)
    if console.is_terminal:
        _print(console, task, engines)
        return
    width = None if "COLUMNS" in os.environ else PIPE_WIDTH
    plain = Console(highlight=False, file=StringIO(), width=width, color_system=None)
    with plain.capture() as text:
        _print(plain, task, engines)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def _print(console: Console, task: Task[..., Any, Any], engines: Sequence[Engine]) -> None:
    kind = "async" if task.is_async else "sync"
    console.print(Text(f"{task.name}", style="bold").append(f"  {kind}, queue {task.queue}", style="not bold"))
    if any(engine.targets for engine in engines):
        console.print()
        console.print(_grid(engines))
    everywhere = _everywhere(engines)
    if everywhere:
        console.print(_heading("On every engine" if len(engines) > 1 else "On every pool"))
        console.print(_details((row, "") for row in everywhere.values()))
    for engine in engines:
        brokers = ", ".join(dict.fromkeys(one.broker for one in engine.targets))
        on = f" on {brokers}" if brokers else ""
        console.print(_heading(f"{engine.backend}{on}; its pool is {engine.default_pool} by default"))
        if engine.targets:
            console.print(_details(_differing(engine, everywhere)))
        console.print(_rest(engine))


def _heading(text: str) -> Padding:
    return Padding(Text(text, style="bold"), (1, 0, 0, 0))


# ---- the grid ------------------------------------------------------------------------------------------------------


def _grid(engines: Sequence[Engine]) -> Table:
    """A field a line, a pool a column: the gravest level of its brokers."""
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("")
    columns = [(engine, pool) for engine in engines for pool in dict.fromkeys(one.pool for one in engine.targets)]
    for engine, pool in columns:
        grid.add_column(f"{engine.backend}\n{pool}")
    fields = dict.fromkeys(
        row.field for engine in engines for target in engine.targets for row in target.rows if "." not in row.field
    )
    for field in fields:
        cells = [_cell([row for row in _rows(engine, pool) if row.field == field]) for engine, pool in columns]
        grid.add_row(field, *cells)
    return grid


def _rows(engine: Engine, pool: str) -> Iterator[Row]:
    for target in engine.targets:
        if target.pool == pool:
            yield from target.rows


def _cell(rows: Sequence[Row]) -> Text:
    if not rows:
        return Text("-", style="dim")
    return _level(max((row.level for row in rows), key=list(Level).index))


def _level(level: Level) -> Text:
    return Text(level.value, style=COLOURS[level])


# ---- the details ---------------------------------------------------------------------------------------------------


def _everywhere(engines: Sequence[Engine]) -> dict[str, Row]:
    """The rows that say the same of all targets, without options of an engine."""
    seen: dict[str, list[Row]] = {}
    targets = [target for engine in engines for target in engine.targets]
    for target in targets:
        for row in target.rows:
            seen.setdefault(row.field, []).append(row)
    return {
        field: rows[0]
        for field, rows in seen.items()
        if len(rows) == len(targets) and all(row == rows[0] for row in rows) and not rows[0].options
    }


def _differing(engine: Engine, everywhere: dict[str, Row]) -> Iterator[tuple[Row, str]]:
    """The other rows, each once with the pools and brokers that it holds for."""
    targets = engine.targets
    for field in dict.fromkeys(row.field for target in targets for row in target.rows):
        if field in everywhere:
            continue
        kinds: list[tuple[Row, list[Target]]] = []
        for target in targets:
            for row in target.rows:
                if row.field == field:
                    same = next((where for one, where in kinds if one == row), None)
                    if same is None:
                        kinds.append((row, [target]))
                    else:
                        same.append(target)
        for row, where in kinds:
            yield row, _where(where, targets)


def _where(some: Sequence[Target], every: Sequence[Target]) -> str:
    """ "threads", "rabbitmq", "solo on redis"; nothing where it is all of them."""
    if len(some) == len(every):
        return ""
    pools, brokers = dict.fromkeys(one.pool for one in some), dict.fromkeys(one.broker for one in some)
    all_pools, all_brokers = {one.pool for one in every}, {one.broker for one in every}
    if len(some) != len(pools) * len(brokers):
        return ", ".join(f"{one.pool} on {one.broker}" for one in some)
    named = [", ".join(pools)] if set(pools) != all_pools else []
    if set(brokers) != all_brokers:
        named.append(", ".join(brokers))
    return " on ".join(named)


def _details(rows: Iterable[tuple[Row, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    before = ""
    for row, where in rows:
        table.add_row("" if row.field == before else row.field, _level(row.level), _said(row, where))
        before = row.field
    return table


def _said(row: Row, where: str) -> Text:
    text = Text()
    if where:
        text.append(f"({where}) ", style="bold")
    if row.asked != "-":
        text.append(f"{row.asked}: ")
    text.append(row.becomes)
    if row.why:
        text.append(f". Why: {row.why}", style="dim")
    if row.remedy and row.level in FAULTS:
        text.append(f"\n{row.remedy}", style="yellow")
    for name, value in row.options.items():
        text.append(f"\n  {name} = {value!r}", style="dim")
    return text


def _rest(engine: Engine) -> Group:
    """What is not run, and the way out into options of the engine's own."""
    lines = []
    for reason in dict.fromkeys(engine.refused.values()):
        pools = ", ".join(name for name, why in engine.refused.items() if why == reason)
        several = "s" if "," in pools else ""
        lines.append(Text(f"refused: the pool{several} {pools}: ", style="red").append(reason, style="default"))
    lines += [Text(f"missing for {broker}: {why}", style="yellow") for broker, why in engine.missing.items()]
    if engine.lowered is not None:
        options = ", ".join(f"{name}={value!r}" for name, value in engine.lowered.options.items())
        lines.append(Text("in options of the engine's own (not used): ").append(options or "none", style="dim"))
        lines += [Text(f"  lost: {loss}", style="dim") for loss in engine.lowered.losses]
    return Group(*lines)
