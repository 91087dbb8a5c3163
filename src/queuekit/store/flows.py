"""What joins jobs, as values of the store: workflows, their parts, and the tree of jobs. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from queuekit.job import JobStatus
    from queuekit.store import NewJob, Taken

__all__ = ["FORMING", "STOP", "FlowJob", "FlowState", "Followed", "Input", "Kin", "Left", "NewFlow", "Started"]

FORMING: Final = 60_000  # ms in which a workflow is to be recorded whole
STOP: Final = "stop"


@dataclass(frozen=True, slots=True)
class NewFlow:
    """A workflow that is to be recorded.

    Attributes:
        token: of this request to start it.
        jobs: how many there are, but for its compensations.
        undo: the ids of these.
        parent: the job in whose name it is started, and the fence of the attempt that does.
        near: a job on whose backend the caller publishes.
    """

    id: str
    token: str
    jobs: int
    undo: tuple[str, ...] = ()
    parent: tuple[str, str] | None = None
    near: str = ""


@dataclass(frozen=True, slots=True)
class FlowJob:
    """A job of a workflow.

    Attributes:
        after: those whose ends it waits for; next: those that wait for its end.
        uses: those whose results it takes.
        needs: how many take its result.
        rule: what its failure means to those who wait for it: "stop" or "skip".
        undoes: whose compensation it is.
    """

    new: NewJob
    after: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    needs: int = 0
    rule: str = STOP
    undoes: str = ""


@dataclass(frozen=True, slots=True)
class Followed:
    """The step was taken, and these were queued by it, each with its route: publish them."""

    taken: tuple[tuple[str, Taken], ...]


@dataclass(frozen=True, slots=True)
class Left:
    """The answer of follow(). `more`: call it again. `cancelled`: jobs that were cancelled by the end or the cancel of
    others, and of which nobody has heard yet."""

    more: bool
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The answer of start_flow(): "started" by this request, it "was" by another, its parts are "missing", or the
    attempt in whose name it was to be is "stale". `taken` as in Followed."""

    said: str
    epoch: str
    taken: tuple[tuple[str, Taken], ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """What a job hands on. `status` None: there is no record of it. `text`: its result as recorded; None where it has
    none, or it has expired. `proof`: the signature of that, "" for none."""

    status: JobStatus | None
    text: str | None = None
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Kin:
    """A job as a node of its tree. `children`: whether it has started any."""

    id: str
    task: str
    status: JobStatus
    attempt: int
    route: str
    parent: str = ""
    root: str = ""
    flow: str = ""
    after: tuple[str, ...] = ()
    rule: str = ""
    undoes: str = ""
    reason: str = ""
    children: bool = False


@dataclass(frozen=True, slots=True)
class FlowState:
    """A workflow. `open`: how many of its jobs have not ended; `bad`: how many have stopped it by their end."""

    id: str
    root: str
    parent: str = ""
    open: int = 0
    bad: int = 0
    undo: tuple[str, ...] = field(default=())
    undoing: bool = False
    started: bool = True
