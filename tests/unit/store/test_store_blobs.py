"""Steps whose results lie outside of the record, on every store."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from store_world import AGAIN

from queuekit import Settings
from queuekit.blobs import Directory
from queuekit.execution import Held
from queuekit.execution.steps import Steps
from queuekit.message import Message
from queuekit.retry import RetryState

if TYPE_CHECKING:
    from pathlib import Path

    from store_world import World

OVER = 300


def steps_of(world: World, folder: Path, id: str, token: str, number: int) -> Steps:
    message = Message(id, "t", [], {}, "default", "rq")
    held = Held(None, message, token, number, RetryState(), 0.0, 0.0, 0.0)
    return Steps(world.store, held, Settings(blobs=Directory(folder), blob_over=OVER))


_ids = (f"job-{number}" for number in itertools.count())


def test_any_result_is_kept_and_found_by_the_next_attempt(world: World, tmp_path: Path) -> None:
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.text(st.characters(codec="utf-8"), max_size=2 * OVER))
    @example("x" * (OVER - 2))
    @example("x" * (OVER - 1))
    @example("\0é\ud7ff" * OVER)
    def holds(text: str) -> None:
        id = next(_ids)
        world.new(id)
        world.run(id, "t1")
        ran: list[str] = []

        def give() -> str:
            ran.append(text)
            return text

        first = steps_of(world, tmp_path, id, "t1", 1)
        assert first.run(first.place("give", None, "rerun"), give, (), {}) == text
        assert world.store.retry(id, "t1", AGAIN, 10.0, "state")
        world.advance(20)
        world.run(id, "t2", seen=world.get(id).state)
        second = steps_of(world, tmp_path, id, "t2", 2)
        assert second.run(second.place("give", None, "rerun"), give, (), {}) == text
        assert ran == [text]
        (kept,) = (world.store.steps(id) or {}).values()
        assert kept.text is not None
        outside = kept.text.startswith("blob:")
        assert outside == (tmp_path / "default" / id).exists()
        assert len(kept.text.encode()) <= OVER
        again = steps_of(world, tmp_path, id, "t2", 2)  # the answer was lost, and it is told once more
        assert again.run(again.place("give", None, "rerun"), give, (), {}) == text

    holds()
