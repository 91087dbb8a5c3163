"""From create() to a doorbell: what is recorded, due, published, and found again when it was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import LEASE, OUTBOX, START, R

from queuekit.job import JobStatus
from queuekit.store import Claimed, Created, Taken

if TYPE_CHECKING:
    from store_world import World


# ---- create --------------------------------------------------------------------------------------------------------


def test_a_job_for_now_is_queued_with_a_number_to_publish(world: World) -> None:
    made = world.new("j")
    assert made == Created(created=True, same=True, epoch=world.store.epoch(), pseq=1, number=1)
    record = world.get("j")
    assert (record.status, record.pseq, record.attempt, record.due) == (JobStatus.queued, 1, 0, None)
    assert (record.message, record.route, record.created, record.result_ttl) == ('{"id":"j"}', R, START / 1000, 3600.0)
    assert (record.runs, record.finished, record.cancel_requested, record.reason) == ((), None, None, "")


@pytest.mark.parametrize("how", ["at", "delay"])
def test_a_job_for_later_is_scheduled_and_nothing_is_published(world: World, how: str) -> None:
    made = world.new("j", at=world.now + 60) if how == "at" else world.new("j", delay=60.0)
    assert (made.created, made.pseq) == (True, None)
    assert world.get("j").status is JobStatus.scheduled
    assert world.get("j").due == world.now + 60
    world.advance(OUTBOX + LEASE)
    assert world.store.take_lost(R, 10) == []


def test_a_moment_that_has_passed_is_now(world: World) -> None:
    assert world.new("j", at=world.now - 5).pseq == 1
    assert world.new("k", at=world.now).pseq == 2


def test_a_lost_reply_to_create_can_be_asked_for_again(world: World) -> None:
    first = world.new("j", token="mine")
    assert world.new("j", token="mine") == first
    assert world.new("s", token="mine", delay=60) == world.new("s", token="mine", delay=60)
    assert world.get("j").pseq == 1  # nothing was published twice


def test_after_it_has_started_a_repeated_create_gives_nothing_to_publish(world: World) -> None:
    world.new("j", token="mine")
    world.run("j")
    again = world.new("j", token="mine")
    assert (again.created, again.same, again.pseq) == (True, True, None)


def test_the_same_id_again_finds_the_existing_job(world: World) -> None:
    world.new("j", token="mine", digest="d1")
    assert world.new("j", token="other", digest="d1") == Created(False, True, world.store.epoch(), None, 1)
    assert world.new("j", token="another", digest="d2") == Created(False, False, world.store.epoch(), None, 1)
    assert world.get("j").pseq == 1


def test_each_route_has_numbers_of_its_own(world: World) -> None:
    assert [world.new(id, route=route).pseq for id, route in [("a", R), ("b", R), ("c", "rq:other:0")]] == [1, 2, 1]
    world.new("d", route="celery:default:9")
    assert world.store.routes("rq") == [R, "rq:other:0"]
    assert world.store.routes("celery") == ["celery:default:9"]
    assert world.store.routes("dramatiq") == []


def test_asking_about_a_route_does_not_make_it_known(world: World) -> None:
    world.store.mark("rq:never:0", 0)
    assert world.store.take_lost("rq:never:0", 10) == []
    assert world.store.take_due("rq:never:0", 10) == []
    assert world.store.routes("rq") == []


@pytest.mark.parametrize(
    "text",
    ["", "x" * 2**20, "日本 🦜 \x00 \r\n $-1 |7|", "half an emoji: \ud83e", "{}[]'\"\\%s"],
    ids=["empty", "1 MiB", "unicode", "lone surrogate", "signs"],
)
def test_every_text_comes_back_as_it_went_in(world: World, text: str) -> None:
    world.new("j", message=text)
    assert world.get("j").message == text
    assert world.run("j").message == text
    assert world.store.finish("j", "t1", "{}", text)
    assert world.store.result("j") == text
    world.store.quarantine(text, f"reason {text[:40]}")
    (kept,) = world.store.quarantined(5)
    assert (kept.raw, kept.reason) == (text, f"reason {text[:40]}")


def test_an_unknown_job_is_none(world: World) -> None:
    assert world.store.get("nobody") is None
    assert world.store.result("nobody") is None


# ---- due -----------------------------------------------------------------------------------------------------------


def test_nothing_is_published_before_its_time_and_then_it_is(world: World) -> None:
    world.new("j", delay=10)
    world.clock.ms += 9_999
    assert world.store.take_due(R, 10) == []
    world.clock.ms += 1
    assert world.store.take_due(R, 10) == [Taken('{"id":"j"}', 1, 1, world.store.epoch())]
    assert (world.get("j").status, world.get("j").due) == (JobStatus.queued, None)
    assert world.store.take_due(R, 10) == []


def test_a_fraction_of_a_millisecond_never_makes_it_earlier(world: World) -> None:
    world.new("j", delay=0.0101)
    world.clock.ms += 10
    assert world.store.take_due(R, 10) == []
    world.clock.ms += 1
    assert len(world.store.take_due(R, 10)) == 1


def test_the_earliest_first_and_no_more_than_asked_for(world: World) -> None:
    for id, delay in [("c", 3), ("a", 1), ("d", 4), ("b", 2), ("later", 99)]:
        world.new(id, delay=delay)
    world.advance(10)
    assert world.ids(world.store.take_due(R, 3)) == ["a", "b", "c"]
    assert world.ids(world.store.take_due(R, 3)) == ["d"]
    assert world.ids(world.store.take_due(R, 3)) == []


def test_due_is_asked_for_by_route(world: World) -> None:
    world.new("a", delay=1)
    world.new("b", delay=1, route="rq:other:0")
    world.advance(1)
    assert world.ids(world.store.take_due("rq:other:0", 10)) == ["b"]
    assert world.ids(world.store.take_due(R, 10)) == ["a"]


def test_numbers_count_the_publications_of_the_route_and_of_the_job(world: World) -> None:
    world.new("first")
    world.new("j", delay=1)
    world.advance(1)
    (taken,) = world.store.take_due(R, 10)
    assert (taken.pseq, taken.number) == (2, 1)
    world.run("j", pseq=2)
    world.store.retry("j", "t1", "{}", 5, "s")
    world.advance(5)
    (taken,) = world.store.take_due(R, 10)
    assert (taken.pseq, taken.number) == (3, 2)


# ---- the outbox: a crash between two operations --------------------------------------------------------------------


def test_created_and_never_published_is_published_after_the_outbox_time(world: World) -> None:
    world.new("j")
    world.clock.ms += 4_999
    assert world.store.take_lost(R, 10) == []
    world.clock.ms += 1
    assert world.store.take_lost(R, 10) == [Taken('{"id":"j"}', 2, 2, world.store.epoch())]
    assert world.store.take_lost(R, 10) == []  # in the outbox anew
    world.advance(OUTBOX)
    assert [row.pseq for row in world.store.take_lost(R, 10)] == [3]


def test_taken_as_due_and_never_published_is_published_after_the_outbox_time(world: World) -> None:
    world.new("j", delay=1)
    world.advance(1)
    world.store.take_due(R, 10)
    assert world.store.take_lost(R, 10) == []
    world.advance(OUTBOX)
    assert [(row.pseq, row.number) for row in world.store.take_lost(R, 10)] == [(2, 2)]


def test_what_the_broker_has_leaves_the_outbox(world: World) -> None:
    world.new("a")
    world.new("b")
    world.store.published(R, [("a", 1), ("b", 2)])
    world.store.published(R, [("a", 1)])  # again
    world.store.published(R, [])
    world.store.published(R, [("nobody", 1)])
    world.advance(10 * OUTBOX)
    assert world.store.take_lost(R, 10) == []


def test_an_old_publication_does_not_clear_the_new_one(world: World) -> None:
    world.new("j")
    world.advance(OUTBOX)
    assert [row.pseq for row in world.store.take_lost(R, 10)] == [2]
    world.store.published(R, [("j", 1)])
    world.advance(OUTBOX)
    assert [row.pseq for row in world.store.take_lost(R, 10)] == [3]
    world.store.published(R, [("j", 3)])
    world.advance(OUTBOX)
    assert world.store.take_lost(R, 10) == []


def test_a_job_that_has_started_is_not_published_again(world: World) -> None:
    world.new("j")
    world.run("j")
    world.advance(OUTBOX + LEASE)
    assert world.store.take_lost(R, 10) == []


def test_an_outbox_entry_of_a_clock_that_was_set_back_does_not_wait_for_it(world: World) -> None:
    world.new("j")
    world.clock.ms -= 3_600_000
    assert [row.pseq for row in world.store.take_lost(R, 10)] == [2]


def test_no_more_are_taken_as_lost_than_asked_for(world: World) -> None:
    for id in "abcd":
        world.new(id)
        world.clock.ms += 1
    world.advance(OUTBOX)
    assert world.ids(world.store.take_lost(R, 3)) == ["a", "b", "c"]
    assert world.ids(world.store.take_lost(R, 3)) == ["d"]


# ---- the mark: a message that the broker has lost ------------------------------------------------------------------


def publish(world: World, *ids: str) -> None:
    for id in ids:
        made = world.new(id)
        assert made.pseq is not None
        world.store.published(R, [(id, made.pseq)])


def test_what_the_mark_of_one_lease_ago_has_passed_was_lost(world: World) -> None:
    publish(world, "a", "b", "c", "d")
    world.run("c", pseq=3)
    world.store.mark(R, None)
    world.clock.ms += int(LEASE * 1000) - 1
    world.store.mark(R, None)
    assert world.store.take_lost(R, 10) == []
    world.clock.ms += 1
    assert [(row.pseq, row.number) for row in world.store.take_lost(R, 10)] == [(5, 2), (6, 2)]
    assert (world.get("a").pseq, world.get("b").pseq, world.get("d").pseq) == (5, 6, 4)
    assert world.store.take_lost(R, 10) == []  # they wait behind d now


def test_without_a_mark_nothing_is_known_to_be_lost(world: World) -> None:
    publish(world, "a", "b")
    world.run("b", pseq=2)
    world.advance(10 * LEASE)
    assert world.store.take_lost(R, 10) == []  # nobody has noted the mark yet
    world.store.mark(R, None)
    assert world.store.take_lost(R, 10) == []
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["a"]


def test_the_mark_stays_as_old_as_it_is_however_often_it_is_noted(world: World) -> None:
    publish(world, "a", "b")
    world.run("b", pseq=2)
    for _ in range(30):
        world.store.mark(R, 7)
        world.advance(1)
    assert world.ids(world.store.take_lost(R, 10)) == ["a"]


def test_a_mark_that_moves_on_does_not_hide_the_older_one(world: World) -> None:
    publish(world, "a")
    lost: list[tuple[int, str]] = []
    for number in range(2, 40):
        publish(world, f"b{number}")
        world.run(f"b{number}", f"t{number}", pseq=number)
        world.store.mark(R, None)
        world.advance(1)
        for taken in world.store.take_lost(R, 10):
            lost.append((number, world.ids([taken])[0]))
            world.store.published(R, [("a", taken.pseq)])
    assert lost == [(31, "a")]  # 30 s after the first claim beyond it


def test_an_empty_broker_has_been_passed_by_all_that_was_sent_to_it(world: World) -> None:
    publish(world, "a", "b")
    world.store.mark(R, 0)
    world.advance(1)
    publish(world, "c")
    world.store.mark(R, 1)
    world.advance(LEASE - 1)
    assert world.ids(world.store.take_lost(R, 10)) == ["a", "b"]


def test_a_broker_whose_depth_is_unknown_or_not_zero_is_not_empty(world: World) -> None:
    publish(world, "a")
    for depth in (None, 1, 10):
        world.store.mark(R, depth)
        world.advance(LEASE)
        assert world.store.take_lost(R, 10) == []


def test_marks_of_one_millisecond_count_as_the_last_of_them(world: World) -> None:
    publish(world, *(f"j{number}" for number in range(1, 13)))
    world.run("j9", "t9", pseq=9)
    world.store.mark(R, None)
    world.run("j10", "t10", pseq=10)
    world.store.mark(R, None)
    world.run("j12", "t12", pseq=12)
    world.store.mark(R, None)
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 20)) == [f"j{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 11)]


def test_a_doorbell_with_a_number_that_was_never_given_moves_the_mark_no_further_than_the_last_one(
    world: World,
) -> None:
    publish(world, "a", "b")
    world.run("b", pseq=10**12)
    world.store.mark(R, None)
    publish(world, "c")
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["a"]


def test_an_old_doorbell_does_not_take_the_mark_back(world: World) -> None:
    publish(world, "a", "b", "c")
    world.run("c", "t-c", pseq=3)
    world.run("a", "t-a", pseq=1)
    world.store.mark(R, None)
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["b"]


def test_a_job_that_was_lost_in_two_ways_is_taken_once(world: World) -> None:
    world.new("a")
    world.new("b")
    world.store.mark(R, 0)
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["a", "b"]
    assert world.get("b").pseq == 4


def test_a_doorbell_of_another_route_does_not_move_the_mark(world: World) -> None:
    publish(world, "a", "b")
    world.new("other", route="rq:other:0")
    world.run("b", pseq=2, route="rq:other:0")
    world.store.mark(R, None)
    world.store.mark("rq:other:0", None)
    world.advance(LEASE)
    assert world.store.take_lost(R, 10) == []
    assert world.ids(world.store.take_lost("rq:other:0", 10)) == ["other"]  # it was never published at all


def test_a_doorbell_that_is_dropped_moves_the_mark_too(world: World) -> None:
    publish(world, "a", "b")
    world.run("b", pseq=2)
    publish(world, "c")
    world.claim("b", "t2", pseq=3)  # Busy
    world.store.mark(R, None)
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["a", "c"]


def test_marks_of_a_clock_that_was_set_back_start_anew(world: World) -> None:
    publish(world, "a", "b")
    world.run("b", pseq=2)
    world.store.mark(R, None)
    world.clock.ms -= 3_600_000
    world.store.mark(R, None)
    world.clock.ms += int(LEASE * 1000) - 1
    assert world.store.take_lost(R, 10) == []
    world.clock.ms += 1
    assert world.ids(world.store.take_lost(R, 10)) == ["a"]


def test_an_old_doorbell_and_its_replacement_start_the_job_once(world: World) -> None:
    publish(world, "j")
    world.store.mark(R, 0)
    world.advance(LEASE)
    assert world.ids(world.store.take_lost(R, 10)) == ["j"]
    assert world.run("j", "t1", pseq=1).number == 1
    assert not isinstance(world.claim("j", "t2", pseq=2), Claimed)
