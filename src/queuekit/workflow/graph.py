"""The shapes of a workflow, as values. Nothing here asks anybody: enqueue() does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, cast, overload

from typing_extensions import TypeVar

from queuekit.errors import ConfigError
from queuekit.message import ID_PATTERN
from queuekit.task import Call, Task, enqueue_off_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from queuekit.handle import Job
    from queuekit.workflow.handles import GroupJob, WorkflowJob

__all__ = ["Flow", "Group", "Node", "Part", "Ref", "Step", "Workflow", "chain", "chord", "group", "refs"]

R = TypeVar("R")
A_contra = TypeVar("A_contra", contravariant=True)
B = TypeVar("B")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")

LONGEST: Final = 100  # characters of a workflow's id: those of its jobs are a little longer


class Ref:
    """Stands among the arguments of a call for the result of a node."""

    __slots__ = ("node",)

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    def __repr__(self) -> str:
        return f"<the result of {self.node!r}>"


class Node(Generic[R]):
    """A step of a Workflow. Made by Workflow.add()."""

    def __init__(self, flow: Workflow, number: int, call: Call[R], after: tuple[Node[Any], ...]) -> None:
        self.flow, self.number, self.call, self.after = flow, number, call, after

    def __repr__(self) -> str:
        return f"<step {self.number} of the workflow, {self.call.task.name}>"

    @property
    def result(self) -> R:
        """Its result, to be handed on: as an argument of bind(), or in a list or a dict that is one. It stands for the
        result, whose type it has for type checkers, and is none: nothing else can be done with it here."""
        return cast("R", Ref(self))


class Workflow:
    """A graph of calls. A step waits for those whose results it takes, and for those that `after` names.

    Args:
        id: enqueueing a workflow of the same id and the same steps again gives the existing one.

    Raises:
        ConfigError: an id that cannot be.
    """

    def __init__(self, *, id: str | None = None) -> None:
        if id is not None and not (isinstance(id, str) and ID_PATTERN.match(id) and len(id) <= LONGEST):
            raise ConfigError(f"Workflow(id={id!r}): 1 to {LONGEST} letters, digits, '_' and '-'")
        self.id = id
        self.nodes: list[Node[Any]] = []

    def add(self, call: Call[R], *, after: Iterable[Node[Any]] = ()) -> Node[R]:
        """Add a step.

        Args:
            after: what it waits for besides those whose results it takes.

        Raises:
            ConfigError: it waits for a step of another workflow.
        """
        before = [ref.node for _, ref in refs(call)]
        waits = tuple(dict.fromkeys([*before, *after]))
        for node in waits:
            if not isinstance(node, Node) or node.flow is not self:
                raise ConfigError(f"a step of {call.task.name!r} waits for {node!r}, which is not of this workflow")
        node = Node(self, len(self.nodes), call, waits)
        self.nodes.append(node)
        return node

    def enqueue(self) -> WorkflowJob:
        """Hand it over. When this returns all of it is recorded, and will end.

        Raises:
            PayloadError, ConfigError: as Task.enqueue(), for any of the steps; nothing was recorded.
            EnqueueError: the store could not be reached within the setting enqueue_timeout; nothing has started.
        """
        from queuekit.workflow.recording import record

        return record(self)

    async def aenqueue(self) -> WorkflowJob:
        """enqueue(), without blocking the loop: see Task.aenqueue()."""
        return await enqueue_off_loop(self.enqueue, self.id)


def refs(call: Call[Any]) -> Iterator[tuple[tuple[int | str, ...], Ref]]:
    """Where in its arguments results stand, and which."""
    for place, value in enumerate(call.args):
        yield from _refs((place,), value)
    for name, value in call.kwargs.items():
        yield from _refs((name,), value)


def _refs(path: tuple[int | str, ...], value: Any) -> Iterator[tuple[tuple[int | str, ...], Ref]]:
    if isinstance(value, Ref):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            yield from _refs((*path, place), one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _refs((*path, key), one)


# ---- parts ---------------------------------------------------------------------------------------------------------


class Step(Protocol[A_contra, B]):
    """A task that can be called with one argument."""

    def bind(self, value: A_contra, /) -> Call[B]: ...


@dataclass(frozen=True, slots=True)
class Woven:
    """What a part has become in a workflow: its value, with Refs in it, and the steps that end it."""

    value: Any
    ends: tuple[Node[Any], ...]


class Part(Generic[R]):
    """A piece of a workflow that gives an R: made by chain(), chord() and group()."""

    def weave(self, flow: Workflow, after: tuple[Node[Any], ...]) -> Woven:
        """Add its steps to the workflow. Those that wait for nobody in it wait for `after`."""
        raise NotImplementedError

    def then(self, step: Step[R, B] | Callable[[R], Call[B]] | Callable[[R], Part[B]], /) -> Flow[B]:
        """This, and after it the step, which gets the result: a task, or a function from the result to a call or to
        another part. (The function is called here, with what stands for the result.)"""
        return Flow(self, (step,))


Source: TypeAlias = Call[R] | Part[R]
Next: TypeAlias = "Step[T1, T2] | Callable[[T1], Call[T2]] | Callable[[T1], Part[T2]]"


class Flow(Part[R]):
    """Steps one after the other. Made by chain(), chord() and then()."""

    def __init__(self, first: Source[Any], steps: tuple[Any, ...]) -> None:
        self._first, self._steps = first, steps

    def weave(self, flow: Workflow, after: tuple[Node[Any], ...]) -> Woven:
        woven = _weave(self._first, flow, after)
        for step in self._steps:
            made = step.bind(woven.value) if isinstance(step, Task) else step(woven.value)
            if not isinstance(made, (Call, Part)):
                raise ConfigError(
                    f"the step {step!r} has given {made!r}: a task, or a function that gives task.bind(...)"
                )
            woven = _weave(made, flow, woven.ends)
        return woven

    def enqueue(self, *, id: str | None = None) -> Job[R]:
        """Hand it over: see Workflow.enqueue(). The job of its last step, whose result is that of the whole."""
        flow = Workflow(id=id)
        ends = self.weave(flow, ()).ends
        if len(ends) != 1:
            raise ConfigError("this ends with a group: add a step that takes the results, .then(task)")
        return flow.enqueue().job(ends[0])

    async def aenqueue(self, *, id: str | None = None) -> Job[R]:
        """enqueue(), without blocking the loop: see Task.aenqueue()."""
        return await enqueue_off_loop(lambda: self.enqueue(id=id), id)


class Group(Part[list[R]]):
    """Parts beside each other. Made by group() and Task.map()."""

    def __init__(self, parts: tuple[Source[R], ...]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def weave(self, flow: Workflow, after: tuple[Node[Any], ...]) -> Woven:
        woven = [_weave(part, flow, after) for part in self._parts]
        ends = tuple(dict.fromkeys(end for one in woven for end in one.ends))
        return Woven([one.value for one in woven], ends or after)

    def enqueue(self, *, id: str | None = None) -> GroupJob[R]:
        """Hand it over: see Workflow.enqueue()."""
        from queuekit.workflow.handles import GroupJob

        flow = Workflow(id=id)
        woven = [_weave(part, flow, ()).ends for part in self._parts]
        if any(len(ends) != 1 for ends in woven):
            raise ConfigError("a member of it ends with a group: add a step that takes the results, .then(task)")
        made = flow.enqueue()
        return GroupJob(made, [made.job(ends[0]) for ends in woven])

    async def aenqueue(self, *, id: str | None = None) -> GroupJob[R]:
        """enqueue(), without blocking the loop: see Task.aenqueue()."""
        return await enqueue_off_loop(lambda: self.enqueue(id=id), id)


def _weave(part: Source[Any], flow: Workflow, after: tuple[Node[Any], ...]) -> Woven:
    if isinstance(part, Part):
        return part.weave(flow, after)
    if not isinstance(part, Call):
        raise ConfigError(f"{part!r} in a workflow: calls made by task.bind(...), chain(), group() and chord()")
    node = flow.add(part, after=after)
    return Woven(node.result, (node,))


# ---- to make them --------------------------------------------------------------------------------------------------


@overload
def chain(first: Source[T1], s1: Next[T1, T2], /) -> Flow[T2]: ...
@overload
def chain(first: Source[T1], s1: Next[T1, T2], s2: Next[T2, T3], /) -> Flow[T3]: ...
@overload
def chain(first: Source[T1], s1: Next[T1, T2], s2: Next[T2, T3], s3: Next[T3, T4], /) -> Flow[T4]: ...
@overload
def chain(first: Source[T1], s1: Next[T1, T2], s2: Next[T2, T3], s3: Next[T3, T4], s4: Next[T4, T5], /) -> Flow[T5]: ...
@overload
def chain(
    first: Source[T1], s1: Next[T1, T2], s2: Next[T2, T3], s3: Next[T3, T4], s4: Next[T4, T5], s5: Next[T5, T6], /
) -> Flow[T6]: ...
def chain(first: Source[Any], *steps: Any) -> Flow[Any]:
    """Steps one after the other, each with the result of the one before.

    Args:
        first: a call, or another part.
        steps: tasks that take one argument, or functions from the result before to a call or to another part:
            `lambda text: shorten.bind(text, words=50)`. Up to five, as type checkers see it; .then() takes one more.
    """
    return Flow(first, steps)


def group(parts: Iterable[Source[R]], /) -> Group[R]:
    """Parts beside each other; their results are a list, in their order."""
    return Group(tuple(parts))


def chord(parts: Iterable[Source[R]], callback: Next[list[R], B], /) -> Flow[B]:
    """A group, and after it the callback, which gets the list of all results: `group(parts).then(callback)`."""
    return Flow(Group(tuple(parts)), (callback,))
