"""From a graph to the jobs that are recorded for it."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from queuekit.context import starting
from queuekit.errors import ConfigError, EnqueueError, JobConflict, StaleAttempt
from queuekit.events import EventKind, event_of
from queuekit.handle import Job
from queuekit.message import ID_PATTERN
from queuekit.store import FlowJob, NewFlow
from queuekit.task import Call
from queuekit.workflow.graph import Node, Ref, refs
from queuekit.workflow.handles import WorkflowJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.app import App
    from queuekit.message import Message
    from queuekit.store import NewJob
    from queuekit.workflow.graph import Workflow

__all__ = ["record"]

PART: Final = 100  # jobs that are recorded in one step of the store, which keeps all others waiting
PART_BYTES: Final = 1024 * 1024


@dataclass
class _Plan:
    """A job that is to be: of a step, or of its compensation."""

    id: str
    call: Call[Any]
    after: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    needs: int = 0
    rule: str = "stop"
    undoes: str = ""
    inputs: list[list[Any]] = field(default_factory=list)


def record(flow: Workflow) -> WorkflowJob:
    """See Workflow.enqueue()."""
    from queuekit.app import current_app

    app, start = current_app(), starting.get()
    id = flow.id or (start.id if start is not None else uuid.uuid4().hex)
    if not flow.nodes:
        return WorkflowJob(id, app, {}, created=True)
    plans = _plans(flow, id)
    made = [(plan, *_prepare(app, plan)) for plan in plans.values()]
    first = next(plan.id for plan in plans.values() if not plan.after and not plan.undoes)
    undo = tuple(plan.id for plan in plans.values() if plan.undoes)
    parent = None if start is None else (start.parent, start.fence)
    new = NewFlow(id, secrets.token_hex(8), len(flow.nodes), undo, parent, near=first)
    created = _record(app, new, made)
    jobs = {node: Job(plans[node].id, app=app, task=node.call.task, created=created) for node in flow.nodes}
    return WorkflowJob(id, app, jobs, created=created)


# ---- plan ----------------------------------------------------------------------------------------------------------


def _plans(flow: Workflow, id: str) -> dict[Any, _Plan]:
    """By node, and by ("undo", node)."""
    waited_for = {before for node in flow.nodes for before in node.after}
    ends = [node for node in flow.nodes if node not in waited_for]
    plans: dict[Any, _Plan] = {}
    for node in flow.nodes:
        own = id if len(ends) == 1 and node is ends[0] else f"{id}-{node.number}"
        plan = plans[node] = _Plan(node.call.task.request.id or own, node.call, rule=node.call.rule)
        plan.after = [plans[before].id for before in node.after]
    for node in flow.nodes:
        undo = node.call.undo
        if undo is not None:
            call = undo if isinstance(undo, Call) else undo(node.result)
            named = call.task.request.id or f"{id}-{node.number}-undo"
            plans["undo", node] = _Plan(named, call, rule="skip", undoes=plans[node].id)
    _undo_in_reverse(flow, plans)
    by_id = {plan.id: plan for plan in plans.values()}
    if len(by_id) != len(plans):
        twice = next(plan.id for plan in plans.values() if by_id[plan.id] is not plan)
        raise ConfigError(f"two steps of a workflow have the id {twice!r}")
    for plan in plans.values():
        _cut(plan, plans)
    for plan in plans.values():
        for before in plan.after:
            by_id[before].next.append(plan.id)
        for used in plan.uses:
            by_id[used].needs += 1
    return plans


def _undo_in_reverse(flow: Workflow, plans: dict[Any, _Plan]) -> None:
    """A compensation waits for those of the next compensated steps after its own."""
    nearest: dict[Node[Any], set[Node[Any]]] = {node: set() for node in flow.nodes}
    for node in reversed(flow.nodes):
        if ("undo", node) in plans:
            plans["undo", node].after = sorted(plans["undo", later].id for later in nearest[node])
        behind = {node} if ("undo", node) in plans else nearest[node]
        if behind:
            for before in node.after:
                nearest[before] |= behind


def _cut(plan: _Plan, plans: dict[Any, _Plan]) -> None:
    """Take the results out of its arguments, and note where they were."""
    call = plan.call
    if call.task.request.key is not None:
        raise ConfigError(
            f"key={call.task.request.key!r} on a step of a workflow ({call.task.name!r}): those after it could "
            "not wait for the job that holds the key. Give the whole an id, Workflow(id=...), which is recorded once"
        )
    for path, ref in refs(call):
        task = ref.node.call.task
        if not task.keep_result:
            raise ConfigError(
                f"the result of task {task.name!r} is handed on to {call.task.name!r}, and is thrown away: "
                "declare it without keep_result=False"
            )
        plan.inputs.append([list(path), plans[ref.node].id, task.name])
    plan.uses = list(dict.fromkeys(id for _, id, _ in plan.inputs))
    if plan.inputs:
        args = tuple(_without(value) for value in call.args)
        plan.call = replace(call, args=args, kwargs={name: _without(value) for name, value in call.kwargs.items()})


def _without(value: Any) -> Any:
    if isinstance(value, Ref):
        return None
    if any(True for _ in _found(value)):
        if isinstance(value, dict):
            return {key: _without(one) for key, one in value.items()}
        return [_without(one) for one in value]
    return value


def _found(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _found(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _found(one)


# ---- record --------------------------------------------------------------------------------------------------------


def _prepare(app: App, plan: _Plan) -> tuple[Message, NewJob]:
    if not ID_PATTERN.match(plan.id):
        raise ConfigError(f"a step of a workflow would have the id {plan.id!r}, which engines do not take")
    message, new = app.prepare(plan.call, id=plan.id, inputs=plan.inputs)
    if app.hooks:
        headers = dict(message.headers)
        with app.hooks.around_enqueue(event_of(message, EventKind.enqueued, time.time(), delay=new.delay), headers):
            pass
        if headers != message.headers:
            return app.headed(message, new, headers)
    return message, new


def _deepest_first(made: list[tuple[_Plan, Message, NewJob]]) -> list[tuple[_Plan, Message, NewJob]]:
    """Those that wait before those that are waited for; otherwise as they are given, which is how they start."""
    waits = {plan.id: plan.after for plan, _, _ in made}
    depth: dict[str, int] = {}
    left = list(waits)
    while left:
        id = left[-1]
        open_ = [one for one in waits[id] if one not in depth]
        if open_:
            left += open_
        else:
            depth[left.pop()] = 1 + max((depth[one] for one in waits[id]), default=0)
    return sorted(made, key=lambda one: -depth[one[0].id])


def _record(app: App, flow: NewFlow, made: list[tuple[_Plan, Message, NewJob]]) -> bool:
    """Whether it was there already. Those that wait for others come first."""
    jobs = [
        FlowJob(
            new,
            after=tuple(plan.after),
            next=tuple(plan.next),
            uses=tuple(plan.uses),
            needs=plan.needs,
            rule=plan.rule,
            undoes=plan.undoes,
        )
        for plan, _, new in _deepest_first(made)
    ]
    until = time.monotonic() + app.settings.enqueue_timeout
    for part in _parts(jobs):
        clash = app.ask(lambda part=part: app.store.create_flow(flow, part), flow.id, until)  # type: ignore[misc]
        if clash:
            raise JobConflict(
                f"workflow {flow.id} was not enqueued: job {clash[0]!r} exists, and asks for something else"
                + (". Children are found by their order: give enqueue() a key" if flow.parent else ""),
                recorded=False,
                job_id=clash[0],
            )
        if clash is None:  # start_flow() says why
            break
    started = app.ask(lambda: app.store.start_flow(flow), flow.id, until)
    if started.said == "stale":
        assert flow.parent is not None
        raise StaleAttempt(f"job {flow.parent[0]}: somebody else has ended this attempt, which can start nothing")
    if started.said == "missing":
        raise EnqueueError(
            f"workflow {flow.id} was not enqueued: it took longer than a minute to record it",
            recorded=False,
            job_id=flow.id,
        )
    app.publish_taken(started.taken)
    if started.said == "started" and app.hooks:
        now = app.store.now()
        for plan, message, new in made:
            if not plan.undoes:
                app.hooks(event_of(message, EventKind.enqueued, now, delay=new.delay))
    return started.said == "started"


def _parts(jobs: list[FlowJob]) -> Iterator[list[FlowJob]]:
    part: list[FlowJob] = []
    size = 0
    for job in jobs:
        if part and (len(part) == PART or size + len(job.new.message) > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(job)
        size += len(job.new.message)
    if part:
        yield part
