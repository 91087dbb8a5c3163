"""Nothing is kept beyond its time: ended jobs, dead letters, results, the quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store_world import AGAIN, BACK, BAD, LEASE, OK, R, list_all, plan

from queuekit.store.memory import MemoryStore

if TYPE_CHECKING:
    from store_world import World

DAY = 86_400.0


def listed(world: World) -> str:
    return " ".join(sorted(one.id for one in list_all(world)))


def end(world: World, id: str, how: str, **more: float) -> None:
    world.new(id, **more)
    world.run(id, f"t-{id}")
    match how:
        case "finish":
            assert world.store.finish(id, f"t-{id}", OK, "42")
        case "fail":
            assert world.store.fail(id, f"t-{id}", BAD, "why")
        case _:
            assert world.store.cancelled(id, f"t-{id}", OK, "why")


def test_each_kind_has_its_time_by_default(world: World) -> None:
    """Finished and cancelled jobs 7 days, dead letters 30, results a day, or as the task says."""
    end(world, "done", "finish", result_ttl=DAY)
    end(world, "off", "cancel")
    end(world, "dead", "fail")
    world.advance(DAY - 2)
    assert world.store.result("done") == "42"
    world.advance(4)
    assert world.store.result("done") is None
    world.advance(6 * DAY - 4)
    assert listed(world) == "dead done off"
    world.advance(4)
    assert (listed(world), world.store.get("done"), world.store.get("off")) == ("dead", None, None)
    assert (world.store.dead(10), world.store.dead_count()) == (["dead"], 1)
    world.advance(23 * DAY - 4)
    assert world.get("dead").reason == "why"
    world.advance(4)
    assert (listed(world), world.store.get("dead"), world.store.dead(10), world.store.dead_count()) == ("", None, [], 0)


def test_a_record_outlives_its_result_by_a_day(world: World) -> None:
    """An expired result is told from a job that never was. The list lets go of it after the retention."""
    world.use(retention=60.0)
    end(world, "j", "finish", result_ttl=2 * DAY)
    world.advance(62)
    assert (listed(world), world.store.result("j")) == ("", "42")
    world.advance(2 * DAY)
    assert world.store.result("j") is None
    assert world.get("j").result_ttl == 2 * DAY
    world.advance(DAY)
    assert world.store.get("j") is None


def test_when_all_has_expired_nothing_is_left(world: World) -> None:
    """The leak check: of everything that was ever done there remain a number for each route, and who the store is."""
    world.use(retention=60.0, dead_ttl=120.0)
    world.settle("w")
    for number in range(5):
        for how in ("finish", "fail", "cancel"):
            end(world, f"{how}{number}", how, result_ttl=10.0)
        for how in ("purged", "off", "lost", "late", "again", "back"):
            id = f"{how}{number}"
            world.new(id, delay=1.0 if how == "purged" else None, route="rq:x:0" if how == "purged" else R)
            match how:
                case "off":
                    world.store.cancel(id, "why")
                case "lost":
                    world.run(id, f"t-{id}", worker="gone", on_lost=plan(None))
                case "late":
                    world.run(id, f"t-{id}", worker="slow", timeout=5.0, on_limit=plan(None))
                case "again":
                    world.run(id, f"t-{id}")
                    world.store.retry(id, f"t-{id}", AGAIN, 1.0, "s")
                    world.store.cancel(id, "why")
                case "back":
                    world.run(id, f"t-{id}")
                    world.store.release(id, f"t-{id}", BACK, 0.0)
                    world.run(id, f"u-{id}")
                    world.store.cancel(id, "why")
                    world.store.cancelled(id, f"u-{id}", OK, "why")
        world.store.revive(f"fail{number}")
        world.run(f"fail{number}", f"v{number}")
        world.store.fail(f"fail{number}", f"v{number}", BAD, "why")
        world.store.quarantine(f"raw{number}", "why")
        world.store.mark(R, 0)
    assert len(world.store.purge("rq:x:0", 100, "why")) == 5
    world.tick(2 * LEASE, beat=["w", "slow"])
    assert len(world.store.leave("slow")) == 5
    assert all(one.status in {"succeeded", "failed", "cancelled"} for one in list_all(world))
    assert world.store.leave("w") == []
    for _ in range(40):
        world.tick(10)
    world.advance(2 * DAY)
    world.store.reap(100)
    if isinstance(world.store, MemoryStore):
        assert (world.store._jobs, world.store._workers, world.store._consumers) == ({}, {}, {})
        assert world.store.quarantined(10) == []
    else:
        assert world.key_names() == {"routes", f"route:{R}", f"marks:{R}", "meta"}


def test_the_index_is_cleared_a_part_at_a_time(redis_world: World) -> None:
    """A week's worth that expires in a quiet night does not stop the server."""
    world = redis_world
    world.use(retention=60.0)
    keys = {f"j{number}": world.clock.ms for number in range(2500)}
    world.raw.zadd(f"{world.prefix}succeeded", keys)
    world.advance(61)
    left = []
    for _ in range(3):
        world.store.reap(100)
        left.append(world.raw.zcard(f"{world.prefix}succeeded"))
    assert left == [1500, 500, 0]


# ---- quarantine ----------------------------------------------------------------------------------------------------


def kept(world: World) -> list[str]:
    return [one.raw for one in world.store.quarantined(100)]


def test_the_quarantine_keeps_the_newest_up_to_a_number(world: World) -> None:
    world.use(quarantine_limit=3)
    for number in range(5):
        world.store.quarantine(f"raw {number}", "why")
    assert kept(world) == ["raw 4", "raw 3", "raw 2"]


def test_and_up_to_a_number_of_bytes(world: World) -> None:
    size = len(f"{world.clock.ms}|3,0|why")
    world.use(quarantine_bytes=3 * (size + 10))
    for number in range(9):
        world.store.quarantine(f"{number}" * 10, "why")
        assert kept(world) == [f"{n}" * 10 for n in range(number, max(number - 3, -1), -1)]
    world.store.quarantine("é" * 10, "why")  # twice the bytes
    assert kept(world) == ["é" * 10, "8" * 10]
    world.store.quarantine("x" * 1000, "why")  # the newest stays, whatever its size
    assert kept(world) == ["x" * 1000]
    world.store.quarantine("small", "why")
    assert kept(world) == ["small"]


def test_a_smaller_limit_takes_effect_with_the_next_message(redis_world: World) -> None:
    world = redis_world
    for number in range(9):
        world.store.quarantine(f"raw {number}", "why")
    world.use(quarantine_limit=2)
    world.store.quarantine("raw 9", "why")
    assert kept(world) == ["raw 9", "raw 8"]


def test_a_message_in_quarantine_is_kept_as_long_as_a_dead_letter(world: World) -> None:
    world.use(dead_ttl=60.0)
    world.store.quarantine("first", "why")
    world.advance(40)
    world.store.quarantine("second", "why")
    world.advance(22)
    assert kept(world) == ["second"]
    world.store.quarantine("third", "why")
    if world.server is not None:
        assert world.raw.llen(f"{world.prefix}quarantine") == 2
    world.advance(62)
    assert kept(world) == []
    if world.server is not None:
        assert "quarantine" not in world.key_names()
    world.store.quarantine("fourth", "why")  # and its bytes are counted anew
    assert kept(world) == ["fourth"]


def test_the_quarantine_is_read_in_parts(world: World) -> None:
    for number in range(5):
        world.store.quarantine(f"{number}", "why")
    parts = [[one.raw for one in world.store.quarantined(2, skip)] for skip in (0, 2, 4, 6)]
    assert parts == [["4", "3"], ["2", "1"], ["0"], []]
