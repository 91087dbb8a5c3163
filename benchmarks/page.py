"""The page of the figures, and its plots, out of the JSON that the programs leave.

    python benchmarks/page.py FOLDER PAGE                    what was measured, as Markdown
    python benchmarks/page.py FOLDER PAGE --plots IMAGES     and a plot of each table, which takes matplotlib

What was not measured is left out, and said. Figures of a --quick run are refused unless --draft is given, which says on
the page what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marks import MARKS
from measuring import medians, table

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = "nox -s benchmarks"
HEADINGS = {
    "compare": "Enqueue and throughput",
    "latency": "Latency of an idle worker",
    "sleepers": "1,000 jobs of one second on one worker",
    "newcomer": "200 jobs of one second, on a worker without options",
    "growth": "What grows: the backlog, and the payloads",
    "tax": "What each feature costs",
    "scheduled": "50,000 jobs scheduled over a day",
}
ABOUT = {
    "compare": """\
No-op jobs with some 100 bytes of arguments, status and result kept by each. `async` runs a synchronous task in the pool
of that name, 8 at a time; `async def` an asynchronous one, 100 at a time, as the peers do. A base is the engine alone
on the pool of the same name, else on its last one in the table; for many jobs it is its loop of single calls. `taskiq
(list)` is its broker that does not acknowledge.""",
    "latency": """\
From the call to the start of the task, the worker having nothing else to do, and what a worker without jobs takes of a
core. The pools are those of above.""",
    "sleepers": """\
From the first start until the last result is stored. A base is the best of the engine's own pools; asyncio alone runs
the same sleeps without a queue.""",
    "newcomer": """\
Each library's worker as its documentation starts it, with no option.""",
    "growth": """\
By backlog: in one process, with so many jobs waiting, and in turn with another server on which 1,000 wait, which is the
base; 1,000 beside 1,000 shows what chance does. By payload: through a worker, or from one process that enqueues; a base
is the engine alone.""",
    "tax": """\
The same no-op job with one feature more, against none. Hooks: one that does nothing. Tracing: OpenTelemetry's SDK,
which keeps its spans in memory. A step: the work of the task is one.""",
    "scheduled": """\
By how much more memory a worker has, all its processes together, when 50,000 jobs wait that are due over the next 24
hours, than without any.""",
}
COLOURS = {"queuekit": "#2a6f97", "engine": "#9aa5b1", "peer": "#d9a441", "limit": "#444444", "": "#2a6f97"}


def load(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in HEADINGS
        if (folder / f"{name}.json").exists()
    }


def page(runs: dict[str, dict[str, Any]], images: Callable[[str], str]) -> str:
    """`images`: the link to the plot of that name, or "" where there is none."""
    draft = any(run["quick"] for run in runs.values())
    out = ["# Benchmarks", "", f"<!-- made by `{COMMAND}` -->", ""]
    if draft:
        out += ["**A draft of a quick run, which shows that the programs work: its figures are worth nothing.**", ""]
    out += [
        "queuekit beside the engine that it runs on, and beside other libraries, measured in the same run on the same",
        "Redis. They take turns in each round; a figure is the median of the rounds, with the least and the most of",
        "them beside it. Look at the ratios: the figures are those of one machine. Nothing was tuned but how many jobs",
        "run at a time, and the size of the pool of connections where results were lost without.",
        "",
        f"    {COMMAND}",
        "",
        *machine(runs),
        "## The marks",
        "",
        *marks(runs),
    ]
    for name, run in runs.items():
        out += [f"## {HEADINGS[name]}", "", ABOUT[name], "", *section(run, images)]
    return "\n".join(out).rstrip() + "\n"


def machine(runs: dict[str, dict[str, Any]]) -> list[str]:
    """On what it was measured, with which versions, and what was left out."""
    if not runs:
        return ["Nothing has been measured yet.", ""]
    out = []
    said = {
        f"{run['machine']['processor']}, {run['machine']['cores']} cores, {run['machine']['system']}; "
        f"Python {run['python']}, {run['server']}; "
        + ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        for run in runs.values()
    }
    out += [*sorted(said), ""]
    peers = {name: what for run in runs.values() for name, what in run["peers"].items()}
    if peers:
        out += ["The peers, with the Redis client of each: " + "; ".join(dict.fromkeys(peers.values())) + ".", ""]
    out += ["| program | made | rounds | minutes |", "|---|---|---|---|"]
    out += [f"| {name} | {run['made']} | {run['rounds']} | {run['minutes']:.0f} |" for name, run in runs.items()]
    out.append("")
    for what, head in (("absent", "Left out"), ("failed", "Did not end well")):
        lines = {
            f"- in {name}: {whom}: {why.splitlines()[-1]}"
            for name, run in runs.items()
            for whom, why in run[what].items()
        }
        out += [f"{head}:", "", *sorted(lines), ""] if lines else []
    return out


def marks(runs: dict[str, dict[str, Any]]) -> list[str]:
    """What was to be reached, and what was."""
    out = ["| | mark | measured | |", "|---|---|---|---|"]
    for mark in MARKS:
        reached = mark.look(lambda program, what: medians(runs[program], what) if program in runs else {})
        said = "; ".join(one.text for one in reached) or "not measured"
        well = "" if not reached else "yes" if all(one.well for one in reached) else "**no**"
        out.append(f"| {mark.what} | {mark.wanted} | {said} | {well} |")
    return [*out, ""]


def section(run: dict[str, Any], images: Callable[[str], str]) -> list[str]:
    out = []
    for what in dict.fromkeys(row["what"] for row in run["found"]):
        head, _, rest = table(run, what).partition("\n\n")
        link = images(plot_name(run["program"], what))
        out += [head, "", *([f"![{what}]({link})", ""] if link else []), rest]
    return out


# ---- plots ---------------------------------------------------------------------------------------------------------


def plot_name(program: str, what: str) -> str:
    words = re.findall(r"[a-z0-9-]+", what.lower().replace("'", ""))
    return f"{program}-{'-'.join(words)}.svg"


def plots(runs: dict[str, dict[str, Any]], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "queuekit", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for run in runs.values():
        for what in dict.fromkeys(row["what"] for row in run["found"]):
            rows = [row for row in run["found"] if row["what"] == what]
            draw = lines if rows[0].get("at") else bars
            figure = draw(plt, what, rows, medians(run, what))
            figure.savefig(folder / plot_name(run["program"], what), metadata={"Date": None}, bbox_inches="tight")
            plt.close(figure)


def bars(plt: Any, what: str, rows: list[dict[str, Any]], figures: dict[str, float]) -> Any:
    """One for each contender, with what the rounds gave as a line; on a logarithmic scale where they are far apart."""
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.24 * len(rows)))
    names = [row["whom"] for row in rows]
    sizes = [figures[name] for name in names]
    spread = [
        [max(0.0, size - min(row["figures"])) for row, size in zip(rows, sizes, strict=True)],
        [max(0.0, max(row["figures"]) - size) for row, size in zip(rows, sizes, strict=True)],
    ]
    axes.barh(names, sizes, xerr=spread, color=[COLOURS[row["kind"]] for row in rows], error_kw={"elinewidth": 0.8})
    axes.invert_yaxis()
    some = [size for size in sizes if size > 0]
    if some and max(some) > 30 * min(some):
        axes.set_xscale("log")
    axes.set_xlabel(rows[0]["unit"])
    axes.set_title(what, loc="left")
    return figure


def lines(plt: Any, what: str, rows: list[dict[str, Any]], figures: dict[str, float]) -> Any:
    figure, axes = plt.subplots(figsize=(7.5, 3.2))
    for line in dict.fromkeys(row["at"][0] for row in rows):
        points = [row for row in rows if row["at"][0] == line]
        style = "--" if points[0]["kind"] == "engine" else "-"
        across = [row["at"][1] for row in points]
        axes.plot(across, [figures[row["whom"]] for row in points], style, marker="o", markersize=3, label=line)
    axes.set_xscale("log")
    if max(figures.values()) > 10 * min(figures.values()):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(rows[0]["at"][2])
    axes.set_ylabel(rows[0]["unit"])
    axes.set_title(what, loc="left")
    axes.legend(fontsize=7)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--plots", type=Path, metavar="IMAGES")
    parser.add_argument("--draft", action="store_true", help="of a quick run too")
    asked = parser.parse_args()
    runs = load(asked.folder)
    quick = [name for name, run in runs.items() if run["quick"]]
    if quick and not asked.draft:
        sys.exit(f"{asked.folder}: {', '.join(quick)} was measured with --quick: nothing to publish")
    if asked.plots is not None:
        plots(runs, asked.plots)
    asked.page.parent.mkdir(parents=True, exist_ok=True)
    asked.page.write_text(page(runs, beside(asked.page, asked.plots)))


def beside(page: Path, images: Path | None) -> Callable[[str], str]:
    """Links from the page to the plots that are there."""
    if images is None:
        return lambda name: ""
    folder = Path(os.path.relpath(images, page.parent)).as_posix()
    return lambda name: f"{folder}/{name}" if (images / name).exists() else ""


if __name__ == "__main__":
    main()
