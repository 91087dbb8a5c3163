"""A unique key: while a job holds it no other is made with it, on both stores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from store_world import BAD, OK, R, plan

from queuekit.job import JobStatus

if TYPE_CHECKING:
    from store_world import World

K = "shop.bill customer-17"


def end(world: World, id: str, how: str) -> None:
    match how:
        case "finished":
            world.run(id)
            assert world.store.finish(id, "t1", OK, None)
        case "failed":
            world.run(id)
            assert world.store.fail(id, "t1", BAD, "no")
        case "cancelled while it waits":
            assert world.store.cancel(id, "") == "cancelled"
        case "cancelled while it runs":
            world.run(id)
            assert world.store.cancel(id, "") == "requested"
            assert world.store.cancelled(id, "t1", BAD, "")
        case "purged":
            assert world.store.purge(R, 10, "") == [id]
        case "expired":
            world.advance(100)
            world.store.beat("w", start=True)
            world.claim(id)
        case "lost":
            world.run(id, on_lost=plan(None))
            assert world.store.leave("w") == [id]
        case "reaped":
            world.settle("w")
            world.run(id, on_lost=plan(None))
            assert world.tick(40) == [(id, "lost")]
    assert world.get(id).status in {JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled}


@pytest.mark.parametrize(
    "how",
    [
        "finished",
        "failed",
        "cancelled while it waits",
        "cancelled while it runs",
        "purged",
        "expired",
        "lost",
        "reaped",
    ],
)
def test_a_key_is_held_until_the_job_ends_however_that_is(world: World, how: str) -> None:
    assert world.new("a", key=K, expires_in=99.0 if how == "expired" else None).created
    again = world.new("b", key=K)
    assert (again.created, again.same, again.other, again.pseq) == (False, True, "a", None)
    assert world.store.get("b") is None
    end(world, "a", how)
    assert world.store.holder(K) is None
    if world.kind != "memory":
        assert f"key:{K}" not in world.key_names()
    assert world.new("b", key=K).created
    assert world.store.holder(K) == "b"
    assert world.get("b").key == K


def test_retries_and_releases_keep_it(world: World) -> None:
    world.new("a", key=K)
    world.run("a")
    assert world.store.retry("a", "t1", BAD, 0.0, "")
    assert world.new("b", key=K).other == "a"
    world.run("a", "t2")
    assert world.store.release("a", "t2", BAD, 0.0)
    assert world.new("b", key=K, if_held="replace").other == "a"  # it has run already
    assert world.get("a").status == "queued"


def test_other_keys_and_no_key_are_not_in_its_way(world: World) -> None:
    world.new("a", key=K)
    assert world.new("b", key=K + "0").created
    assert world.new("c").created
    assert world.new("d").created


def test_the_lost_reply_of_the_one_that_was_created(world: World) -> None:
    first = world.new("a", key=K, token="t")
    assert world.new("a", key=K, token="t") == first
    replacing = world.new("b", key=K, token="u", if_held="replace")
    assert (replacing.created, replacing.other) == (True, "a")
    assert world.new("b", key=K, token="u", if_held="replace") == replacing
    assert world.get("b").status == "queued"


def test_one_that_waits_is_replaced(world: World) -> None:
    world.new("a", key=K, delay=50.0)
    made = world.new("b", key=K, if_held="replace", delay=10.0)
    assert (made.created, made.other) == (True, "a")
    old = world.get("a")
    assert (old.status, old.reason, old.due) == ("cancelled", "replaced by job b", None)
    assert world.store.holder(K) == "b"
    world.advance(60)
    assert world.ids(world.store.take_due(R, 10)) == ["b"]


def test_one_that_runs_is_neither_replaced_nor_put_off(world: World) -> None:
    world.new("a", key=K)
    world.run("a")
    for if_held in ("replace", "debounce"):
        made = world.new("b", key=K, if_held=if_held)
        assert (made.created, made.other, made.again) == (False, "a", False)
    assert world.get("a").status == "running"


def test_one_that_waits_is_put_off_and_asked_for_something_else(world: World) -> None:
    world.new("a", key=K, delay=10.0)
    world.advance(9)
    made = world.new("b", key=K, if_held="debounce", delay=10.0)
    assert (made.created, made.other, made.again) == (False, "a", True)
    asked = {"key": K, "if_held": "debounce", "delay": 10.0, "token": "second", "digest": "another"}
    off = world.new("a", message='{"id":"a","n":2}', route="rq:other:0", **asked)
    assert (off.created, off.same, off.other, off.again, off.pseq) == (False, True, "a", False, None)
    assert world.new("a", message='{"id":"a","n":2}', route="rq:other:0", **asked) == off
    record = world.get("a")
    assert (record.message, record.route, record.due) == ('{"id":"a","n":2}', "rq:other:0", world.now + 10)
    assert world.store.take_due(R, 10) == []
    world.advance(9)
    assert world.store.take_due("rq:other:0", 10) == []
    world.advance(1)
    assert [one.message for one in world.store.take_due("rq:other:0", 10)] == ['{"id":"a","n":2}']


def test_one_that_is_queued_is_put_off_too_and_its_doorbell_says_nothing(world: World) -> None:
    made = world.new("a", key=K)
    world.new("a", key=K, if_held="debounce", delay=10.0, token="second")
    assert world.get("a").status == "scheduled"
    world.store.beat("w", start=True)
    assert type(world.claim("a", pseq=made.pseq)).__name__ == "Early"
    assert world.store.take_lost(R, 10) == []
    world.advance(10)
    assert world.ids(world.store.take_due(R, 10)) == ["a"]


def test_one_that_is_put_off_to_now_is_published(world: World) -> None:
    world.new("a", key=K, delay=100.0)
    off = world.new("a", key=K, if_held="debounce", token="second")
    assert (off.created, off.pseq, off.number) == (False, 1, 1)
    assert world.new("a", key=K, if_held="debounce", token="second") == off
    assert world.run("a").ready == world.now


def test_it_has_started_before_it_could_be_put_off(world: World) -> None:
    world.new("a", key=K)
    world.run("a")
    late = world.new("a", key=K, if_held="debounce", delay=10.0, token="second", digest="another")
    assert (late.created, late.same, late.again) == (False, True, False)
    assert world.store.finish("a", "t1", OK, None)
    late = world.new("a", key=K, if_held="debounce", delay=10.0, token="second", digest="another")
    assert (late.created, late.same) == (False, False)  # somebody else is to be made


@pytest.mark.parametrize("how", ["finished", "failed"])
def test_a_key_with_a_time_is_held_after_the_end(world: World, how: str) -> None:
    world.new("a", key=K, key_ttl=60.0)
    end(world, "a", how)
    world.advance(55)
    for if_held in ("existing", "replace", "debounce"):
        made = world.new("b", key=K, if_held=if_held)
        assert (made.created, made.other, made.again) == (False, "a", False)
    world.advance(5)
    assert world.new("b", key=K).created


def test_a_key_with_a_time_is_held_beyond_it_while_the_job_goes_on(world: World) -> None:
    world.new("a", key=K, key_ttl=60.0)
    world.advance(100)
    assert world.new("b", key=K).other == "a"
    end(world, "a", "finished")
    assert world.new("b", key=K).created


def test_a_cancelled_job_holds_nothing(world: World) -> None:
    world.new("a", key=K, key_ttl=60.0)
    end(world, "a", "cancelled while it waits")
    assert world.new("b", key=K).created


def test_a_key_that_is_held_longer_than_records_keeps_its_record(world: World) -> None:
    world.use(retention=10.0, dead_ttl=10.0)
    world.new("a", key=K, key_ttl=100.0, result_ttl=0.0)
    world.run("a")
    assert world.store.fail("a", "t1", BAD, "no")
    world.advance(50)
    assert world.new("b", key=K).other == "a"
    world.advance(51)
    assert world.store.get("a") is None
    assert world.new("b", key=K).created


def test_a_revived_job_takes_its_key_again(world: World) -> None:
    world.new("a", key=K, key_ttl=60.0)
    end(world, "a", "failed")
    assert world.store.revive("a")
    world.advance(70)
    assert world.new("b", key=K).other == "a"
    end(world, "a", "cancelled while it waits")
    assert world.store.holder(K) is None


def test_a_job_whose_key_another_holds_is_not_revived(world: World) -> None:
    world.new("a", key=K)
    end(world, "a", "failed")
    world.new("b", key=K)
    assert world.store.revive("a") is None
    assert world.get("a").status == "failed"
    end(world, "b", "cancelled while it waits")
    assert world.store.revive("a")
    assert world.store.holder(K) == "a"


def test_a_job_whose_record_is_gone_holds_nothing(redis_world: World) -> None:
    redis_world.new("a", key=K)
    redis_world.raw.delete(f"{redis_world.prefix}job:a")
    assert redis_world.new("b", key=K).created


def test_a_job_that_an_earlier_version_has_ended_holds_nothing(redis_world: World) -> None:
    redis_world.new("a", key=K)
    end(redis_world, "a", "finished")
    redis_world.raw.set(f"{redis_world.prefix}key:{K}", "a")
    assert redis_world.store.holder(K) is None
    assert redis_world.new("b", key=K).created


def test_of_a_hundred_at_once_one_is_made(world: World) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda n: world.new(f"j{n}", key=K), range(100)))
    (first,) = [n for n, one in enumerate(made) if one.created]
    assert {one.other for one in made if not one.created} == {f"j{first}"}
