"""Most jobs of a task differ in their id and their arguments alone: what is alike in them is made once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from queuekit.message import Message, as_sorted, digest_of, digest_of_text
from queuekit.payload.arguments import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.errors import EnqueueError
    from queuekit.payload.arguments import Arguments
    from queuekit.store import Created, Creating, NewJob, Wire
    from queuekit.task import Call

__all__ = ["Batch", "Prepared", "Template"]


@dataclass(slots=True)  # one is made for each job: see Arguments
class Prepared:
    """A job that is about to be recorded. `like`: its message, but for what `arguments` says where there are such."""

    new: NewJob
    wire: Wire | None
    like: Message
    arguments: Arguments | None = None

    @property
    def message(self) -> Message:
        found = self.arguments
        return self.like if found is None else replace(self.like, id=self.new.id, args=found.args, kwargs=found.kwargs)


@dataclass(slots=True)
class Batch:
    """Jobs that are recorded in one step; where a hook stands around the record of each, one by one.

    Attributes:
        made: what became of them: of those before one that was refused, where there is such a one.
        broken: why not all of them are recorded.
        creating: what asks the store for all of them, where that has been prepared.
    """

    calls: Sequence[Call[Any]]
    jobs: list[Prepared]
    made: list[Created] = field(default_factory=list)
    broken: EnqueueError | None = None
    creating: Creating | None = None

    def start(self) -> None:
        """Ask the store, so that whoever records it has but to wait for the answer."""
        if self.creating is not None:
            self.creating.start()

    def drop(self) -> None:
        """Nobody is going to wait for the store's answer."""
        if self.creating is not None:
            self.creating.drop()


class Template:
    """Of jobs whose messages are `like` one, but for id and arguments. Those are not signed, nor encoded by a codec.

    Attributes:
        wire: of such a job, by its id and arguments: see Wiring.
    """

    __slots__ = ("_after", "_before", "_digest_after", "_digest_before", "like", "route", "wire")

    def __init__(self, like: Message, wire: Callable[[str, Arguments], Wire]) -> None:
        self.like, self.route, self.wire = like, like.route, wire
        text = replace(like, id="", args=[], kwargs={}).seal()
        self._before = f'","task":{as_json(like.task)},"args":'
        start = f'{{"id":"{self._before}[],"kwargs":{{}}'
        assert text.startswith(start), "its fields stand in the order in which they were declared"
        self._after = text[len(start) :]
        self._digest_before = f"[{as_sorted(like.task)},"
        self._digest_after = f",{as_sorted([like.queue, like.backend, like.priority])[1:]}"

    def seal(self, id: str, arguments: Arguments) -> str:
        """Message.seal()."""
        return f'{{"id":"{id}{self._before}{arguments.args_text},"kwargs":{arguments.kwargs_text}{self._after}'

    def digest(self, arguments: Arguments) -> str:
        """Message.digest."""
        like = self.like
        if arguments.plain:  # its texts are those that the digest is of
            text = f"{self._digest_before}{arguments.args_text},{arguments.kwargs_text}{self._digest_after}"
            return digest_of_text(text)
        return digest_of(like.task, arguments.args, arguments.kwargs, like.queue, like.backend, like.priority)
