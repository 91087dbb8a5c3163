"""Many threads at one store: each job is started once, each is taken once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from store_world import AGAIN, LEASE, OK, R

from queuekit.store import Busy, Claimed

if TYPE_CHECKING:
    from collections.abc import Callable

    from store_world import World

T = TypeVar("T")


def at_once(n: int, do: Callable[[int], T]) -> list[T]:
    together = threading.Barrier(n)

    def run(number: int) -> T:
        together.wait(timeout=30)
        return do(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def test_twenty_claims_of_one_job_give_one_attempt(world: World) -> None:
    world.store.beat("w", start=True)
    for id in ("a", "b", "c"):
        world.new(id)
        answers = at_once(20, lambda number, id=id: world.claim(id, f"{id}{number}"))  # type: ignore[misc]
        assert [type(answer) for answer in answers].count(Claimed) == 1
        assert [type(answer) for answer in answers].count(Busy) == 19
        assert world.get(id).attempt == 1


def test_twenty_creates_of_one_id_make_one_job(world: World) -> None:
    made = at_once(20, lambda number: world.new("j", token=f"mine{number}"))
    assert [answer.created for answer in made].count(True) == 1
    assert [answer.pseq for answer in made].count(1) == 1
    assert world.get("j").pseq == 1


def test_no_due_job_is_taken_twice(world: World) -> None:
    ids = [f"j{number}" for number in range(200)]
    for id in ids:
        world.new(id, delay=1)
    world.advance(1)

    def take(_: int) -> list[str]:
        mine: list[str] = []
        while taken := world.store.take_due(R, 7):
            mine += world.ids(taken)
        return mine

    assert sorted(id for mine in at_once(8, take) for id in mine) == sorted(ids)
    assert sorted(world.get(id).pseq for id in ids) == list(range(1, 201))


def test_no_lost_job_is_taken_twice(world: World) -> None:
    ids = [f"j{number}" for number in range(60)]
    for id in ids:
        world.new(id)
    world.advance(LEASE)
    taken = at_once(8, lambda _: world.ids(world.store.take_lost(R, 20)))
    assert sorted(id for mine in taken for id in mine) == sorted(ids)


def test_of_many_ends_of_one_attempt_one_counts(world: World) -> None:
    world.new("j")
    world.run("j", "t1")

    def end(number: int) -> bool:
        if number % 3 == 0:
            return world.store.finish("j", "t1", OK, "42")
        if number % 3 == 1:
            return world.store.retry("j", "t1", AGAIN, 10.0, "s")
        return world.store.leave("w") == ["j"]

    answers = at_once(12, end)
    record = world.get("j")
    assert len(record.runs) == 1
    by_kind = [any(answers[kind::3]) for kind in range(3)]
    assert by_kind.count(True) == 1
    assert record.status == ("succeeded" if by_kind[0] else "retrying")
    assert (world.store.result("j") == "42") is by_kind[0]
