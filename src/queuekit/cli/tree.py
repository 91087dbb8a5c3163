"""`queuekit jobs tree`: a job with what has started it and what it has started, as lines or as a Mermaid graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuekit.cli.output import COLOURS, clean, console, error, is_terminal, json_line
from queuekit.errors import JobNotFound
from queuekit.store.tree import MOST, Branch, tree_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuekit.cli.connect import Connection
    from queuekit.store.tree import Tree

__all__ = ["mermaid", "show_tree"]

NAMED = 3  # ids of those that a job waits for, on one line


def show_tree(here: Connection, id: str, *, as_mermaid: bool, as_json: bool) -> None:
    """Raises JobNotFound."""
    tree = tree_of(here.store, id)
    if tree is None:
        raise JobNotFound(f"no job and no workflow {id!r} in namespace {here.settings.namespace!r}")
    if as_mermaid:
        click.echo("\n".join(mermaid(tree)))
    elif as_json:
        for one in tree.branches:
            json_line(_data(one))
    elif is_terminal():
        _print(tree)
    else:
        for one in tree.branches:
            click.echo("  " * one.depth + "  ".join(filter(None, _words(one))))
    if not tree.whole:
        error(f"the first {MOST} jobs of it")


def _data(one: Branch) -> dict[str, Any]:
    job, flow = one.job, one.flow
    owner = one.owner.removeprefix("~") or None
    data: dict[str, Any] = {
        "id": one.id,
        "kind": "workflow" if job is None and one.flow is not None else "job",
        "depth": one.depth,
        "below": owner,
        "parent": (job.parent if job is not None else flow.parent if flow is not None else "") or None,
        "workflow": (job.flow or None) if job is not None else None,
    }
    if flow is not None:
        return {**data, "open": flow.open, "undoing": flow.undoing}
    if job is None:
        return {**data, "status": None}
    return {
        **data,
        "status": str(job.status),
        "task": job.task or None,
        "attempts": job.attempt,
        "after": list(job.after),
        "on_failure": job.rule or None,
        "undoes": job.undoes or None,
        "reason": job.reason or None,
    }


def _words(one: Branch) -> tuple[str, ...]:
    if one.flow is not None:
        left = f"{one.flow.open} to go" if one.flow.open > 0 else "over"
        return ("workflow", one.id, left, "undoing" if one.flow.undoing and one.flow.open > 0 else "")
    job = one.job
    if job is None:
        return (one.id, "gone")
    after = ", ".join(job.after) if len(job.after) <= NAMED else f"{len(job.after)} jobs"
    return (
        one.id,
        str(job.status),
        clean(job.task),
        f"after {after}" if after else "",
        f"undoes {job.undoes}" if job.undoes else "",
        clean(job.reason.replace("\n", " ")),
    )


def _print(tree: Tree) -> None:
    from rich.text import Text

    screen, branches = console(), tree.branches
    for place, one in enumerate(branches):
        text = Text(_stem(branches, place), style="dim")
        for word in filter(None, _words(one)):
            text.append(word, style=f"not dim {COLOURS.get(word, '')}".strip()).append("  ")
        text.rstrip()
        screen.print(text, no_wrap=True, overflow="ellipsis")


def _stem(branches: tuple[Branch, ...], place: int) -> str:
    """The lines before a branch: whether more comes at its depth, and at each depth above it."""
    depth = branches[place].depth
    more = [False] * (depth + 1)
    for level in range(1, depth + 1):
        for later in branches[place + 1 :]:
            if later.depth < level:
                break
            if later.depth == level:
                more[level] = True
                break
    stem = "".join("│  " if more[level] else "   " for level in range(1, depth))
    return stem + (("├─ " if more[depth] else "└─ ") if depth else "")


def mermaid(tree: Tree) -> Iterable[str]:
    """The graph: solid lines from step to step, dotted ones to what was started, and from what undoes to what is
    undone."""
    names = {id: f"n{number}" for number, id in enumerate(_key(one) for one in tree.branches)}
    yield "graph TD"
    for one in tree.branches:
        name = names[_key(one)]
        if one.flow is not None:
            yield f'  {name}(["workflow {one.id}"])'
            continue
        job = one.job
        status = "gone" if job is None else str(job.status)
        task = "" if job is None else clean(job.task).replace('"', "'")
        yield f'  {name}["{task}<br/>{one.id}<br/>{status}"]:::{status}'
    for one in tree.branches:
        name, job = names[_key(one)], one.job
        for before in job.after if job is not None else ():
            if before in names:
                yield f"  {names[before]} --> {name}"
        if job is not None and job.undoes in names:
            yield f"  {name} -. undoes .-> {names[job.undoes]}"
        elif one.owner and not (job is not None and job.after):
            yield f"  {names[one.owner]} -.-> {name}"
    for status, colour in (("succeeded", "#9d9"), ("failed", "#e88"), ("cancelled", "#ed8"), ("running", "#8dd")):
        yield f"  classDef {status} fill:{colour},color:#000"


def _key(one: Branch) -> str:
    return f"~{one.id}" if one.flow is not None else one.id
