"""Steps: what an attempt keeps of its way, for the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import AGAIN, BACK, BAD, OK, plan

from queuekit.store import Kept, StepsFull

if TYPE_CHECKING:
    from store_world import World

LIMIT = 1000
DAY = 86400.0


@pytest.fixture
def running(world: World) -> World:
    """Its job `j` runs under the fence t1."""
    world.new()
    world.run()
    return world


def keep(
    world: World, step: str, text: str, *, token: str = "t1", number: int | None = None
) -> Kept | StepsFull | None:
    return world.store.keep_step("j", token, step, number, text, LIMIT)


def again(world: World, token: str) -> None:
    world.advance(20)
    world.run("j", token, seen=world.get().state)


def test_what_is_kept_is_found_by_the_next_attempt(running: World) -> None:
    first = keep(running, "plan#0", '{"a":"ä|"}', number=1)
    assert first == Kept(number=1, attempt=1, at=running.now, text='{"a":"ä|"}')
    second = keep(running, "draft:x", "null")
    assert second == Kept(number=None, attempt=1, at=running.now, text="null")
    assert running.store.retry("j", "t1", AGAIN, 10.0, "state")
    again(running, "t2")
    assert running.store.steps("j", "t2") == {"plan#0": first, "draft:x": second}
    third = keep(running, "send", "1", token="t2", number=2)
    assert isinstance(third, Kept)
    assert third.attempt == 2


def test_the_first_result_stays(running: World) -> None:
    """Also where the reply was lost, and it is told once more."""
    first = keep(running, "plan", "1", number=1)
    running.advance(1)
    assert keep(running, "plan", "2", number=1) == first
    assert running.store.begin_step("j", "t1", "plan", 1)
    assert running.store.forget_step("j", "t1", "plan")
    assert running.store.steps("j") == {"plan": first}


def test_a_beginning_is_noted_replaced_and_taken_back(running: World) -> None:
    assert running.store.begin_step("j", "t1", "pay:7", None)
    assert running.store.steps("j", "t1") == {"pay:7": Kept(None, 1, running.now, None)}
    running.advance(1)
    assert running.store.begin_step("j", "t1", "pay:7", None)
    assert running.store.steps("j") == {"pay:7": Kept(None, 1, running.now, None)}
    assert running.store.forget_step("j", "t1", "pay:7")
    assert running.store.forget_step("j", "t1", "pay:7")
    assert running.store.steps("j") == {}
    assert running.store.begin_step("j", "t1", "pay:7", None)
    kept = keep(running, "pay:7", '"begun"')
    assert isinstance(kept, Kept)
    assert kept.text == '"begun"'


def test_a_fence_that_is_not_ours_keeps_nothing(running: World) -> None:
    store = running.store
    kept = keep(running, "plan", "1", number=1)
    for token in ("t0", ""):
        assert keep(running, "draft", "2", token=token) is None
        assert store.begin_step("j", token, "draft", None) is False
        assert store.forget_step("j", token, "plan") is False
    assert store.steps("j", "t0") is None
    assert store.steps("nobody", "t1") is None
    assert store.steps("nobody") == {}
    store.retry("j", "t1", AGAIN, 10.0, "state")
    assert keep(running, "draft", "2") is None
    assert store.steps("j", "t1") is None
    assert store.steps("j") == {"plan": kept}


def test_so_many_bytes_in_all(running: World) -> None:
    store = running.store
    assert isinstance(store.keep_step("j", "t1", "a", 1, "ä" * 4, 10), Kept)
    assert store.keep_step("j", "t1", "b", 2, "123", 10) == StepsFull(11)
    assert set(store.steps("j") or ()) == {"a"}
    assert isinstance(store.keep_step("j", "t1", "b", 2, "12", 10), Kept)
    assert store.keep_step("j", "t1", "c", 3, "1", 10) == StepsFull(11)


def test_they_stay_until_the_job_has_succeeded(running: World) -> None:
    kept = keep(running, "plan", "1", number=1)
    running.store.release("j", "t1", BACK, 0.0)
    again(running, "t2")
    assert running.store.steps("j", "t2") == {"plan": kept}
    running.store.finish("j", "t2", OK, "42")
    assert running.store.steps("j") == {}
    if running.server is not None:
        assert "steps:j" not in running.key_names()


def test_they_outlive_a_worker(running: World) -> None:
    kept = keep(running, "plan", "1", number=1)
    running.store.leave("w")
    again(running, "t2")
    assert running.store.steps("j", "t2") == {"plan": kept}


@pytest.mark.parametrize("anew", [False, True])
def test_a_revival_goes_on_from_them_or_anew(running: World, anew: bool) -> None:
    kept = keep(running, "plan", "x" * LIMIT, number=1)
    running.store.fail("j", "t1", BAD, "no rule")
    running.advance(29 * DAY)
    assert running.store.revive("j", anew=anew) is not None
    running.advance(29 * DAY)
    running.run("j", "t2")
    assert running.store.steps("j", "t2") == ({} if anew else {"plan": kept})
    assert isinstance(keep(running, "draft", "y", token="t2"), Kept if anew else StepsFull)


def test_they_go_with_the_record(running: World) -> None:
    keep(running, "plan", "1", number=1)
    running.store.fail("j", "t1", BAD, "no rule")
    running.advance(30 * DAY + 1)
    assert running.store.get("j") is None
    assert running.store.steps("j") == {}
    if running.server is not None:
        assert "steps:j" not in running.key_names()


def test_a_cancelled_job_keeps_them_as_long_as_its_record(running: World) -> None:
    keep(running, "plan", "1", number=1)
    running.store.cancelled("j", "t1", OK, "asked to")
    running.advance(7 * DAY - 1)
    assert set(running.store.steps("j") or ()) == {"plan"}
    running.advance(2)
    assert running.store.steps("j") == {}


def test_an_attempt_that_others_end_keeps_them(running: World) -> None:
    running.store.release("j", "t1", BACK, 0.0)
    running.advance(20)
    running.run("j", "t2", on_lost=plan(None, reason="lost too often"))
    keep(running, "plan", "1", token="t2", number=1)
    running.store.leave("w")
    assert running.get().status == "failed"
    assert set(running.store.steps("j") or ()) == {"plan"}


# ---- progress ------------------------------------------------------------------------------------------------------


def test_progress_is_noted_under_the_fence_and_seen(running: World) -> None:
    store = running.store
    before = store.glimpse("j")
    assert before is not None
    assert store.glimpse("j") == before
    assert store.progress("j", "t0", "[0,1,null]") is False
    assert store.glimpse("j") == before
    assert store.progress("j", "t1", '[1,2,"|"]')
    assert store.glimpse("j") != before
    assert running.get().progress == f'{running.clock.ms}|1|[1,2,"|"]'
    before = store.glimpse("j")
    store.release("j", "t1", BACK, 0.0)
    assert store.progress("j", "t1", "[2,2,null]") is False
    assert store.glimpse("j") != before
    assert running.get().progress == f'{running.clock.ms}|1|[1,2,"|"]'
    assert store.glimpse("nobody") is None
