"""The loop that takes messages, with a source and a runner that say what they are told to."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from queuekit.adapters import BrokerAway
from queuekit.adapters.aio import CAPPED, MOST, fetch_all
from queuekit.execution.caps import Room
from queuekit.execution.outcomes import Delivery
from queuekit.message import Doorbell

if TYPE_CHECKING:
    from collections.abc import Sequence


class World:
    """Both sides. Each turn is the room that there is, and what the source has then."""

    def __init__(self, *turns: tuple[Room | None, Sequence[str] | Exception], last: Sequence[str] = ()) -> None:
        self.turns, self.last = list(turns), last
        self.did: list[Any] = []
        self.found: Sequence[str] | Exception = ()
        self.stopping = threading.Event()
        waits = SimpleNamespace(is_set=self.stopping.is_set, wait=lambda seconds: self.did.append("waits"))
        self.worker: Any = SimpleNamespace(stopping=waits)
        fetch_all(self.worker, self, self)  # type: ignore[arg-type]

    # ---- the runner
    def room(self, timeout: float) -> Room | None:
        room, self.found = self.turns.pop(0) if self.turns else (Room(1), self.last)
        if not self.turns and room == Room(1):
            self.stopping.set()
        return room

    def take(self, deliveries: Sequence[tuple[str, Delivery]]) -> None:
        self.did.append([key for key, _ in deliveries])

    def pause(self, seconds: float) -> None:
        assert seconds == CAPPED
        self.did.append("pauses")

    def give_back(self) -> list[str]:
        return ["kept"]

    # ---- the source
    def look_around(self) -> None: ...

    def fetch(self, room: Room) -> Sequence[str]:
        self.did.append(room.most)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def delivery(self, message: str) -> Delivery:
        return Delivery(Doorbell(message, "t", 1, "e", "rq:q:0"), [], {})

    def put_back(self, messages: Sequence[str]) -> None:
        self.did.append(("back", list(messages)))

    def settle(self, said: Sequence[object]) -> None: ...


END = [1, ("back", ["kept"])]


def test_it_takes_what_there_is_room_for() -> None:
    assert World((Room(7), ["a", "b"]), (None, ["c"]), (Room(999), [])).did == [7, ["a", "b"], MOST, *END]


def test_while_others_wait_for_a_job_to_end_it_rests_between_two_looks() -> None:
    held = Room(5, {"q": 0}, wait=False)
    assert World((held, []), (held, ["a"]), (Room(5), [])).did == [5, "pauses", 5, ["a"], 5, *END]


def test_what_comes_with_the_stop_goes_back_behind_what_was_kept() -> None:
    assert World(last=["a", "b"]).did == [1, ("back", ["kept", "a", "b"])]


@pytest.mark.parametrize("error", [BrokerAway("away"), RuntimeError("a bug")])
def test_a_broker_that_is_away_is_asked_now_and_then(error: Exception) -> None:
    assert World((Room(5), error), (Room(5), ["a"])).did == [5, "waits", 5, ["a"], *END]
