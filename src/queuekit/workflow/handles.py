"""Handles to workflows, from the process that has enqueued them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from queuekit.errors import ConfigError
from queuekit.handle import Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from queuekit.app import App
    from queuekit.workflow.graph import Node

__all__ = ["GroupJob", "WorkflowJob"]

R = TypeVar("R")


class WorkflowJob:
    """One request to run a workflow.

    Attributes:
        id: what `job.info().workflow` says of each of its jobs.
        created: False where an existing one was found under the id.
    """

    def __init__(self, id: str, app: App, jobs: Mapping[Node[Any], Job[Any]], *, created: bool) -> None:
        self.id, self.created = id, created
        self._app, self._jobs = app, dict(jobs)

    def __repr__(self) -> str:
        return f"<Workflow {self.id}, {len(self._jobs)} jobs>"

    @property
    def jobs(self) -> list[Job[Any]]:
        """The job of each step, in the order in which they were added."""
        return list(self._jobs.values())

    def job(self, node: Node[R]) -> Job[R]:
        """The job of a step. Raises ConfigError where it is none of this workflow."""
        if node not in self._jobs:
            raise ConfigError(f"{node!r} is none of this one")
        return self._jobs[node]

    def cancel(self, reason: str = "") -> bool:
        """Ask that all of it end: see Job.cancel(). True where not all of it was over. What has succeeded is undone,
        where something undoes it."""
        return not self._jobs or self._app.cancel_workflow(self.id, reason) == "cancelled"

    async def acancel(self, reason: str = "") -> bool:
        import asyncio

        return await asyncio.to_thread(self.cancel, reason)


class GroupJob(Generic[R]):
    """One request to run a group.

    Attributes:
        id: as WorkflowJob.id.
        jobs: the last job of each member, in their order.
    """

    def __init__(self, workflow: WorkflowJob, jobs: Sequence[Job[R]]) -> None:
        self.id, self.created, self.jobs = workflow.id, workflow.created, list(jobs)
        self._workflow = workflow

    def __repr__(self) -> str:
        return f"<Group {self.id}, {len(self.jobs)} members>"

    def results(self, *, timeout: float | timedelta | None = None) -> list[R]:
        """The results of all members, in their order: see Job.wait_all()."""
        return Job.wait_all(self.jobs, timeout=timeout)

    async def aresults(self, *, timeout: float | timedelta | None = None) -> list[R]:
        return await Job.await_all(self.jobs, timeout=timeout)

    def cancel(self, reason: str = "") -> bool:
        """See WorkflowJob.cancel()."""
        return self._workflow.cancel(reason)

    async def acancel(self, reason: str = "") -> bool:
        return await self._workflow.acancel(reason)
