"""Many statuses in one conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_world import OK

from queuekit.job import JobStatus
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from store_world import World

    from queuekit.testing.servers import RedisServer


def test_each_has_its_status_in_the_order_of_the_ids(world: World) -> None:
    world.new("waits")
    world.new("later", delay=60)
    world.new("ran")
    world.run("ran")
    assert world.store.finish("ran", "t1", OK, None)
    assert world.store.statuses(["later", "nobody", "ran", "waits", "ran"]) == [
        JobStatus.scheduled,
        None,
        JobStatus.succeeded,
        JobStatus.queued,
        JobStatus.succeeded,
    ]


def test_of_none_there_are_none(world: World) -> None:
    assert world.store.statuses([]) == []


def test_many_are_one_conversation(redis_world: World) -> None:
    for number in range(50):
        redis_world.new(f"j{number}")
    redis_world.store.statuses(["j0"])  # connected from here on
    reads = redis_world.raw.info("stats")["total_reads_processed"]
    redis_world.store.statuses([f"j{number}" for number in range(50)])
    now = redis_world.raw.info("stats")["total_reads_processed"]
    assert now - reads < 10  # the server read a few times, not fifty


def test_it_says_that_the_store_is_away(own_server: RedisServer) -> None:
    from queuekit.store.redis import RedisStore

    store = RedisStore(own_server.url, timeout=0.5)
    assert store.statuses(["a"]) == [None]
    own_server.kill()
    with pytest.raises(StoreAway):
        store.statuses(["a"])
    store.close()
