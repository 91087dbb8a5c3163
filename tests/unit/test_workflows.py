"""Workflows and children, on the memory backend: what a user builds, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from queuekit import (
    App,
    Call,
    ConfigError,
    Job,
    JobCancelled,
    JobConflict,
    JobFailed,
    JobStatus,
    Node,
    PayloadContext,
    PayloadError,
    RetryPolicy,
    RetryRule,
    Settings,
    StaleAttempt,
    Workflow,
    agent_task,
    chain,
    chord,
    current_job,
    group,
)
from queuekit.message import Message
from queuekit.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuekit.events import JobEvent
    from queuekit.store.memory import MemoryStore

KEY = sha256(b"key").hexdigest()


class Page(BaseModel):
    url: str
    words: int


ran: list[Any] = []


@agent_task(name="flows.fetch")
def fetch(url: str) -> Page:
    ran.append(url)
    return Page(url=url, words=len(url))


@agent_task(name="flows.count")
async def count(page: Page, *, more: int = 0) -> int:
    assert isinstance(page, Page)
    return page.words + more


@agent_task(name="flows.total")
def total(numbers: list[int]) -> int:
    ran.append("total")
    return sum(numbers)


@agent_task(name="flows.some")
def some(numbers: list[int | None]) -> list[int | None]:
    return numbers


@agent_task(name="flows.plus")
def plus(number: int, more: int = 1) -> int:
    ran.append(number)
    return number + more


@agent_task(name="flows.fail")
def fail(number: int) -> int:
    raise ValueError("bad")


@agent_task(name="flows.flaky", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))], max_attempts=3))
def flaky(number: int) -> int:
    if current_job().attempt < 3:
        raise ConnectionError("not yet")
    return number


@agent_task(name="flows.undo")
def undo(number: int) -> None:
    ran.append(f"undo {number}")


@agent_task(name="flows.untyped")
def untyped(value: Any) -> Any:
    return value


@agent_task(name="flows.wrong")
def wrong(number: int) -> Any:
    return "no number"


@agent_task(name="flows.thrown_away", keep_result=False)
def thrown_away(number: int) -> int:
    return number


@pytest.fixture(autouse=True)
def app() -> Iterator[App]:
    ran.clear()
    app = App(Settings(backend="memory"))
    with app.activate():
        yield app


# ---- shapes --------------------------------------------------------------------------------------------------------


def test_a_chain_hands_each_result_to_the_next() -> None:
    job = chain(fetch.bind("abc"), count, plus).enqueue()
    assert job.result() == 4
    info = job.info()
    assert (info.workflow, info.root, info.after) == (job.id, job.id, (f"{job.id}-1",))
    assert fetch.bind("abcd").then(count).then(plus).enqueue().result() == 5


def test_a_step_can_be_a_function_of_the_result_before() -> None:
    assert chain(fetch.bind("abc"), lambda page: count.bind(page, more=10), plus).enqueue().result() == 14
    assert chain(plus.bind(1), lambda n: group([plus.bind(n), plus.bind(n, 5)]), total).enqueue().result() == 10
    assert chain(plus.bind(1), lambda n: chain(plus.bind(n), plus), plus).enqueue().result() == 5


def test_a_group_gives_its_results_in_order() -> None:
    jobs = group([plus.bind(n) for n in (3, 1, 2)]).enqueue()
    assert jobs.results() == [4, 2, 3]
    assert len(jobs.jobs) == 3
    assert plus.map([3, 1]).enqueue().results() == [4, 2]
    assert len(plus.map(range(4))) == 4


def test_a_chord_gets_all_results_and_starts_after_all() -> None:
    assert chord([plus.bind(n) for n in range(10)], total).enqueue().result() == 55
    assert ran[-1] == "total"
    assert chord([chain(fetch.bind("ab"), count), plus.bind(1)], total).then(plus).enqueue().result() == 5


def test_an_empty_group_is_a_list_without_anything() -> None:
    assert group([]).then(total).enqueue().result() == 0
    assert plus.map([]).enqueue().results() == []


def test_any_graph_without_a_circle() -> None:
    flow = Workflow()
    page = flow.add(fetch.bind("abc"))
    words = flow.add(count.bind(page.result))
    both = flow.add(total.bind([words.result, 3, words.result]))
    last = flow.add(untyped.bind({"sum": both.result, "page": [page.result, {"again": page.result}]}))
    noted = flow.add(plus.bind(100), after=[last])
    made = flow.enqueue()
    shown = {"url": "abc", "words": 3}
    assert made.job(noted).result() == 101
    assert made.job(last).result() == {"sum": 9, "page": [shown, {"again": shown}]}
    assert ran == ["abc", "total", 100]
    assert made.job(noted).id == made.id  # it is the one that ends it
    assert [job.id for job in made.jobs[:2]] == [f"{made.id}-0", f"{made.id}-1"]


def test_the_async_face() -> None:
    asyncio.run(the_async_face())


async def the_async_face() -> None:
    job = await chain(plus.bind(1), plus).aenqueue()
    assert await job.aresult() == 3
    assert await (await plus.map([1]).aenqueue()).aresults() == [2]
    assert await (await plus.bind(1).aenqueue()).aresult() == 2
    flow = Workflow()
    flow.add(plus.bind(1))
    assert await (await flow.aenqueue()).acancel() is True


def test_each_step_is_retried_by_its_own_policy() -> None:
    job = chain(plus.bind(1), flaky, plus).enqueue()
    assert job.result() == 3
    flaky_job = Job.fetch(job.info().after[0])
    assert [one.outcome for one in flaky_job.info().attempts] == ["retried", "retried", "succeeded"]


def test_a_delay_counts_from_when_a_step_may_start(app: App) -> None:
    job = chain(plus.bind(1), plus.options(delay=60)).enqueue()
    assert app.run_until_idle(wait=False) == 1
    assert job.status() is JobStatus.scheduled
    assert job.result() == 3


def test_nothing_is_recorded_where_one_step_cannot_be(app: App) -> None:
    with pytest.raises(PayloadError, match="number"):
        chain(plus.bind("x"), plus).enqueue()  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="takes at most 1 positional"):
        chain(plus.bind(1), lambda n: fail.bind(n, n)).enqueue()  # type: ignore[call-arg]
    store: MemoryStore = app.store  # type: ignore[assignment]
    assert store._jobs == {}


def test_the_same_workflow_again_is_the_existing_one() -> None:
    first = chain(plus.bind(1), plus).enqueue(id="once")
    assert (first.id, first.created, first.result()) == ("once", True, 3)
    again = chain(plus.bind(1), plus).enqueue(id="once")
    assert (again.created, again.result(), ran) == (False, 3, [1, 2])


def test_another_workflow_under_an_id_that_is_taken() -> None:
    plus.options(id="taken").enqueue(1)
    with pytest.raises(JobConflict, match="job 'taken' exists, and asks for something else") as told:
        chain(plus.bind(1), plus).enqueue(id="taken")
    assert (told.value.recorded, told.value.job_id) == (False, "taken")


def test_steps_with_ids_of_their_own() -> None:
    job = chain(plus.options(id="mine").bind(1), plus).enqueue()
    assert job.result() == 3
    assert plus.job("mine").result() == 2
    with pytest.raises(ConfigError, match="two steps of a workflow have the id 'mine'"):
        chain(plus.options(id="mine").bind(1), plus.options(id="mine")).enqueue()


@pytest.mark.parametrize("id", ["", "a b", "x" * 101, 3])
def test_an_id_that_cannot_be(id: Any) -> None:
    with pytest.raises(ConfigError, match="Workflow"):
        Workflow(id=id)


def test_what_cannot_be_a_part() -> None:
    flow, other = Workflow(), Workflow()
    node = other.add(plus.bind(1))
    with pytest.raises(ConfigError, match="which is not of this workflow"):
        flow.add(plus.bind(node.result))
    with pytest.raises(ConfigError, match="is none of this one"):
        flow.enqueue().job(node)
    with pytest.raises(ConfigError, match=r"has given 3: a task, or a function that gives task.bind"):
        chain(plus.bind(1), lambda _: 3).enqueue()  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="calls made by task.bind"):
        group([3]).enqueue()  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="ends with a group"):
        chain(plus.bind(1), lambda n: group([plus.bind(n), plus.bind(n)])).enqueue()
    with pytest.raises(ConfigError, match="ends with a group"):
        group([group([plus.bind(1), plus.bind(1)])]).enqueue()
    with pytest.raises(ConfigError, match="on_failure"):
        plus.bind(1).on_failure("ignore")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="is thrown away"):
        chain(thrown_away.bind(1), plus).enqueue()
    assert chain(thrown_away.bind(1), lambda _: plus.bind(1)).enqueue().result() == 2  # it is not handed on
    assert "the result of <step 0 of the workflow, flows.plus>" in repr(node.result)


# ---- what is handed on ---------------------------------------------------------------------------------------------


def test_a_result_that_does_not_fit_fails_the_step_at_once() -> None:
    """Another worker could do no better: it is not handed back for an hour."""
    job = chain(wrong.bind(1), plus).enqueue()
    with pytest.raises(JobFailed, match="number") as told:
        job.result()
    assert told.value.error_type.endswith("InputError")
    assert len(told.value.info.attempts) == 1


def test_results_go_by_reference(app: App) -> None:
    job = chain(plus.bind(1), plus).enqueue()
    record = app.store.get(job.id)
    assert record is not None
    message = Message.open(record.message)
    assert (message.args, message.inputs) == ([None], [[[0], f"{job.id}-0", "flows.plus"]])
    assert message.version == 1


def test_two_places_of_one_result_are_two_values() -> None:
    flow = Workflow()
    page = flow.add(untyped.bind({"a": []}))
    pair = flow.add(untyped.bind([page.result, page.result]))
    assert flow.enqueue().job(pair).result() == [{"a": []}, {"a": []}]


def test_other_arguments_by_hand_take_the_place_of_results(app: App) -> None:
    job = chain(wrong.bind(1), plus).enqueue()
    with pytest.raises(JobFailed):
        job.result()
    app.revive(job.id, arguments=([41], {}))
    assert job.result() == 42


class Box:
    """Stands for encryption, bound to what it is of."""

    def encode(self, data: bytes, context: PayloadContext) -> bytes:
        return json.dumps([secrets.token_hex(4), repr(context), data[::-1].decode("latin-1")]).encode()

    def decode(self, data: bytes, context: PayloadContext) -> bytes:
        _, bound, text = json.loads(data)
        assert bound == repr(context)
        return str(text).encode("latin-1")[::-1]


def test_through_a_payload_codec() -> None:
    app = App(Settings(backend="memory", codec=Box()))
    with app.activate():
        job = chord([fetch.bind("ab"), fetch.bind("abc")], untyped.bind).enqueue()
        assert [one["words"] for one in job.result()] == [2, 3]
        record = app.store.get(job.id)
        assert record is not None
        assert Message.open(record.message).payload is not None


def test_with_a_signing_key_only_results_that_a_worker_has_signed_are_taken() -> None:
    app = App(Settings(backend="memory", signing_key=KEY, unknown_grace=0.5))
    store: MemoryStore = app.store  # type: ignore[assignment]
    with app.activate():
        assert chain(plus.bind(1), plus).enqueue().result() == 3
        forged = chain(plus.bind(1), plus.options(delay=5)).enqueue()
        app.run_until_idle(wait=False)
        store._jobs[f"{forged.id}-0"].result = "41"
        with pytest.raises(JobFailed, match="no worker could run it"):
            forged.result()
        assert 41 not in ran


def test_a_result_that_is_gone_fails_the_step(app: App) -> None:
    job = chain(plus.bind(1), plus.options(delay=5)).enqueue()
    app.run_until_idle(wait=False)
    store: MemoryStore = app.store  # type: ignore[assignment]
    store._jobs[f"{job.id}-0"].result = None
    with pytest.raises(JobFailed, match="has expired or was not kept"):
        job.result()


# ---- failure -------------------------------------------------------------------------------------------------------


def test_a_failure_stops_what_comes_after_it() -> None:
    job = chain(plus.bind(1), fail, plus, plus).enqueue()
    with pytest.raises(JobCancelled, match=rf"stopped: job {job.id}-1 has failed"):
        job.result()
    assert ran == [1]


def test_with_skip_the_others_go_on_and_get_none_in_its_place() -> None:
    parts = [plus.bind(1).on_failure("skip"), fail.bind(1).on_failure("skip")]
    assert chord(parts, some).enqueue().result() == [2, None]
    branch = chain(fail.bind(1), lambda n: plus.bind(n).on_failure("skip"))
    assert chord([branch, plus.bind(1)], some).enqueue().result() == [None, 2]  # its last step says so


def test_what_was_done_is_undone_in_reverse_where_it_is_stopped(app: App) -> None:
    job = chain(
        plus.bind(1).compensate(undo.bind),
        lambda n: plus.bind(n).compensate(undo.bind(20)),
        lambda n: fail.bind(n).compensate(undo.bind(30)),
    ).enqueue()
    with pytest.raises(JobFailed):
        job.result()
    app.run_until_idle()
    assert ran == [1, 2, "undo 20", "undo 2"]


def test_branches_are_undone_before_what_they_came_from(app: App) -> None:
    flow = Workflow()
    first = flow.add(plus.bind(1).compensate(undo.bind(1)))
    between = flow.add(plus.bind(first.result))
    left = flow.add(plus.bind(between.result).compensate(undo.bind(2)))
    right = flow.add(plus.bind(between.result).compensate(undo.bind(3)))
    flow.add(fail.bind(left.result), after=[right])
    flow.enqueue()
    app.run_until_idle()
    undone = [one for one in ran if isinstance(one, str)]
    assert sorted(undone[:2]) == ["undo 2", "undo 3"]
    assert undone[2:] == ["undo 1"]


def test_nothing_is_undone_where_all_goes_well(app: App) -> None:
    assert chain(plus.bind(1).compensate(undo.bind(1)), plus).enqueue().result() == 3
    app.run_until_idle()
    assert ran == [1, 2]


def test_cancel_of_the_whole(app: App) -> None:
    told: list[JobEvent] = []
    app = App(Settings(backend="memory"), hooks=[told.append])
    with app.activate():
        job = chain(plus.bind(1), plus.options(delay=10), plus).enqueue()
        app.run_until_idle(wait=False)
        assert job.cancel("enough", whole=True)
        assert job.cancel(whole=True) is False
        with pytest.raises(JobCancelled, match="enough"):
            job.result()
        app.run_until_idle()
    assert ran == [1]
    kinds = [(str(one.kind), one.job_id.removeprefix(job.id)) for one in told]
    assert kinds[:3] == [("enqueued", "-0"), ("enqueued", "-1"), ("enqueued", "")]
    assert sorted(kinds[-2:]) == [("cancelled", ""), ("cancelled", "-1")]


def test_cancel_of_a_group_and_of_a_graph() -> None:
    jobs = plus.map([1, 2]).enqueue()
    assert jobs.cancel("enough")
    assert {job.status() for job in jobs.jobs} == {JobStatus.cancelled}
    assert jobs.cancel() is False


def test_whole_of_a_job_that_is_no_step() -> None:
    job = plus.enqueue(1)
    assert job.cancel(whole=True)
    assert job.status() is JobStatus.cancelled


# ---- children ------------------------------------------------------------------------------------------------------


@agent_task(name="flows.parent", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))]))
def parent(names: list[str], times: int = 1) -> list[str]:
    job = current_job()
    found = [job.enqueue(plus.bind(len(name))).id for name in names]
    found += [job.enqueue(plus.bind(len(name)), key=name).id for name in reversed(names)]
    found.append(job.enqueue(plus.map([1, 2]).then(total)).id)
    if job.attempt < times:
        raise ConnectionError("again")
    return found


def test_a_retry_finds_the_children(app: App) -> None:
    job = parent.enqueue(["a", "bb"], 3)
    found = job.result()
    assert len(set(found)) == 5
    app.run_until_idle()
    assert len(ran) == 4 + 2 + 1
    assert list(job.info().children) == found
    for id in found:
        info = Job.fetch(id).info()
        assert (info.parent, info.root, info.status) == (job.id, job.id, JobStatus.succeeded)
    assert job.info().root == job.id
    steps = Job.fetch(found[-1]).info().after
    assert {Job.fetch(id).info().parent for id in steps} == {job.id}


@agent_task(name="flows.changed", retry=RetryPolicy([RetryRule(ConnectionError, Backoff.fixed(1))]))
def changed() -> None:
    current_job().enqueue(plus.bind(current_job().attempt))
    raise ConnectionError("again")


def test_another_child_in_the_same_place_is_told() -> None:
    with pytest.raises(JobFailed, match="Children are found by their order: give enqueue.. a key"):
        changed.enqueue().result()


def test_a_child_can_have_an_id_of_its_own() -> None:
    @agent_task(name="flows.own_id")
    def own_id() -> str:
        return current_job().enqueue(plus.options(id="my-own").bind(1)).id

    assert own_id.enqueue().result() == "my-own"
    assert Job.fetch("my-own").info().parent is not None


@agent_task(name="flows.stale")
def stale(parent_id: str) -> str:
    job = replace(current_job(), _fence="another")
    for what in (plus.bind(1), plus.bind(1).then(plus)):
        with pytest.raises(StaleAttempt):
            job.enqueue(what)  # type: ignore[type-var]
    return "told"


def test_an_attempt_that_somebody_else_has_ended_starts_nothing(app: App) -> None:
    assert stale.enqueue("x").result() == "told"
    assert app.run_until_idle() == 0


@agent_task(name="flows.async_parent")
async def async_parent() -> list[int]:
    jobs = [await current_job().aenqueue(plus.bind(n)) for n in range(3)]
    return await Job.await_all(jobs)


def test_an_async_parent_waits_for_its_children() -> None:
    assert async_parent.enqueue().result() == [1, 2, 3]


def test_outside_of_a_worker_it_is_an_enqueue_like_any_other() -> None:
    job = current_job().enqueue(plus.bind(1))
    assert (job.result(), job.info().parent, job.info().root) == (2, None, job.id)
    assert current_job().enqueue(plus.bind(1).then(plus), key=1).result() == 3


def test_what_a_child_enqueues_otherwise_is_no_child() -> None:
    @agent_task(name="flows.plain")
    def plain() -> str:
        return plus.enqueue(1).id

    assert Job.fetch(plain.enqueue().result()).info().parent is None


def test_a_cancel_reaches_the_children(app: App) -> None:
    @agent_task(name="flows.cancels")
    def cancels() -> None:
        job = current_job()
        job.enqueue(plus.options(delay=60).bind(1))
        job.enqueue(plus.options(delay=60).bind(1).then(plus))
        app.cancel(job.id, "enough")
        job.raise_if_cancelled()

    job = cancels.enqueue()
    app.run_until_idle()
    assert {Job.fetch(id).status() for id in job.info().children} == {JobStatus.cancelled}
    assert ran == []


# ---- elsewhere -----------------------------------------------------------------------------------------------------


def test_a_backend_of_its_own_is_checked() -> None:
    with pytest.raises(ConfigError, match="backend='cellery' in options"):
        plus.options(backend="cellery")
    with pytest.raises(ConfigError, match="not from an App whose backend is 'memory'"):
        plus.options(backend="rq").enqueue(1)


def test_a_call_is_a_value() -> None:
    call = plus.bind(1)
    assert call == Call(plus, (1,), {})
    assert call.on_failure("skip").rule == "skip"
    assert call.rule == "stop"
    assert call.compensate(undo.bind(1)).undo == undo.bind(1)
    assert isinstance(Workflow().add(call), Node)


def test_a_step_with_a_unique_key_is_refused(app: App) -> None:
    with pytest.raises(ConfigError, match="key='k' on a step"):
        group([fetch.options(key="k").bind("u")]).enqueue()


def test_what_may_start_does_so_in_the_order_in_which_it_was_given(app: App) -> None:
    job = group([fetch.bind(url) for url in "abcdef"]).enqueue()
    before = [one.message.args[0] for one in app.adapter._broker]  # type: ignore[attr-defined]
    assert before == list("abcdef")
    assert app.run_until_idle() == 6
    assert job.results(timeout=0)
