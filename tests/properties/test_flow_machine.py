"""The laws of workflows, as a machine that takes random steps on two stores at once.

A workflow of a random shape is recorded, with rules and compensations, beside a job that starts children. Its jobs run,
fail, are lost, cancelled, delivered again and brought back in any order. Both stores give the same answers and keep the
same records, and after each step: nothing runs that waits for another, and nothing waits for what has ended. In the end
the stewards are left alone, and every job ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from both_stores import DAY, BothStores, numbers, run_machine
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queuekit.job import TERMINAL, TRANSITIONS, JobStatus
from queuekit.store import Beat, Claimed, FlowJob, Followed, IfEnded, NewFlow, NewJob, Unseen
from queuekit.store.ends import write_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.store import Store, Taken
    from queuekit.testing.servers import RedisServer

T = TypeVar("T")

ROUTES = ("rq:x:0", "celery:x:0")
NAMES = "abcdef"
recent = st.integers(0, 7)


@st.composite
def shapes(draw: Any) -> list[FlowJob]:
    """A graph: each node after some of those before it; some with a compensation. In the order to record it."""
    n = draw(st.integers(2, 5))
    after = {NAMES[i]: sorted(draw(st.sets(st.sampled_from(NAMES[:i])))) if i else [] for i in range(n)}
    undone = sorted(draw(st.sets(st.sampled_from(NAMES[:n]), max_size=2)))
    rules = {id: draw(st.sampled_from(["stop", "stop", "skip"])) for id in after}
    uses = {id: tuple(some) for id, some in after.items()}
    before: dict[str, list[str]] = dict(after)
    undo = {}
    for id in undone:
        waits = [f"u{other}" for other in undone if id in reach(other, after)]
        undo[f"u{id}"] = id
        before[f"u{id}"], uses[f"u{id}"], rules[f"u{id}"] = waits, (id,), "skip"
    out = []
    for id, some in before.items():
        new = NewJob(
            id, id, f"digest of {id}", draw(st.sampled_from(ROUTES)), "", draw(st.sampled_from([0.0, 90 * DAY]))
        )
        out.append(
            FlowJob(
                new,
                after=tuple(some),
                next=tuple(other for other, those in before.items() if id in those),
                uses=uses[id],
                needs=sum(id in those for those in uses.values()),
                rule=rules[id],
                undoes=undo.get(id, ""),
            )
        )
    return out[::-1]


def reach(id: str, after: dict[str, list[str]]) -> set[str]:
    """All that it comes after."""
    return {one for before in after[id] for one in {before, *reach(before, after)}}


class FlowMachine(BothStores):
    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self.tokens: list[tuple[str, str]] = []
        self.shape: dict[str, FlowJob] = {}

    # ---- both at once -----------------------------------------------------------------------------------------------

    def both(self, call: Callable[[Store], T]) -> T:
        mine, theirs = call(self.memory), call(self.redis)
        assert ordered(mine) == ordered(theirs)
        return mine

    def jobs(self, *statuses: str) -> list[str]:
        return [id for id, job in self.memory._jobs.items() if job.status in statuses]

    # ---- a workflow -------------------------------------------------------------------------------------------------

    @initialize(shape=shapes(), parts=st.integers(1, 3), parent=st.booleans())
    def begin(self, shape: list[FlowJob], parts: int, parent: bool) -> None:
        self.both(lambda store: store.beat("w", start=True))
        job = NewJob("p", "p", "d", ROUTES[0], "mine", 90 * DAY)
        self.both(lambda store: store.create(job))
        self.claim("p", "tp")
        self.tokens.append(("p", "tp"))
        self.shape = {one.new.id: one for one in shape}
        undo = tuple(one.new.id for one in shape if one.undoes)
        by = ("p", "tp") if parent else None
        self.flow = NewFlow("f", "t", len(shape) - len(undo), undo, by, near=shape[-1].new.id)
        for at in range(0, len(shape), parts):
            assert self.both(lambda store, at=at: store.create_flow(self.flow, shape[at : at + parts])) == []  # type: ignore[misc]
        assert set(self.jobs("waiting")) == set(self.shape)
        assert self.both(lambda store: store.start_flow(self.flow)).said == "started"

    @rule(token=st.sampled_from(["t", "u"]))
    def the_same_again(self, token: str) -> None:
        if self.memory._jobs["p"].fence == "tp" or self.flow.parent is None:
            again = NewFlow("f", token, self.flow.jobs, self.flow.undo, self.flow.parent, self.flow.near)
            assert self.both(lambda store: store.create_flow(again, [])) == []
            assert self.both(lambda store: store.start_flow(again)).said == ("started" if token == "t" else "was")

    def claim(self, id: str, token: str, delay: float | None = 0.0) -> Any:
        record = self.memory.get(id)
        assert record is not None
        end = IfEnded(delay, "", write_end("lost"), "lost")
        said = {
            "route": record.route,
            "worker": "w",
            "process": "1:1",
            "timeout": None,
            "on_lost": end,
            "on_limit": end,
        }
        answer: Any = Unseen("", "")
        while isinstance(answer, Unseen):
            seen, pseq, epoch = answer.state, record.pseq, self.memory.epoch()
            answer = self.both(
                lambda store: store.claim(id=id, epoch=epoch, pseq=pseq, token=token, seen=seen, **said)  # noqa: B023
            )
        return answer

    @precondition(lambda self: self.jobs("queued", "waiting", "retrying"))
    @rule(which=recent, delay=st.sampled_from([0.0, None]))
    def deliver(self, which: int, delay: float | None) -> None:
        """Also of what waits, or has run: a doorbell that is none."""
        ids = self.jobs("queued", "retrying") or self.jobs("waiting")
        id, token = ids[which % len(ids)], f"t{next(numbers)}"
        waits = self.memory.get(id).waits  # type: ignore[union-attr]
        if isinstance(self.claim(id, token, delay), Claimed):
            assert not waits
            self.tokens.append((id, token))

    @precondition(lambda self: self.tokens)
    @rule(
        which=recent,
        how=st.sampled_from(["finish"] * 4 + ["fail", "fail", "retry", "release", "cancelled"]),
        n=st.integers(1, 3),
    )
    def end(self, which: int, how: str, n: int) -> None:
        """One who holds the fence, or has lost it since; told once, or three times."""
        id, token = self.tokens[-1 - which % len(self.tokens)]

        def call(store: Store) -> Any:
            match how:
                case "finish":
                    return store.finish(id, token, write_end("succeeded"), f"by {token}", "proof")
                case "fail":
                    return store.fail(id, token, write_end("failed"), "bad")
                case "retry":
                    return store.retry(id, token, write_end("retried"), 0.0, "")
                case "release":
                    return store.release(id, token, write_end("released"), 0.0)
                case _:
                    return store.cancelled(id, token, write_end("cancelled"), "asked to")

        for number in range(n):
            answer = self.both(call)
            taken = [row for _, row in answer.taken] if isinstance(answer, Followed) else []
            assert not (number and taken)
            self.publish(taken)

    def publish(self, taken: list[Taken]) -> None:
        for row in taken:
            assert self.memory._jobs[row.message].status is JobStatus.queued

    @precondition(lambda self: self.jobs("running"))
    @rule()
    def the_process_dies(self) -> None:
        self.both(lambda store: store.beat("w", dead=["1:1"]))

    @rule()
    def the_worker_goes(self) -> None:
        self.both(lambda store: store.leave("w"))
        self.both(lambda store: store.beat("w", start=True))

    @rule(n=st.integers(1, 3))
    def follow(self, n: int) -> None:
        self.both(lambda store: store.follow(n))

    # ---- children ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs("running"))
    @rule(which=recent, name=st.sampled_from(["k", "l"]))
    def start_a_child(self, which: int, name: str) -> None:
        running = self.jobs("running")
        id = running[which % len(running)]
        fence = self.memory._jobs[id].fence or ""
        job = NewJob(f"{name}-{id}"[:20], name, "d", ROUTES[0], f"t{next(numbers)}", 90 * DAY, parent=(id, fence))
        assert not self.both(lambda store: store.create(job)).stale
        assert self.memory.members(id).count(job.id) == 1
        stale = NewJob("never", name, "d", ROUTES[0], "t", 1.0, parent=(id, "another"))
        assert self.both(lambda store: store.create(stale)).stale

    # ---- by hand ----------------------------------------------------------------------------------------------------

    @rule(which=recent)
    def cancel(self, which: int) -> None:
        ids = list(self.memory._jobs)
        id = ids[which % len(ids)]
        said = self.both(lambda store: store.cancel(id, "not wanted"))
        self.followed()
        if said == "cancelled":  # and not before: a child may have been brought back since, by hand
            for child in self.memory.members(id):
                if not child.startswith("~"):
                    job = self.memory._jobs[child]
                    assert job.status in TERMINAL or job.cancel is not None

    @rule()
    def cancel_the_whole(self) -> None:
        said = self.both(lambda store: store.cancel_flow("f", "enough"))
        self.followed()
        if said == "cancelled":
            for id, one in self.shape.items():
                job = self.memory._jobs[id]
                assert one.undoes or job.status in TERMINAL or job.cancel is not None

    @precondition(lambda self: self.jobs("failed", "cancelled"))
    @rule(which=recent)
    def revive(self, which: int) -> None:
        ended = self.jobs("failed", "cancelled")
        id = ended[which % len(ended)]
        waits = self.memory.get(id).waits  # type: ignore[union-attr]
        taken = self.both(lambda store: store.revive(id))
        assert (taken is None) is bool(waits)

    @rule(ms=st.sampled_from([1, 1000, 2000]))
    def time_passes(self, ms: int) -> None:
        self.clock.ms += ms

    def followed(self) -> None:
        while self.both(lambda store: store.follow(100)).more:
            pass

    # ---- what holds after each step ---------------------------------------------------------------------------------

    @invariant()
    def both_stores_are_equal_and_lawful(self) -> None:
        ids = list(self.memory._jobs)
        with self.raw.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(f"{self.prefix}job:{id}")
                pipe.smembers(f"{self.prefix}waits:{id}")
            rows = pipe.execute()
        assert self.memory.inputs(ids) == self.redis.inputs(ids)
        for id, row, waits in zip(ids, rows[::2], rows[1::2], strict=True):
            record, before = self.memory.get(id), self.before.get(id)
            assert record is not None
            assert set(record.waits) == waits
            mine = self.memory._jobs[id].ties
            if mine.flow:
                assert (mine.needs, mine.kept) == (int(row["needs"]), int(row.get("kept", 0)))
            if record == before and row == self.seen.get(id):
                continue
            assert record == self.redis.get(id), id
            self.seen[id] = row
            if before is not None and before.status is not record.status:
                # Several transitions in one step: an attempt that was lost, and retried at once.
                assert record.status in TRANSITIONS[before.status] or record.status in {
                    two for one in TRANSITIONS[before.status] for two in TRANSITIONS[one]
                }
            self.before[id] = record
        if not self.shape:
            return
        assert self.memory.flow("f") == self.redis.flow("f")
        assert self.memory.members("~f") == self.redis.members("~f")
        self.is_lawful()

    def is_lawful(self) -> None:
        jobs = self.memory._jobs
        flow = self.memory.flow("f")
        assert flow is not None
        for id, one in self.shape.items():
            job = jobs[id]
            for other in one.after:
                before, rule = jobs[other], self.shape[other].rule
                good = before.status is JobStatus.succeeded or (rule == "skip" and before.status in TERMINAL)
                if job.status is JobStatus.waiting:  # it waits for what has not ended well, and for nothing else
                    assert (other in job.ties.waits) is not good or other not in job.ties.waits
                    assert good or before.status not in TERMINAL, (id, other)
                elif job.status is not JobStatus.cancelled:
                    assert other not in job.ties.waits
            assert (job.ties.waits != set()) or job.status is not JobStatus.waiting
            counted = sum(jobs[user].status not in TERMINAL for user in self.shape if id in self.shape[user].uses)
            assert job.ties.needs == counted
        open_ones = [id for id, one in self.shape.items() if not one.undoes and jobs[id].status not in TERMINAL]
        if not flow.undoing:
            assert flow.open == len(open_ones)
        spoilt = [
            id
            for id, one in self.shape.items()
            if not one.undoes and one.rule != "skip" and jobs[id].status in {JobStatus.failed, JobStatus.cancelled}
        ]
        assert flow.bad == len(spoilt)
        for id, one in self.shape.items():
            if one.undoes and jobs[id].status not in {JobStatus.waiting, JobStatus.cancelled}:
                assert flow.undoing
                assert jobs[id].runs or jobs[one.undoes].status is not JobStatus.waiting

    # ---- and in the end ---------------------------------------------------------------------------------------------

    def left_to_the_stewards_every_job_ends(self) -> None:
        for _ in range(40):
            if all(job.status in TERMINAL for job in self.memory._jobs.values()):
                break
            self.clock.ms += 1000
            self.both(lambda store: store.leave("w"))
            self.both(lambda store: store.beat("w", start=True))
            self.followed()
            for route in ROUTES:
                taken = self.both(lambda store, route=route: store.take_due(route, 100))  # type: ignore[misc]
                taken += self.both(lambda store, route=route: store.take_lost(route, 100))  # type: ignore[misc]
            self.both_stores_are_equal_and_lawful()  # what that has queued is seen queued, before it runs
            for id in self.jobs("queued", "retrying"):
                token = f"last{next(numbers)}"
                if isinstance(self.claim(id, token, None), Claimed):
                    answer = self.both(
                        lambda store, id=id, token=token: store.finish(id, token, write_end("succeeded"), None)
                    )  # type: ignore[misc]
                    assert answer
                    self.both_stores_are_equal_and_lawful()
        left = {id: job.status for id, job in self.memory._jobs.items() if job.status not in TERMINAL}
        assert not left
        if self.shape:
            assert self.memory.flow("f").open == 0  # type: ignore[union-attr]
            assert all(job.ties.needs == 0 for job in self.memory._jobs.values())


def ordered(answer: object) -> object:
    if isinstance(answer, Followed):
        return sorted(answer.taken, key=lambda pair: (pair[0], pair[1].pseq))
    if isinstance(answer, Beat):
        return Beat(answer.alive, answer.processes, *(tuple(sorted(one)) for one in (answer.cancels, answer.lost)))
    if isinstance(answer, list):
        return sorted(answer, key=repr)
    return answer


def test_both_stores_join_jobs_alike_and_lawfully(server: RedisServer) -> None:
    run_machine(FlowMachine, server, examples=20, steps=30)
