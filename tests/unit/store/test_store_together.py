"""together(): several operations in one conversation, each for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from store_world import OK

from queuekit.store import Claimed, Done, Missing, StoreAway

if TYPE_CHECKING:
    from store_world import World

    from queuekit.testing.servers import RedisServer


def finish(world: World, id: str, token: str) -> Any:
    return lambda: world.store.finish(id, token, OK, f'"{id}"')


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_each_has_the_answer_that_it_would_have_alone(world: World, count: int) -> None:
    world.settle("w")
    for number in range(count):
        world.new(f"j{number}")
        assert isinstance(world.run(f"j{number}", f"t{number}"), Claimed)
    calls = [finish(world, f"j{number}", f"t{number}" if number % 2 == 0 else "not ours") for number in range(count)]
    assert world.store.together(calls) == [number % 2 == 0 for number in range(count)]
    for number in range(count):
        assert world.store.result(f"j{number}") == (f'"j{number}"' if number % 2 == 0 else None)


def test_an_operation_sees_what_those_before_it_have_done(world: World) -> None:
    world.settle("w")
    world.new("j")
    claimed, gone, again, done, ended = world.store.together(
        [
            lambda: world.claim("j", "t"),
            lambda: world.claim("nothing", "t"),
            lambda: world.claim("j", "t"),
            finish(world, "j", "t"),
            lambda: world.claim("j", "u"),
        ]
    )
    assert isinstance(claimed, Claimed)
    assert (gone, again, done) == (Missing(), claimed, True)
    assert isinstance(ended, Done)


def test_a_server_that_has_forgotten_its_scripts(redis_world: World) -> None:
    redis_world.settle("w")
    for id in "abc":
        redis_world.new(id)
        redis_world.run(id, id)
    redis_world.command("SCRIPT", "FLUSH")
    assert redis_world.store.together([finish(redis_world, id, id) for id in "abc"]) == [True] * 3


def test_one_that_the_server_refuses_does_not_touch_the_others(redis_world: World) -> None:
    redis_world.settle("w")
    for id in "abc":
        redis_world.new(id)
        redis_world.run(id, id)
    redis_world.raw.rename(f"{redis_world.prefix}job:b", f"{redis_world.prefix}kept")
    redis_world.raw.set(f"{redis_world.prefix}job:b", "no hash")
    first, second, third = redis_world.store.together([finish(redis_world, id, id) for id in "abc"])
    assert (first, third) == (True, True)
    assert isinstance(second, StoreAway)
    assert not second.sent


def test_all_of_them_are_told_that_the_store_is_away(own_server: RedisServer) -> None:
    from store_world import World

    own_server.start()
    with World("redis", own_server) as world:
        world.settle("w")
        world.new("j")
        world.run("j", "t")
        own_server.kill()
        answers = world.store.together([finish(world, "j", "t"), finish(world, "k", "t")])
        assert all(isinstance(answer, StoreAway) for answer in answers)
        own_server.start()
