"""Caps: what may start, what is kept back, and that nothing is lost on the way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit import ConfigError, Settings, agent_task
from queuekit.execution.caps import KEPT_BACK, Admission, Caps, Room
from queuekit.execution.outcomes import Delivery
from queuekit.message import Doorbell
from queuekit.store.memory import MemoryStore
from queuekit.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

CAPS = Caps(("q", "r"), queues={"q": 3}, tasks={"slow": 2}, aliases={"slower": "slow"})


def delivery(id: str, task: str = "quick", queue: str = "q") -> tuple[str, Delivery]:
    return id, Delivery(Doorbell(id, task, 1, "e", f"rq:{queue}:0"), [], {})


def ids(found: Iterable[tuple[str, object]]) -> list[str]:
    return [key for key, _ in found]


# ---- admission -----------------------------------------------------------------------------------------------------


def test_without_caps_everything_starts() -> None:
    none: Admission[str] = Admission(Caps(("q",)))
    assert ids(none.admit([delivery(str(n)) for n in range(100)])[0]) == [str(n) for n in range(100)]
    assert none.room(7) == Room(7)
    assert none.room(0) is None
    assert (none.kept, none.next(5), none.give_back()) == (0, [], [])


def test_an_alias_counts_for_its_task() -> None:
    here: Admission[str] = Admission(CAPS)
    start, _ = here.admit([delivery("a", "slow"), delivery("b", "slower", "r"), delivery("c", "slower")])
    assert ids(start) == ["a", "b"]
    assert here.kept == 1


def test_what_names_a_queue_that_it_cannot_have_come_by_is_for_the_claim_to_judge() -> None:
    here: Admission[str] = Admission(CAPS)
    forged = [delivery(str(n), "slow", "nowhere") for n in range(5)]
    assert here.admit(forged)[0] == forged
    for _, one in forged:
        here.leave(one.bell)
    assert ids(here.admit([delivery(str(n), "slow") for n in range(3)])[0]) == ["0", "1"]


def test_no_more_is_kept_back_than_so_many() -> None:
    here: Admission[str] = Admission(CAPS)
    start, dropped = here.admit([delivery(str(n), "slow") for n in range(KEPT_BACK + 4)])
    assert (len(start), here.kept, len(dropped)) == (2, KEPT_BACK, 2)
    room = here.room(10)
    assert room is not None
    assert (room.of("q"), room.of("r")) == (0, 10)


FETCH = st.tuples(
    st.just("fetch"), st.lists(st.tuples(st.sampled_from(["slow", "slower", "quick"]), st.sampled_from("qr")))
)
END = st.tuples(st.just("end"), st.integers(0, 20))


@given(st.lists(st.one_of(FETCH, END), max_size=30), st.integers(1, 5), st.integers(1, 5), st.integers(1, 8))
def test_its_laws(actions: list[tuple[str, Any]], of_q: int, of_slow: int, limit: int) -> None:
    """As fetch_all() uses it: nothing exceeds its cap, nothing is lost, and what may start does."""
    caps = Caps(("q", "r"), queues={"q": of_q}, tasks={"slow": of_slow}, aliases={"slower": "slow"})
    here: Admission[str] = Admission(caps)
    running: dict[str, Delivery] = {}
    made, over = 0, 0

    def start(found: Iterable[tuple[str, Delivery]]) -> None:
        running.update(found)
        places = [caps.place(one.bell) or ("", "") for one in running.values()]
        assert sum(queue == "q" for queue, _ in places) <= of_q
        assert sum(task == "slow" for _, task in places) <= of_slow
        assert len(running) <= limit

    for what, given_ in actions:
        if what == "end" and running:
            here.leave(running.pop(list(running)[given_ % len(running)]).bell)
            over += 1
        start(here.next(limit - len(running)))
        room = here.room(limit - len(running))
        if what == "fetch" and room is not None:
            found: list[tuple[str, Delivery]] = []
            of: Counter[str] = Counter()
            for task, queue in given_:
                if of[queue] < room.of(queue) and len(found) < room.most:
                    of[queue] += 1
                    made += 1
                    found.append(delivery(str(made), task, queue))
            started, dropped = here.admit(found)
            assert not dropped
            start(started)
        assert made == over + len(running) + here.kept
        if here.kept:
            assert running, "nothing waits for nothing"
            left = here.room(limit - len(running))
            assert left is None or not left.wait
    while running:
        for key in list(running):
            here.leave(running.pop(key).bell)
            over += 1
        start(here.next(limit))
    assert (over, here.kept) == (made, 0)
    assert here.room(limit) == Room(limit, {"q": min(of_q, limit), "r": limit})


# ---- where they come from, and who keeps them ----------------------------------------------------------------------


@agent_task(name="caps.slow", aliases=["caps.slower"], queue="documents", max_concurrency=3)
async def slow() -> None: ...


@agent_task(name="caps.quick", queue="documents")
async def quick() -> None: ...


def worker(*, queues: tuple[str, ...] = ("documents",), **settings: Any) -> Worker:
    there = Settings(backend="rq", broker_url="redis://127.0.0.1:1/0", **settings)
    return Worker(MemoryStore(), there, [slow, quick], find=lambda _: None, queues=queues, pool="threads")


def test_a_workers_caps() -> None:
    here = worker(queue_concurrency={"documents": 9, "elsewhere": 1})
    assert here.caps == Caps(("documents",), {"documents": 9}, {"caps.slow": 3}, {"caps.slower": "caps.slow"})
    set_elsewhere = worker(task_concurrency={"caps.slow": 2, "caps.quick": 4})
    assert set_elsewhere.caps.tasks == {"caps.slow": 2, "caps.quick": 4}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"max_concurrency=3 of the task 'caps.slow': the pool 'threads' of rq runs as many .* --concurrency 3;"),
        ({"task_concurrency": {"caps.slow": 2}}, r"task_concurrency\['caps.slow'\]=2 \(Settings\(\)\)"),
        (
            {"queue_concurrency": {"documents": 4}},
            r"queue_concurrency\['documents'\]=4 \(Settings\(\)\).*the pool async",
        ),
    ],
)
def test_a_cap_that_would_not_hold_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        worker(**settings).start()


def test_a_cap_that_holds_by_itself_is_not() -> None:
    here = worker(queue_concurrency={"documents": 4})
    here.at_a_time = 4
    with pytest.raises(ConfigError, match=r"max_concurrency=3 .* runs 4 at a time here"):
        here.check_caps()
    here.at_a_time = 3
    here.check_caps()
    here.at_a_time, here.keeps_caps = None, True
    here.check_caps()
    worker(queues=("elsewhere",)).check_caps()


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
def test_a_cap_is_a_whole_number_from_1(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_concurrency=.*a whole number from 1"):

        @agent_task(name="caps.never", max_concurrency=value)
        def never() -> None: ...


@pytest.mark.parametrize("value", [["q"], "5", "no JSON", {"q": 0}, {"": 1}, '{"q": "many"}'])
def test_a_table_of_caps(value: Any) -> None:
    given_: Any = '{"q": 5}'
    assert Settings(queue_concurrency=given_).queue_concurrency == {"q": 5}
    with pytest.raises(ConfigError, match="queue_concurrency=.*whole number"):
        Settings(queue_concurrency=value)
