"""The tree of a job: what it was started by, what it has started, and the workflows among that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queuekit.store import Store
    from queuekit.store.flows import FlowState, Kin

__all__ = ["MOST", "Branch", "Tree", "tree_of"]

MOST: Final = 5000  # jobs of one tree that are looked at


@dataclass(frozen=True, slots=True)
class Branch:
    """A job, or a workflow, and what is below it. Exactly one of `job` and `flow` is there, or none: a record that is
    gone, and whose id is all that is known."""

    id: str
    depth: int
    job: Kin | None = None
    flow: FlowState | None = None
    owner: str = ""  # the id of the branch above; "~" before that of a workflow


@dataclass(frozen=True, slots=True)
class Tree:
    """`branches`: each one before what is below it. `whole`: there were no more than MOST jobs."""

    root: str
    branches: tuple[Branch, ...]
    whole: bool


def tree_of(store: Store, id: str) -> Tree | None:
    """The tree that the job, or the workflow, is in, from its root. None: there is neither."""
    (kin,) = store.kin([id])
    root = (kin.root or id) if kin is not None else ""
    if kin is None:
        flow = store.flow(id)
        if flow is None:
            return None
        root = flow.root
    (top,) = store.kin([root])
    # The last step of a workflow has its id: it is the workflow that is the root then.
    of_flow = store.flow(root) is not None and (top is None or top.flow == root)
    walk = _Walk(store)
    branches = tuple(walk.below([f"~{root}" if of_flow else root], 0, ""))
    return Tree(root, branches, whole=walk.left >= 0)


class _Walk:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.left = MOST

    def below(self, ids: Sequence[str], depth: int, owner: str) -> Iterator[Branch]:
        jobs = [id for id in ids if not id.startswith("~")]
        kin = dict(zip(jobs, self._store.kin(jobs) if jobs else [], strict=True))
        for id in ids:
            self.left -= 1
            if self.left < 0:
                return
            if id.startswith("~"):
                flow = self._store.flow(id[1:])
                yield Branch(id[1:], depth, flow=flow, owner=owner)
                # They were recorded the last one first.
                yield from self.below(self._store.members(id)[::-1], depth + 1, id)
                continue
            job = kin[id]
            yield Branch(id, depth, job=job, owner=owner)
            if job is not None and job.children:
                yield from self.below(self._store.members(id), depth + 1, id)
