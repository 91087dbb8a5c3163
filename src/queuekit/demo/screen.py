"""What is shown while the jobs run: a table on a terminal, lines in a pipe."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from queuekit.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from queuekit.demo.watch import Event, Watch

__all__ = ["COLOURS", "Screen", "make_console", "make_screen"]

COLUMNS: Final = (
    ("queued", "dim", (JobStatus.scheduled, JobStatus.queued)),
    ("running", "cyan", (JobStatus.running,)),
    ("retrying", "yellow", (JobStatus.retrying,)),
    ("done", "green", (JobStatus.succeeded,)),
    ("failed", "red", (JobStatus.failed, JobStatus.cancelled)),
)
COLOURS: Final = {"succeeded": "green", "retried": "yellow"}  # by an attempt's outcome; red otherwise
PIPE_WIDTH: Final = 100
LINES: Final = 10  # events that a terminal shows at a time


def make_console() -> Console:
    """Standard output: colours on a terminal only, and wide enough in a pipe."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


class Screen(Protocol):
    """A context manager, so that a terminal is put in order again."""

    def show(self, watch: Watch, events: Sequence[Event]) -> None:
        """The state now, and what has happened since the last time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_screen(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


def line_of(event: Event, *, short: bool) -> Text:
    one = event.attempt
    text = Text(f"{event.engine:<9}", style="bold")
    text.append(f"{event.document}: attempt {one.number} ", style="not bold")
    text.append(f"{one.outcome}", style=f"not bold {COLOURS.get(one.outcome, 'red')}")
    if one.outcome == "succeeded":
        return text
    again = "" if one.delay is None else f", again in {one.delay:.2f} s"
    return text.append(f": {one.category}{again}" if short or not one.reason else f": {one.reason}", style="not bold")


class PlainScreen:
    """A line for each attempt, as it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def show(self, watch: Watch, events: Sequence[Event]) -> None:
        now = time.monotonic() - self._start
        for event in events:
            self._console.print(Text(f"{now:5.1f} s  ") + line_of(event, short=False), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LiveScreen:
    """A row for each engine, and the last events below. It goes when the report comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._events: deque[Text] = deque(maxlen=LINES)
        self._start = time.monotonic()

    def show(self, watch: Watch, events: Sequence[Event]) -> None:
        self._events.extend(line_of(event, short=True) for event in events)
        self._live.update(self._picture(watch), refresh=True)

    def _picture(self, watch: Watch) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("engine")
        for name, _, _ in COLUMNS:
            table.add_column(name, justify="right")
        table.add_column(f"{time.monotonic() - self._start:4.1f} s", no_wrap=True)
        total = len(watch.documents)
        for engine in watch.engines:
            counts = watch.counts(engine)
            cells = []
            for _, colour, statuses in COLUMNS:
                n = sum(counts[status] for status in statuses)
                cells.append(Text(str(n), style=colour if n else "dim"))
            over = counts[JobStatus.succeeded] + counts[JobStatus.failed] + counts[JobStatus.cancelled]
            table.add_row(
                Text(engine, style="bold"),
                *cells,
                ProgressBar(total, over, width=20, complete_style="green", finished_style="green"),
            )
        lines = [Text.assemble(line) for line in self._events]
        for line in lines:
            line.truncate(self._console.width - 1, overflow="ellipsis")
        return Group(table, Text(), *lines)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
