"""Workflows in the store: who waits for whom, and what an end means for the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from store_world import BAD, OK, R, World

from queuekit.job import JobStatus
from queuekit.store import Early, FlowJob, Followed, Left, NewFlow, NewJob, Started

ELSEWHERE = "celery:default:0"
DAY = 86_400.0


def step(id: str, after: str = "", **more: Any) -> FlowJob:
    job = {name: more.pop(name) for name in ("delay", "at", "expires_in", "route", "result_ttl") if name in more}
    new = NewJob(id, f'{{"id":"{id}"}}', f"digest of {id}", **{"route": R, "token": "", "result_ttl": 3600.0, **job})
    return FlowJob(new, after=tuple(after), **more)


def joined(*jobs: FlowJob) -> list[FlowJob]:
    """With what follows from `after`, the last one first."""
    out = []
    for one in jobs:
        after = [other.new.id for other in jobs if one.new.id in other.after]
        uses = one.uses or (() if one.undoes else one.after)
        out.append(replace(one, next=tuple(after), uses=tuple(uses)))
    needs = [replace(one, needs=sum(one.new.id in other.uses for other in out)) for one in out]
    return needs[::-1]


def start(world: World, *jobs: FlowJob, flow: str = "f", undo: str = "", parent: Any = None) -> Started:
    made = NewFlow(flow, "t", len(jobs) - len(undo), tuple(undo), parent, near=jobs[0].new.id)
    assert world.store.create_flow(made, joined(*jobs)) == []
    return world.store.start_flow(made)


def statuses(world: World, ids: str) -> dict[str, str]:
    return {id: str(world.get(id).status) for id in ids}


def run(world: World, id: str, *, how: str = "finish", **more: Any) -> Any:
    token = f"t-{id}-{len(world.get(id).runs)}"
    world.run(id, token, pseq=world.get(id).pseq, route=world.get(id).route, **more)
    if how == "finish":
        return world.store.finish(id, token, OK, f'"{id}"', f"proof of {id}")
    if how == "fail":
        return world.store.fail(id, token, BAD, "bad")
    return world.store.cancelled(id, token, OK, "enough")


def rang(world: World, answer: Any) -> list[str]:
    return world.ids([one for _, one in answer.taken]) if isinstance(answer, Followed) else []


# ---- in order ------------------------------------------------------------------------------------------------------


def test_nothing_starts_before_all_is_recorded(world: World) -> None:
    flow = NewFlow("f", "t", 2, near="a")
    b, a = joined(step("a"), step("b", "a"))
    assert world.store.create_flow(flow, [b]) == []
    assert world.store.create_flow(flow, [a]) == []
    assert statuses(world, "ab") == {"a": "waiting", "b": "waiting"}
    assert world.get("a").waits == ("^",)
    assert world.store.take_lost(R, 10) == world.store.take_due(R, 10) == []
    started = world.store.start_flow(flow)
    assert (started.said, rang(world, Followed(started.taken))) == ("started", ["a"])
    assert statuses(world, "ab") == {"a": "queued", "b": "waiting"}


def test_the_end_of_a_step_queues_the_one_that_waits_for_it_in_the_same_step(world: World) -> None:
    start(world, step("a"), step("b", "a"), step("c", "b"))
    answer = run(world, "a")
    assert rang(world, answer) == ["b"]
    ((route, taken),) = answer.taken
    assert (route, taken.pseq, taken.number, taken.epoch) == (R, 2, 1, world.store.epoch())
    assert statuses(world, "abc") == {"a": "succeeded", "b": "queued", "c": "waiting"}
    assert rang(world, run(world, "b")) == ["c"]
    assert rang(world, run(world, "c")) == []


def test_a_chord_fires_once_whatever_is_delivered_again(world: World) -> None:
    start(world, step("a"), step("b"), step("c"), step("z", "abc"))
    fired = []
    for id in "cab":
        for _ in range(3):
            world.store.beat("w", start=True)
            world.claim(id, f"t-{id}", pseq=9)
            fired += rang(world, world.store.finish(id, f"t-{id}", OK, None))
            assert world.get("z").status is (JobStatus.queued if id == "b" else JobStatus.waiting)
    assert fired == ["z"]
    assert world.get("z").waits == ()


def test_a_doorbell_of_one_that_waits_starts_nothing(world: World) -> None:
    start(world, step("a"), step("b", "a"))
    world.store.beat("w", start=True)
    assert world.claim("b", pseq=7) == Early(world.now)
    assert world.get("b").status is JobStatus.waiting


def test_what_nobody_publishes_is_for_the_stewards(world: World) -> None:
    """The worker has died between the recorded outcome and the doorbell of what follows."""
    start(world, step("a"), step("b", "a"))
    run(world, "a")
    assert world.store.take_lost(R, 10) == []
    world.advance(1.1)
    assert world.ids(world.store.take_lost(R, 10)) == ["b"]


def test_on_another_backend_its_own_stewards_publish_it_at_once(world: World) -> None:
    start(world, step("a"), step("b", "a", route=ELSEWHERE))
    assert rang(world, run(world, "a")) == []
    assert ELSEWHERE in world.store.routes("celery")
    assert world.ids(world.store.take_lost(ELSEWHERE, 10)) == ["b"]


def test_a_delay_counts_from_when_nobody_is_waited_for(world: World) -> None:
    start(world, step("a"), step("b", "a", delay=10.0), step("c", "a", at=world.now + 5))
    world.advance(3)
    run(world, "a")
    assert (world.get("b").status, world.get("b").due) == (JobStatus.scheduled, world.now + 10)
    assert world.get("c").due == world.now + 2


def test_an_attempt_that_somebody_else_ends_means_the_same(world: World) -> None:
    start(world, step("a"), step("b", "a", rule="skip"), step("c", "b"))
    run(world, "a")
    world.run("b", "t", pseq=2, on_lost=None or _fails())
    world.store.leave("w")
    assert statuses(world, "bc") == {"b": "failed", "c": "queued"}


def _fails() -> Any:
    from store_world import plan

    return plan(None)


def test_the_same_workflow_again_doubles_nothing(world: World) -> None:
    jobs = [step("a"), step("b", "a")]
    assert start(world, *jobs).said == "started"
    again = NewFlow("f", "another token", 2, near="a")
    assert world.store.create_flow(again, joined(*jobs)) == []
    assert world.store.start_flow(again).said == "was"
    assert world.store.start_flow(replace(again, token="t")).said == "started"  # the reply was lost
    assert world.store.members("~f") == ["b", "a"]


def test_an_id_that_is_taken_is_told(world: World) -> None:
    world.new("b")
    flow = NewFlow("f", "t", 2, near="a")
    assert world.store.create_flow(flow, joined(step("a"), step("b", "a"))) == ["b"]


def test_what_is_not_recorded_whole_within_a_minute_is_let_go(world: World) -> None:
    flow = NewFlow("f", "t", 2, near="a")
    assert world.store.create_flow(flow, joined(step("a"), step("b", "a"))) == []
    world.advance(59)
    assert world.store.follow(100) == Left(more=False)
    assert world.store.get("a") is not None
    world.advance(2)
    world.store.follow(100)
    assert (world.store.get("a"), world.store.get("b"), world.store.flow("f")) == (None, None, None)
    assert world.store.start_flow(flow).said == "missing"
    if world.server is not None:
        assert not [key for key in world.key_names() if key not in {"meta", "routes"}]
    assert start(world, step("a"), step("b", "a")).said == "started"


# ---- failure -------------------------------------------------------------------------------------------------------


def test_a_failure_stops_all_that_comes_after_it(world: World) -> None:
    start(world, step("a"), step("x"), step("b", "a"), step("c", "bx"), step("d", "c"))
    run(world, "a", how="fail")
    assert statuses(world, "abcdx") == {
        "a": "failed", "b": "cancelled", "c": "cancelled", "d": "cancelled", "x": "queued"
    }  # fmt: skip
    assert {world.get(id).reason for id in "bcd"} == {"stopped: job a has failed"}
    assert world.store.follow(2) == Left(more=True, cancelled=("b", "c"))
    assert world.store.follow(2) == Left(more=False, cancelled=("d",))
    run(world, "x")
    flow = world.store.flow("f")
    assert flow is not None
    assert (flow.open, flow.bad) == (0, 4)


def test_with_skip_the_others_go_on_without_it(world: World) -> None:
    start(world, step("a", rule="skip"), step("b"), step("c", "ab"))
    run(world, "a", how="fail")
    assert rang(world, run(world, "b")) == ["c"]
    got = world.store.inputs(["a", "b", "nobody"])
    assert [(one.status, one.text) for one in got] == [("failed", None), ("succeeded", '"b"'), (None, None)]
    assert got[1].proof == "proof of b"


def test_a_revived_step_brings_back_what_it_has_stopped(world: World) -> None:
    start(world, step("a"), step("b"), step("c", "ab"), step("d", "c"))
    run(world, "a", how="fail")
    run(world, "b", how="fail")
    assert world.store.revive("c") is None  # it waits for two that have failed
    assert world.store.revive("a") is not None
    assert statuses(world, "abcd") == {"a": "queued", "b": "failed", "c": "cancelled", "d": "cancelled"}
    assert run(world, "a") is True
    assert world.store.revive("b") is not None
    assert statuses(world, "abcd") == {"a": "succeeded", "b": "queued", "c": "waiting", "d": "waiting"}
    assert rang(world, run(world, "b")) == ["c"]
    assert rang(world, run(world, "c")) == ["d"]
    run(world, "d")
    flow = world.store.flow("f")
    assert flow is not None
    assert (flow.open, flow.bad) == (0, 0)


def test_a_step_that_was_cancelled_alone_stops_what_comes_after_it(world: World) -> None:
    start(world, step("a"), step("b", "a"), step("c", "b"))
    assert world.store.cancel("b", "not wanted") == "cancelled"
    assert world.get("c").reason == "stopped: job b was cancelled"
    run(world, "a")
    assert world.store.revive("b") is not None
    assert statuses(world, "abc") == {"a": "succeeded", "b": "queued", "c": "waiting"}


def test_cancel_of_the_whole(world: World) -> None:
    start(world, step("a"), step("b"), step("c", "ab"))
    run(world, "a")
    world.run("b", "t", pseq=2)
    assert world.store.cancel_flow("f", "enough") == "cancelled"
    assert statuses(world, "abc") == {"a": "succeeded", "b": "running", "c": "cancelled"}
    assert world.get("c").reason == "enough"
    assert world.store.cancel_requested(["b"]) == {"b": "enough"}
    world.store.cancelled("b", "t", OK, "enough")
    assert world.store.cancel_flow("f", "enough") == "ended"
    assert world.store.cancel_flow("g", "enough") == "missing"


# ---- compensation --------------------------------------------------------------------------------------------------


def saga(world: World) -> None:
    """a, b, c in a row; u undoes a, v undoes b, in the reverse order."""
    undo = [
        step("u", "v", undoes="a", uses=("a",), rule="skip"),
        step("v", undoes="b", uses=("b",), rule="skip"),
    ]
    jobs = [step("a"), step("b", "a"), step("c", "b")]
    start(world, *jobs, *undo, undo="uv")


def test_what_was_done_is_undone_in_the_reverse_order(world: World) -> None:
    saga(world)
    run(world, "a")
    run(world, "b")
    assert statuses(world, "uv") == {"u": "waiting", "v": "waiting"}
    assert rang(world, run(world, "c", how="fail")) == ["v"]
    assert statuses(world, "uv") == {"u": "waiting", "v": "queued"}
    assert rang(world, run(world, "v", how="fail")) == ["u"]  # one that fails keeps the others from nothing
    run(world, "u")
    flow = world.store.flow("f")
    assert flow is not None
    assert (flow.open, flow.undoing) == (0, True)


def test_only_what_has_succeeded_is_undone(world: World) -> None:
    saga(world)
    run(world, "a")
    run(world, "b", how="fail")
    assert statuses(world, "cuv") == {"c": "cancelled", "u": "queued", "v": "cancelled"}
    assert world.get("v").reason == "there is nothing to undo"


def test_where_all_goes_well_nothing_is_undone(world: World) -> None:
    saga(world)
    for id in "abc":
        run(world, id)
    assert statuses(world, "uv") == {"u": "cancelled", "v": "cancelled"}
    assert world.get("u").reason == "not needed: nothing has failed"


def test_a_cancel_of_the_whole_undoes_what_was_done(world: World) -> None:
    saga(world)
    run(world, "a")
    world.store.cancel_flow("f", "enough")
    assert statuses(world, "bcuv") == {"b": "cancelled", "c": "cancelled", "u": "queued", "v": "cancelled"}


# ---- results -------------------------------------------------------------------------------------------------------


def test_a_result_stays_until_those_that_take_it_have_ended(world: World) -> None:
    start(world, step("a", result_ttl=5.0), step("b", "a"))
    run(world, "a")
    world.advance(40 * DAY)
    assert world.store.inputs(["a"])[0].text == '"a"'
    run(world, "b")
    assert world.store.result("a") == '"a"'
    world.advance(7)
    assert world.store.result("a") is None
    assert world.store.get("a") is not None
    world.advance(8 * DAY)
    assert world.store.get("a") is None


def test_a_result_stays_for_as_long_as_those_that_take_it_can_be_brought_back(world: World) -> None:
    start(world, step("a", result_ttl=0.0), step("b", "a"), step("c", "ab"))
    run(world, "a")
    run(world, "b", how="fail")
    world.advance(20 * DAY)
    assert world.store.revive("b") is not None
    assert statuses(world, "abc") == {"a": "succeeded", "b": "queued", "c": "waiting"}
    run(world, "b")
    assert [one.text for one in world.store.inputs(["a", "b"])] == ['"a"', '"b"']


def test_all_of_a_workflow_goes_in_the_end(redis_world: World) -> None:
    world = redis_world
    saga(world)
    run(world, "a")
    run(world, "b", how="fail")
    run(world, "u")
    world.advance(31 * DAY)
    left = {key for key in world.key_names() if key.startswith(("job:", "flow:", "members:", "waits:", "result:"))}
    assert left == set()


# ---- much of it ----------------------------------------------------------------------------------------------------


def test_what_is_too_much_for_one_step_is_done_by_those_who_follow(redis_world: World) -> None:
    world, n = redis_world, 450
    ids = [f"m{number}" for number in range(n)]
    flow = NewFlow("f", "t", n + 1, near="a")
    a = FlowJob(step("a").new, next=tuple(ids))
    members = [FlowJob(step(id).new, after=("a",)) for id in ids]
    assert world.store.create_flow(flow, [*members, a]) == []
    assert world.store.start_flow(flow).taken == ()  # of all that could be looked at none was without others
    while world.store.follow(100).more:
        pass
    answer = run(world, "a")
    assert len(rang(world, answer)) == 200
    rounds = 1
    while world.store.follow(100).more:
        rounds += 1
    assert rounds == 3
    assert {one.status for one in map(world.get, ids)} == {JobStatus.queued}


def commands(world: World) -> int:
    return sum(one["calls"] for one in world.raw.info("commandstats").values())


def test_the_cost_is_linear_in_the_members(redis_world: World) -> None:
    """Counted in commands, those that the scripts call among them: twice the members cost twice as much, and no member
    costs more because there are many."""
    world, costs, last = redis_world, {}, {}
    for n in (100, 200, 400):
        ids = [f"n{n}-{number}" for number in range(n)]
        flow = NewFlow(f"f{n}", "t", n + 1, near=ids[0])
        z = FlowJob(step(f"z{n}").new, after=tuple(ids), uses=tuple(ids))
        before = commands(world)
        for at in range(0, n + 1, 100):
            some = [z, *(FlowJob(step(id).new, next=(f"z{n}",), needs=1) for id in ids)][at : at + 100]
            assert world.store.create_flow(flow, some) == []
        world.store.start_flow(flow)
        while world.store.follow(100).more:
            pass
        for id in ids:
            alone = commands(world)
            run(world, id)
            last[n] = commands(world) - alone
        run(world, f"z{n}")
        while world.store.follow(100).more:
            pass
        costs[n] = commands(world) - before
    assert max(last.values()) - min(last.values()) <= 12, last
    assert costs[400] / costs[200] == pytest.approx(2, rel=0.05)
    assert costs[200] / costs[100] == pytest.approx(2, rel=0.05)


# ---- children ------------------------------------------------------------------------------------------------------


def test_a_child_is_recorded_in_the_name_of_a_running_attempt_alone(world: World) -> None:
    world.new("p")
    world.run("p", "t")
    assert world.new("c", parent=("p", "another")).stale
    assert world.store.get("c") is None
    made = world.new("c", parent=("p", "t"))
    assert (made.created, made.stale) == (True, False)
    assert (world.get("c").parent, world.get("c").root, world.get("p").children) == ("p", "p", ("c",))
    world.store.retry("p", "t", BAD, 0.0, "")
    world.run("p", "t2")
    assert world.new("c", token="later", parent=("p", "t2")).created is False
    assert world.store.members("p") == ["c"]
    assert world.new("d", parent=("p", "t")).stale


def test_a_cancel_reaches_the_children_and_theirs(world: World) -> None:
    world.new("p")
    world.run("p", "t")
    for id in ("c", "d"):
        world.new(id, parent=("p", "t"))
    world.run("c", "tc", pseq=2)
    world.new("g", parent=("c", "tc"))
    start(world, step("a"), step("b", "a"), parent=("p", "t"))
    assert (world.get("g").root, world.get("a").root, world.get("a").parent) == ("p", "p", "p")
    assert world.get("p").children == ("c", "d", "~f")
    assert world.store.cancel("p", "enough") == "requested"
    assert statuses(world, "cdgab") == {
        "c": "running", "d": "cancelled", "g": "cancelled", "a": "cancelled", "b": "cancelled"
    }  # fmt: skip
    assert world.store.cancel_requested(["p", "c"]) == {"p": "enough", "c": "enough"}
    world.new("late", parent=("p", "t"))
    world.store.cancelled("p", "t", OK, "enough")
    assert world.get("late").status is JobStatus.cancelled


def test_children_live_on_when_their_parent_ends_otherwise(world: World) -> None:
    world.new("p")
    world.run("p", "t")
    world.new("c", parent=("p", "t"))
    world.store.fail("p", "t", BAD, "bad")
    assert world.get("c").status is JobStatus.queued


def test_a_job_for_another_backend_is_for_its_stewards_at_once(world: World) -> None:
    made = world.new("x", route=ELSEWHERE, elsewhere=True)
    assert made.pseq is None
    assert world.ids(world.store.take_lost(ELSEWHERE, 10)) == ["x"]


def test_a_job_as_a_node_of_its_tree(world: World) -> None:
    start(world, step("a", rule="skip"), step("b", "a"))
    a, b, nobody = world.store.kin(["a", "b", "nobody"])
    assert a is not None
    assert b is not None
    assert (a.status, a.flow, a.root, a.rule, a.after) == ("queued", "f", "f", "skip", ())
    assert (b.status, b.after, b.children, nobody) == ("waiting", ("a",), False, None)
    info = world.get("b")
    assert (info.flow, info.after) == ("f", ("a",))


def test_those_that_wait_are_listed_and_cannot_be_purged(world: World) -> None:
    from store_world import list_all

    start(world, step("a"), step("b", "a"))
    assert {one.id: str(one.status) for one in list_all(world, statuses=frozenset({JobStatus.waiting}))} == {
        "b": "waiting"
    }
    assert world.store.purge(R, 10, "emptied") == ["a"]
    assert world.get("b").status is JobStatus.cancelled  # by the end of a
