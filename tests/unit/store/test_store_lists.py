"""What people ask for: lists of jobs, counts by route, workers; and emptying a queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from store_world import AGAIN, BACK, BAD, LEASE, OK, OUTBOX, R, list_all

from queuekit.job import JobStatus
from queuekit.message import Message
from queuekit.store import Consumer, Listed, Query, RouteCount
from queuekit.store.views import LOOK, task_of

if TYPE_CHECKING:
    from store_world import World

    from queuekit.store import Page

OTHER = "celery:mail:6"


def message(id: str, task: str = "tasks.work", **more: Any) -> str:
    return Message(id=id, task=task, args=['"task":"not.this"'], kwargs={}, queue="q", backend="rq", **more).seal()


def ids(world: World, **query: Any) -> str:
    return " ".join(one.id for one in list_all(world, **query))


def statuses(*names: str) -> frozenset[JobStatus]:
    return frozenset(JobStatus(name) for name in names)


@pytest.fixture
def one_of_each(world: World) -> World:
    """A job in each state, named after it, enqueued a second apart; and the moments at which three of them ended."""
    names = ["scheduled", "queued", "retrying", "released", "running", "succeeded", "failed", "cancelled"]
    for name in names:
        world.advance(1)
        world.new(name, delay=60 if name == "scheduled" else None, message=message(name))
    for name in names[2:]:
        world.run(name, f"t-{name}")
    world.store.retry("retrying", "t-retrying", AGAIN, 10.0, "")
    world.store.release("released", "t-released", BACK, 10.0)
    world.advance(1)
    world.store.finish("succeeded", "t-succeeded", OK, "1")
    world.advance(1)
    world.store.cancelled("cancelled", "t-cancelled", OK, "not wanted")
    world.advance(1)
    world.store.fail("failed", "t-failed", BAD, "no rule")
    return world


# ---- lists ---------------------------------------------------------------------------------------------------------


def test_jobs_stand_where_they_were_enqueued_and_then_where_they_ended(one_of_each: World) -> None:
    oldest = "scheduled queued retrying released running succeeded cancelled failed"
    assert ids(one_of_each, newest_first=False) == oldest
    assert ids(one_of_each) == " ".join(reversed(oldest.split()))


def test_what_a_list_says_of_a_job(one_of_each: World) -> None:
    world = one_of_each
    rows = {one.id: one for one in list_all(world)}
    record = world.get("failed")
    started = record.runs[-1][0]["at"]
    assert rows["failed"] == Listed(
        id="failed",
        task="tasks.work",
        moment=world.now,
        status=JobStatus.failed,
        route=R,
        attempt=1,
        created=record.created,
        started=started,
        finished=world.now,
        reason="no rule",
        worker="w",
        ready=None,
    )
    queued = rows["queued"]
    assert (queued.moment, queued.started, queued.finished, queued.worker) == (queued.created, None, None, "")
    assert rows["scheduled"].ready == rows["scheduled"].created + 60
    assert rows["released"].status is JobStatus.queued


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("scheduled", "scheduled"),
        ("queued", "released queued"),
        ("retrying", "retrying"),
        ("running", "running"),
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("running failed queued", "failed running released queued"),
    ],
)
def test_by_status(one_of_each: World, wanted: str, found: str) -> None:
    assert ids(one_of_each, statuses=statuses(*wanted.split())) == found


def test_by_task_queue_and_backend(world: World) -> None:
    for number, (task, route) in enumerate(
        [("tasks.a", R), ("tasks.b", R), ("tasks.a", OTHER), ("tasks.a", "rq:mail:0"), ("tasks.ab", R)]
    ):
        world.advance(1)
        world.new(f"j{number}", message=message(f"j{number}", task), route=route)
    assert ids(world, task="tasks.a") == "j3 j2 j0"
    assert ids(world, queue="mail") == "j3 j2"
    assert ids(world, backend="celery") == "j2"
    assert ids(world, task="tasks.a", queue="mail", backend="rq") == "j3"
    assert ids(world, task="tasks.a", statuses=statuses("running")) == ""
    assert ids(world, queue="mai") == ids(world, task="tasks") == ids(world, backend="dramatiq") == ""


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_pages_are_the_whole_list_though_all_have_one_moment(world: World, n: int, newest_first: bool) -> None:
    names = ["a", "B", "_x", "-y", "Z", "a0", "0", "aa", "b", "10", "9"]
    for name in names:
        world.new(name)
    for name in names[::2]:
        world.run(name, f"t-{name}")
    for name in names[::4]:
        world.store.finish(name, f"t-{name}", OK, None)
    found = [one.id for one in list_all(world, n, newest_first=newest_first)]
    assert found == sorted(names, reverse=newest_first)  # by bytes, on any locale


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_page_after_a_job_that_has_moved_goes_on_where_it_was(world: World, newest_first: bool) -> None:
    for name in "abcdef":
        world.new(name)
        world.advance(1)
    query = Query(newest_first=newest_first)
    page = world.store.jobs(query, 2)
    last = page.jobs[-1].id
    world.run(last, "t")
    world.store.finish(last, "t", OK, None)
    rest = world.store.jobs(query, 10, page.cursor)
    assert [one.id for one in rest.jobs] == (["d", "c", "b", "a"] if newest_first else ["c", "d", "e", "f", "b"])
    assert rest.cursor is None


def test_a_page_looks_at_a_bounded_number_of_jobs(world: World) -> None:
    for number in range(LOOK + 10):
        world.new(f"j{number:04}", delay=60, message=message(f"j{number:04}", "tasks.rare" if number < 5 else "t"))
    query = Query(task="tasks.rare")
    first = world.store.jobs(query, 100)
    assert (first.jobs, first.cursor is None) == ((), False)
    second = world.store.jobs(query, 100, first.cursor)
    assert [one.id for one in second.jobs] == [f"j{number:04}" for number in (4, 3, 2, 1, 0)]
    assert second.cursor is None


def test_a_page_looks_at_a_bounded_number_of_bytes(redis_world: World) -> None:
    for number in range(8):
        redis_world.new(f"j{number}", message=message(f"j{number}", headers={"x": "y" * 2**20}))
    page: Page = redis_world.store.jobs(Query(), 100)
    assert [one.id for one in page.jobs] == ["j7", "j6", "j5", "j4"]
    assert len(list_all(redis_world, 100)) == 8


def test_an_empty_store_has_one_empty_page(world: World) -> None:
    page = world.store.jobs(Query(), 10)
    assert (page.jobs, page.cursor) == ((), None)
    assert (world.store.counts(), world.store.consumers()) == ([], [])


def test_a_cursor_of_nobody_is_refused(world: World) -> None:
    with pytest.raises(ValueError):
        world.store.jobs(Query(), 10, "nonsense")


def test_a_revived_job_stands_where_it_was_enqueued(one_of_each: World) -> None:
    for id in ("failed", "cancelled"):
        assert one_of_each.store.revive(id) is not None
    assert ids(one_of_each, newest_first=False).split()[4:] == ["running", "failed", "cancelled", "succeeded"]
    assert ids(one_of_each, statuses=statuses("failed", "cancelled")) == ""
    assert next(one for one in list_all(one_of_each) if one.id == "failed").ready == one_of_each.now


def test_a_record_that_is_gone_is_not_listed(redis_world: World) -> None:
    for id in "abc":
        redis_world.new(id)
    redis_world.raw.delete(f"{redis_world.prefix}job:b")
    assert ids(redis_world) == "c a"


@pytest.mark.parametrize("task", ["tasks.work", "päckchen.schnüren", "a b", "<main>:x"])
def test_a_tasks_name_is_read_from_the_head_of_a_sealed_message(world: World, task: str) -> None:
    """The store reads it there, so the order of the message's fields is a part of their agreement."""
    world.new("j", message=message("j", task))
    assert task_of(message("j", task)) == task
    assert [one.task for one in list_all(world)] == [task]
    assert ids(world, task=task) == "j"
    world.new("other", message="not a message of this version")
    assert {one.task for one in list_all(world)} == {task, ""}


# ---- counts --------------------------------------------------------------------------------------------------------


def count(world: World, route: str = R) -> RouteCount:
    return next(one for one in world.store.counts() if one.route == route)


def test_counts_by_route(one_of_each: World) -> None:
    world = one_of_each
    world.new("mail", route=OTHER)
    record = world.get("queued")
    assert count(world) == RouteCount(R, waiting=1, parked=3, running=1, oldest=record.created)
    assert count(world, OTHER) == RouteCount(OTHER, waiting=1, oldest=world.now)
    assert [one.route for one in world.store.counts()] == [OTHER, R]
    world.advance(20)  # the two that wait for 10 s are due, and nobody ticks
    assert count(world) == RouteCount(R, waiting=3, parked=1, running=1, oldest=record.created)


def test_the_oldest_is_as_old_as_its_turn_and_not_as_its_job(world: World) -> None:
    world.new("later", delay=60)
    assert count(world).oldest is None
    world.advance(100)
    due = world.now - 40
    assert count(world) == RouteCount(R, waiting=1, oldest=due)  # due, and nobody has published it
    world.store.take_due(R, 10)
    assert count(world) == RouteCount(R, waiting=1, oldest=due)
    world.run("later", "t1")
    assert count(world) == RouteCount(R, running=1)
    world.store.retry("later", "t1", AGAIN, 5.0, "")
    world.advance(7)
    world.store.take_due(R, 10)
    assert count(world).oldest == world.now - 2
    world.store.cancel("later", "")
    assert count(world) == RouteCount(R)
    world.advance(50)
    world.store.revive("later")
    assert count(world).oldest == world.now


def test_running_jobs_are_counted_beyond_one_conversation(redis_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuekit.store.redis.views.CHUNK", 3)
    for number in range(10):
        route = R if number % 3 else OTHER
        redis_world.new(f"j{number}", route=route)
        redis_world.run(f"j{number}", f"t{number}", route=route)
    assert (count(redis_world).running, count(redis_world, OTHER).running) == (6, 4)


# ---- workers -------------------------------------------------------------------------------------------------------


def test_workers_say_who_they_are_and_what_they_run(world: World) -> None:
    about = {"backend": "rq", "queues": ["default"]}
    world.store.beat("w", start=True, about=json.dumps(about))
    since = world.now
    world.advance(3)
    for id in "ba":
        world.new(id)
        world.run(id, f"t-{id}")  # opens the lease again, and says nothing
    assert world.store.consumers() == [Consumer("w", since, world.now + LEASE, about, ("a", "b"))]
    world.advance(1)
    world.store.beat("w")
    world.store.finish("a", "t-a", OK, None)
    assert world.store.consumers() == [Consumer("w", since, world.now + LEASE, about, ("b",))]


def test_a_worker_that_left_or_was_reaped_is_none(world: World) -> None:
    world.settle("w", "gone")
    world.store.beat("left", start=True)
    world.store.leave("left")
    assert [one.name for one in world.store.consumers()] == ["gone", "w"]
    world.tick(LEASE, beat=["w"])
    assert [one.name for one in world.store.consumers()] == ["w"]
    world.advance(2)
    world.store.beat("gone", start=True)
    assert next(one for one in world.store.consumers() if one.name == "gone").since == world.now


# ---- purge ---------------------------------------------------------------------------------------------------------


def test_what_waits_is_cancelled_and_never_starts(one_of_each: World) -> None:
    world = one_of_each
    world.new("mail", route=OTHER)
    first = world.store.purge(R, 2, "emptied")
    assert first == ["queued", "released"]  # the first in line, then what is due next
    assert world.store.purge(R, 100, "emptied") == ["retrying", "scheduled"]
    assert world.store.purge(R, 100, "emptied") == []
    for id in ("queued", "retrying", "released", "scheduled"):
        record = world.get(id)
        assert (record.status, record.reason, record.finished) == (JobStatus.cancelled, "emptied", world.now)
        assert world.store.status(id) is JobStatus.cancelled  # whoever waits for it learns of it
    assert world.get("running").status is JobStatus.running
    assert world.get("mail").status is JobStatus.queued
    assert count(world) == RouteCount(R, running=1)
    world.advance(100)
    world.store.mark(R, 0)
    world.advance(LEASE)
    assert (world.store.take_due(R, 10), world.store.take_lost(R, 10)) == ([], [])
    assert world.store.revive("queued") is not None


def test_what_is_purged_first_is_what_is_first_in_line(world: World) -> None:
    for number in range(5):
        world.new(f"j{number}")
    assert world.store.purge(R, 3, "") == ["j0", "j1", "j2"]
    assert world.store.purge("rq:unknown:0", 3, "") == []


# ---- revive, for others to publish -------------------------------------------------------------------------------


def test_a_job_that_is_handed_over_is_published_by_the_next_tick(world: World) -> None:
    for id in "ab":
        world.new(id)
        world.store.cancel(id, "")
    world.store.revive("a", route="celery:x:0", handed_over=True)
    world.store.revive("b", route="celery:x:0")
    assert world.ids(world.store.take_lost("celery:x:0", 10)) == ["a"]
    assert world.store.take_lost("celery:x:0", 10) == []
    world.advance(OUTBOX)
    assert sorted(world.ids(world.store.take_lost("celery:x:0", 10))) == ["a", "b"]
