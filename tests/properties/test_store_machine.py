"""The laws of the store, as a machine that takes random steps on two stores at once.

MemoryStore and RedisStore get the same operations on one clock. Every answer and, after each step, every record and
every index of the two are compared. A crash is an operation that does not follow; a lost reply is one that is asked
again; the clock jumps, and the whole store is rolled back to an earlier moment, as a failover does. At the end the
world is left to its stewards, and every job has to end.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from both_stores import DAY, BothStores, numbers, run_machine
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from queuekit.job import TERMINAL, TRANSITIONS, JobStatus
from queuekit.store import Beat, Claimed, Early, IfEnded, NewJob, NoLease, Query, RouteCount, Suspect, Taken, Unseen
from queuekit.store.ends import write_end
from queuekit.store.views import WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuekit.job import Record
    from queuekit.store import Claim, Created, Store
    from queuekit.testing.servers import RedisServer

T = TypeVar("T")

LEASE = 3.0
MAX_ATTEMPTS = 3

IDS = ("a", "b", "c", "d")
ROUTES = ("rq:x:0", "rq:y:0")
WORKERS = ("w1", "w2")
PROCESSES = ("1:1", "2:2")
DELAYS = (0.0, 0.5, 2.0)
KEYS = ("x", "y")
INDEXES = (
    "workers",
    "waiting",
    "running",
    "succeeded",
    "cancelled",
    "failed",
    *(f"{kind}:{route}" for kind in ("due", "queued", "outbox", "marks") for route in ROUTES),
)

ids, routes, workers, delays = (st.sampled_from(some) for some in (IDS, ROUTES, WORKERS, DELAYS))
recent = st.integers(0, 7)  # how far back among those there are


def failures(state: str) -> int:
    return int(state or 0)


def plan(state: str, outcome: str, delay: float, *, spare: bool = True) -> IfEnded:
    """What the policy of these jobs says when an attempt fails that began in this state: three attempts in all."""
    n = failures(state) + 1
    if n >= MAX_ATTEMPTS:
        return IfEnded(None, "", write_end(outcome), f"{outcome} {n} times", spare)
    return IfEnded(delay, str(n), write_end(outcome, delay=delay), "")


class StoreMachine(BothStores):
    lease = LEASE

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self.dumps = redis.Redis.from_url(server.url, protocol=2)

        self.bells: list[tuple[str, int, str]] = []  # (id, pseq, route): what a broker may deliver, also twice or never
        self.attempts: list[tuple[str, str, str]] = []  # (id, token, state): fences that were handed out
        self.again: tuple[Callable[[Store], Any], Any] | None = None  # the last call with a token, and its answer
        self.revived_at: dict[str, int] = dict.fromkeys(IDS, 0)  # the attempts that were made before the last revival
        self.snapshot: tuple[dict[str, Any], dict[str, Any], dict[str, int]] | None = None

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.dumps.close()

    # ---- both at once -----------------------------------------------------------------------------------------------

    def both(self, call: Callable[[Store], T]) -> T:
        self.again = None
        mine, theirs = call(self.memory), call(self.redis)
        assert sort(mine) == sort(theirs)
        return mine

    def with_token(self, call: Callable[[Store], T]) -> T:
        answer = self.both(call)
        if not isinstance(answer, (Early, NoLease, Suspect, Unseen)):  # those are of the moment
            self.again = (call, answer)
        return answer

    def publish(self, route: str, taken: Sequence[Taken], confirm: bool) -> None:
        self.bells += [(row.message, row.pseq, route) for row in taken]
        if confirm and taken:
            self.both(lambda store: store.published(route, [(row.message, row.pseq) for row in taken]))

    def claim(self, bell: tuple[str, int, str], token: str, worker: str, **more: Any) -> Claim:
        id, pseq, route = bell
        asked = {
            "epoch": self.memory.epoch(),
            "process": PROCESSES[0],
            "timeout": None,
            "seen": "",
            "delay": 0.5,
            **more,
        }
        how = {"delay": asked.pop("delay"), "spare": asked.pop("spare", True)}
        lost, limit = (plan(asked["seen"], outcome, **how) for outcome in ("lost", "failed"))
        return self.with_token(
            lambda store: store.claim(
                id=id, pseq=pseq, route=route, worker=worker, token=token, on_lost=lost, on_limit=limit, **asked
            )
        )

    def record(self, id: str) -> Record | None:
        return self.memory.get(id)

    def runs_on(self, id: str, worker: str) -> bool:
        return self.memory._jobs[id].worker == worker

    def jobs(self, *statuses: str) -> list[str]:
        return [id for id, job in self.memory._jobs.items() if job.status in statuses]

    # ---- enqueue and publish ----------------------------------------------------------------------------------------

    @initialize(
        settled=st.booleans(),
        beating=st.sets(workers),
        jobs=st.integers(1, 4),
        delay=st.sampled_from([None, 0.5]),
        key=st.sampled_from([None, *KEYS]),
    )
    def begin(self, settled: bool, beating: set[str], jobs: int, delay: float | None, key: str | None) -> None:
        for id in IDS[:jobs]:
            job = NewJob(id, id, "d", ROUTES[0], "mine", 100 * DAY, delay=delay, key=key if id == "a" else None)
            made = self.with_token(lambda store, job=job: store.create(job))  # type: ignore[misc]
            if made.pseq is not None:
                self.publish(ROUTES[0], [Taken(id, made.pseq, 1, made.epoch)], confirm=True)
        if settled:  # long enough for reaping to be no longer suspended
            self.ticks(seconds=4, beating=beating)

    @rule(
        id=ids,
        route=routes,
        when=st.sampled_from(["now", "soon", "at once", "later"]),
        expires=st.sampled_from([None, None, 1.0]),
        token=st.sampled_from(["mine", "yours"]),
        confirm=st.booleans(),
        key=st.sampled_from([None, *KEYS]),
        if_held=st.sampled_from(["existing", "replace", "debounce"]),
        key_ttl=st.sampled_from([None, 1000.0]),
    )
    def create(
        self,
        id: str,
        route: str,
        when: str,
        expires: float | None,
        token: str,
        confirm: bool,
        key: str | None,
        if_held: Any,
        key_ttl: float | None,
    ) -> None:
        now = self.clock.ms / 1000
        at, delay = {
            "now": (None, None), "soon": (None, 0.5), "at once": (now - 1, None), "later": (now + 2, None)
        }[when]  # fmt: skip
        job = NewJob(
            id, id, f"digest {token}", route, token, 100 * DAY, at=at, delay=delay, expires_in=expires,
            key=key, if_held=if_held, key_ttl=key_ttl,
        )  # fmt: skip
        holder = None if key is None else self.memory.holder(key)
        before = {one: self.record(one) for one in {id, holder} - {None}}
        made = self.with_token(lambda store: store.create(job))
        self.is_the_one(job, made, holder, before)
        again = self.again
        if made.again:  # as an App does: with the message for the job that holds the key
            id, job = made.other or "", replace(job, id=made.other or "", message=made.other or "")
            made = self.with_token(lambda store: store.create(job))
            again = self.again
            assert (made.created, made.same, made.other) == (False, True, id)
            found = self.record(id)
            assert found is not None
            assert (found.route, found.key) == (route, key)
        if made.pseq is not None:
            found = self.record(id)
            assert found is not None
            self.publish(found.route, [Taken(id, made.pseq, made.number, made.epoch)], confirm)
        self.again = again if not confirm else None

    def is_the_one(self, job: NewJob, made: Created, holder: str | None, before: dict[str, Record | None]) -> None:
        """Of a key there is one job: the one that held it, or this one."""
        if job.key is None or before[job.id] is not None:
            return
        old = None if holder is None else before[holder]
        assert self.memory.holder(job.key) == (job.id if made.created else holder)
        if old is None:
            assert (made.created, made.other) == (True, None)
            return
        waits = old.status not in TERMINAL and not old.runs
        assert made.created is (waits and job.if_held == "replace")
        assert made.again is (waits and job.if_held == "debounce")
        assert made.other == holder
        after = self.record(old.id)
        assert after == old if not made.created else after is not None and after.status is JobStatus.cancelled

    @precondition(lambda self: self.jobs("scheduled", "retrying", "queued"))
    @rule(route=routes, n=st.integers(1, 4), confirm=st.booleans())
    def take_due(self, route: str, n: int, confirm: bool) -> None:
        taken = self.both(lambda store: store.take_due(route, n))
        for row in taken:
            before = self.before[row.message]
            assert before.due is not None
            assert before.due * 1000 <= self.clock.ms + 0.001  # never early
        self.publish(route, taken, confirm)

    @precondition(lambda self: self.jobs("queued"))
    @rule(route=routes, n=st.integers(1, 4), confirm=st.booleans())
    def take_lost(self, route: str, n: int, confirm: bool) -> None:
        self.publish(route, self.both(lambda store: store.take_lost(route, n)), confirm)

    @precondition(lambda self: self.jobs("queued") and self.bells)
    @rule(which=recent)
    def published_late(self, which: int) -> None:
        waiting = [bell for bell in self.bells if bell[0] in self.jobs("queued")] or self.bells
        id, pseq, route = waiting[-1 - which % len(waiting)]
        self.both(lambda store: store.published(route, [(id, pseq)]))

    @precondition(lambda self: self.jobs("queued"))
    @rule(route=routes, depth=st.sampled_from([None, 0, 0, 5]))
    def mark(self, route: str, depth: int | None) -> None:
        self.both(lambda store: store.mark(route, depth))

    # ---- schedules --------------------------------------------------------------------------------------------------

    @rule(text=st.sampled_from(["one", "two"]), seconds=st.sampled_from([-1, 1, 3]), declared=st.booleans())
    def put_schedule(self, text: str, seconds: int, declared: bool) -> None:
        due = self.clock.ms + 1000 * seconds
        self.both(lambda store: store.put_schedule("s", text, text, due, declared=declared))
        self.schedules_are_equal()

    @precondition(lambda self: self.memory._schedules)
    @rule(paused=st.booleans())
    def pause_schedule(self, paused: bool) -> None:
        self.both(lambda store: store.pause_schedule("s", paused, self.clock.ms))
        self.schedules_are_equal()

    @precondition(lambda self: self.memory._schedules)
    @rule(id=ids, route=routes, key=st.sampled_from([None, *KEYS]), over=st.booleans(), times=st.integers(1, 2))
    def a_steward_fires(self, id: str, route: str, key: str | None, over: bool, times: int) -> None:
        """Whoever sees the tick, and however often: it is fired once."""
        for due in self.both(lambda store: store.due_schedules(5)):
            following = None if over else due.due + 2000
            job = NewJob(id, id, "d", route, "schedule s", 100 * DAY, at=due.due / 1000, key=key, if_held="replace")
            fire: dict[str, Any] = {
                "name": "s",
                "text": due.text,
                "due": due.due,
                "following": following,
                "jobs": [job],
                "once": over,
            }
            there = self.record(id)
            made = self.fire(**fire)
            assert made is not None
            if made:
                assert there is None
                found = self.record(id)
                assert found is not None
                assert (found.status, found.due, found.key) == (JobStatus.scheduled, due.due / 1000, key)
            for _ in range(times - 1):
                assert self.fire(**fire) is None
        self.schedules_are_equal()

    def fire(self, **asked: Any) -> list[str] | None:
        return self.both(lambda store: store.fire(**asked))

    def schedules_are_equal(self) -> None:
        self.both(lambda store: store.schedules())

    # ---- attempts ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.bells)
    @rule(which=recent, worker=workers, delay=delays)
    def a_due_doorbell_rings(self, which: int, worker: str, delay: float) -> None:
        """The ordinary case, which the broad one below meets too seldom."""
        waiting = [bell for bell in self.bells if bell[0] in self.jobs("queued", "retrying", "scheduled")]
        for bell in waiting[-1 - which % len(waiting) :][:1] if waiting else ():
            self.bells.append(bell)
            self.deliver(which=0, worker=worker, process=PROCESSES[0], timeout=None, delay=delay)

    @precondition(lambda self: self.bells)
    @rule(
        which=recent,
        worker=workers,
        process=st.sampled_from(PROCESSES),
        timeout=st.sampled_from([None, None, 1.0]),
        delay=delays,
        alone=st.booleans(),
        spare=st.sampled_from([True, True, False]),
    )
    def deliver(
        self,
        which: int,
        worker: str,
        process: str,
        timeout: float | None,
        delay: float,
        alone: bool = True,
        spare: bool = True,
    ) -> None:
        """A worker hears a doorbell: the newest or an old one, once or again."""
        bell, token = self.bells[-1 - which % len(self.bells)], f"t{len(self.attempts)}-{next(numbers)}"
        before = self.record(bell[0])
        more: dict[str, Any] = {"process": process, "timeout": timeout, "delay": delay, "alone": alone, "spare": spare}
        answer = self.claim(bell, token, worker, **more)
        if isinstance(answer, NoLease):
            self.both(lambda store: store.beat(worker, start=True))
            answer = self.claim(bell, token, worker, **more)
        if isinstance(answer, Unseen):
            answer = self.claim(bell, token, worker, seen=answer.state, **more)
            assert not isinstance(answer, Unseen)
        if isinstance(answer, Claimed):
            assert before is not None
            assert before.status not in TERMINAL | {JobStatus.running}
            assert before.due is None or before.due * 1000 <= self.clock.ms + 0.001
            assert answer.number == before.attempt + 1
            assert alone or not before.suspect
            beside = [self.memory._jobs[id].suspect for id in self.jobs("running") if self.runs_on(id, worker)]
            assert beside.count(2) <= 1 or before.suspect < 2
            self.attempts.append((bell[0], token, answer.state))

    @precondition(lambda self: self.jobs("running"))
    @rule(how=st.sampled_from(["retry", "retry", "retry", "fail", "release", "finish"]), delay=delays)
    def the_holder_ends(self, how: str, delay: float) -> None:
        (id, *_) = self.jobs("running")
        fence = self.memory._jobs[id].fence
        self.attempts.append(next(attempt for attempt in self.attempts if attempt[1] == fence))
        self.end(which=0, how=how, delay=delay)

    @precondition(lambda self: self.attempts)
    @rule(
        which=recent,
        how=st.sampled_from(["finish", "finish", "fail", "retry", "retry", "release", "cancelled"]),
        delay=delays,
    )
    def end(self, which: int, how: str, delay: float) -> None:
        """Somebody who once held a fence says how it went: its holder, or one who has lost it since."""
        id, token, state = self.attempts[-1 - which % len(self.attempts)]
        then = plan(state, "retried" if how == "retry" else "failed", delay)
        if how == "retry" and then.delay is None:
            how = "fail"
        before, inside = self.record(id), copy.copy(self.memory._jobs.get(id))

        def call(store: Store) -> bool:
            match how:
                case "finish":
                    return store.finish(id, token, write_end("succeeded"), f"by {token}")
                case "fail":
                    return store.fail(id, token, then.end, then.reason)
                case "retry":
                    return store.retry(id, token, then.end, then.delay or 0.0, then.state)
                case "release":
                    return store.release(id, token, write_end("released"), delay)
                case _:
                    return store.cancelled(id, token, write_end("cancelled"), "asked to")

        accepted, after = self.with_token(call), self.record(id)
        held = inside is not None and inside.status is JobStatus.running and inside.fence == token
        if held:
            assert accepted
            assert after is not None
            assert after.status is not JobStatus.running
        else:
            assert before == after
            done = {f"{token}:{how}", f"{token}:{how}-cancelled"}
            assert bool(accepted) is (inside is not None and inside.ended in done)

    @precondition(lambda self: self.attempts)
    @rule(
        which=recent,
        how=st.sampled_from(["begin", "keep", "keep", "forget", "ask"]),
        step=st.sampled_from(["plan", "draft"]),
        number=st.sampled_from([None, 1]),
    )
    def a_step(self, which: int, how: str, step: str, number: int | None) -> None:
        """Of whoever has held a fence. What was kept once is never another."""
        id, token, _ = self.attempts[-1 - which % len(self.attempts)]
        inside, before = self.memory._jobs.get(id), self.memory.steps(id) or {}
        held = inside is not None and inside.status is JobStatus.running and inside.fence == token

        def call(store: Store) -> object:
            match how:
                case "begin":
                    return store.begin_step(id, token, step, number)
                case "keep":
                    return store.keep_step(id, token, step, number, f"by {token}", 40)
                case "forget":
                    return store.forget_step(id, token, step)
                case _:
                    return store.steps(id, token)

        answer = self.both(call)
        after = self.both(lambda store: store.steps(id)) or {}
        assert (answer not in (None, False)) is held
        assert {name: one for name, one in before.items() if one.text is not None}.items() <= after.items()
        assert held or before == after

    @precondition(lambda self: self.attempts and self.bells)
    @rule(which=recent, worker=workers)
    def claim_arrives_late(self, which: int, worker: str) -> None:
        """A claim that was sent long ago, by a fence that was used since."""
        id, token, state = self.attempts[-1 - which % len(self.attempts)]
        bell = next((bell for bell in reversed(self.bells) if bell[0] == id), (id, 1, ROUTES[0]))
        inside = copy.copy(self.memory._jobs.get(id))
        answer = self.claim(bell, token, worker, seen=state)
        if isinstance(answer, Claimed) and inside is not None and inside.fence != token:
            assert not inside.ended.startswith(f"{token}:")  # rolled back, or two attempts ago: a fence once more
            self.attempts.append((id, token, answer.state))

    @precondition(lambda self: self.again is not None)
    @rule()
    def the_reply_was_lost(self) -> None:
        """The same call by the same token gives the same answer, and changes nothing."""
        assert self.again is not None
        call, answer = self.again
        state = self.state_of_memory()
        assert sort(self.with_token(call)) == sort(answer)
        assert self.state_of_memory() == state

    # ---- workers ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs("running"))
    @rule(
        worker=workers, start=st.booleans(), dead=st.sets(st.sampled_from(PROCESSES), max_size=1), found=st.booleans()
    )
    def beat(self, worker: str, start: bool, dead: set[str], found: bool) -> None:
        how = "found" if found else "dead"
        answer = self.both(lambda store: store.beat(worker, start=start, **{how: sorted(dead)}))
        assert not dead & set(answer.processes)

    @precondition(lambda self: self.memory._workers)
    @rule(worker=workers, seen=st.booleans())
    def leave(self, worker: str, seen: bool) -> None:
        self.both(lambda store: store.leave(worker, seen=seen))

    @rule(n=st.integers(1, 3))
    def reap(self, n: int) -> None:
        self.both(lambda store: store.reap(n))

    @precondition(lambda self: self.jobs("running"))
    @rule()
    def all_workers_fall_silent(self) -> None:
        self.ticks(seconds=6, beating=set())
        assert not self.jobs("running")

    @rule(seconds=st.integers(1, 5), beating=st.sets(workers))
    def ticks(self, seconds: int, beating: set[str]) -> None:
        """Quiet time, with somebody ticking and some workers alive: who beats loses nothing, however
        long it takes."""
        for _ in range(seconds):
            self.clock.ms += 1000
            running = {id: job.worker for id, job in self.memory._jobs.items() if job.status is JobStatus.running}
            for worker in sorted(beating):
                self.both(lambda store, worker=worker: store.beat(worker, start=True))  # type: ignore[misc]
            for id, _ in self.both(lambda store: store.reap(10)):
                assert running[id] not in beating

    # ---- by hand ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.memory._jobs)
    @rule(id=ids, reason=st.sampled_from(["not wanted", "too dear"]))
    def cancel(self, id: str, reason: str) -> None:
        before = self.record(id)
        said = self.both(lambda store: store.cancel(id, reason))
        if before is None:
            assert said == "missing"
        elif before.status in TERMINAL:
            assert said == "ended"
        else:
            assert said == ("requested" if before.status is JobStatus.running else "cancelled")
        self.both(lambda store: store.cancel_requested(IDS))

    @precondition(lambda self: self.jobs("failed", "cancelled"))
    @rule(which=recent, route=st.sampled_from([None, *ROUTES]), confirm=st.booleans())
    def revive(self, which: int, route: str | None, confirm: bool) -> None:
        ended = self.jobs("failed", "cancelled", "succeeded")
        id = ended[which % len(ended)]
        taken = self.both(lambda store: store.revive(id, route=route))
        record = self.record(id)
        if taken is not None:
            assert record is not None
            self.revived_at[id] = record.attempt
            self.publish(record.route, [taken], confirm)

    @precondition(lambda self: self.jobs("scheduled", "queued", "retrying"))
    @rule(route=routes, n=st.integers(1, 3))
    def purge(self, route: str, n: int) -> None:
        """Only what waits on the route is cancelled: up to n of it, and fewer only where there is no more."""
        waiting = {id for id in self.jobs("scheduled", "queued", "retrying") if self.memory._jobs[id].route == route}
        gone = self.both(lambda store: store.purge(route, n, "emptied"))
        assert set(gone) <= waiting
        assert len(gone) == min(n, len(waiting))
        assert all(self.memory.status(id) is JobStatus.cancelled for id in gone)
        assert self.count(route).waiting + self.count(route).parked == len(waiting) - len(gone)

    # ---- looking ----------------------------------------------------------------------------------------------------

    def count(self, route: str) -> RouteCount:
        found = self.both(lambda store: store.counts())
        return next((one for one in found if one.route == route), RouteCount(route))

    @rule(
        statuses=st.sets(st.sampled_from(JobStatus)),
        queue=st.sampled_from([None, None, "x", "y"]),
        newest_first=st.booleans(),
        n=st.integers(1, 3),
    )
    def look_at_a_list(self, statuses: set[JobStatus], queue: str | None, newest_first: bool, n: int) -> None:
        """All pages together are the jobs that fit, each once and in order; the counts say as many."""
        query = Query(frozenset(statuses), queue=queue, newest_first=newest_first)
        found: list[tuple[float, str]] = []
        cursor = None
        while True:
            page = self.both(lambda store, cursor=cursor: store.jobs(query, n, cursor))  # type: ignore[misc]
            found += [(one.moment, one.id) for one in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == sorted(set(found), reverse=newest_first)
        fitting = {
            id
            for id, job in self.memory._jobs.items()
            if (not statuses or job.status in statuses) and queue in {None, job.route.split(":")[1]}
        }
        assert {id for _, id in found} == fitting
        for route in ROUTES:
            here = [job.status for job in self.memory._jobs.values() if job.route == route]
            counted = self.count(route)
            assert counted.running == here.count(JobStatus.running)
            assert counted.waiting + counted.parked == sum(status in WAITING for status in here)
            assert (counted.oldest is None) is (counted.waiting == 0)

    @rule()
    def look_at_the_workers(self) -> None:
        found = {one.name: one for one in self.both(lambda store: store.consumers())}
        assert set(found) == set(self.memory._workers)
        assert {id for one in found.values() for id in one.jobs} == set(self.jobs("running"))

    # ---- time and disaster ------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 400, 1000, 2000, 5000]))
    def time_passes(self, ms: int) -> None:
        self.clock.ms += ms

    @precondition(lambda self: self.jobs("running", "queued", "retrying"))
    @rule(ms=st.sampled_from([3_600_000, 10_000, -700, -3_600_000]))
    def the_clock_jumps(self, ms: int) -> None:
        self.clock.ms += ms

    @rule()
    def save(self) -> None:
        keys = list(self.raw.scan_iter(f"{self.prefix}*", count=1000))
        self.snapshot = (self.state_of_memory(), {key: self.dumps.dump(key) for key in keys}, dict(self.revived_at))

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def roll_back(self) -> None:
        """A failover to a copy that was behind: the same epoch, an older truth. Whoever acted since knows more."""
        assert self.snapshot is not None
        memory, dumped, self.revived_at = copy.deepcopy(self.snapshot)
        vars(self.memory).update(memory)
        with self.dumps.pipeline() as pipe:
            for key in self.raw.scan_iter(f"{self.prefix}*", count=1000):
                pipe.delete(key)
            for key, value in dumped.items():
                pipe.restore(key, 0, value)
            pipe.execute()
        self.again = None
        self.seen = {}
        self.before = {id: record for id in IDS if (record := self.record(id)) is not None}

    # ---- what holds after each step ---------------------------------------------------------------------------------

    def state_of_memory(self) -> dict[str, Any]:
        fixed = {"_lock", "_clock", "_epoch", "_lease", "_retention", "_dead_ttl"}
        return copy.deepcopy({name: value for name, value in vars(self.memory).items() if name not in fixed})

    @invariant()
    def both_stores_are_equal_and_lawful(self) -> None:
        hashes, indexes, holds, cancels = self.look()
        for id in IDS:
            record = self.memory.get(id)
            if hashes[id] != self.seen.get(id) or record != self.before.get(id):
                self.seen[id] = hashes[id]
                assert record == self.redis.get(id)
                assert self.memory.result(id) == self.redis.result(id)
                self.is_lawful(id, record)
        self.can_be_found_again(indexes)
        self.one_job_of_a_key()
        for worker in WORKERS:
            held = self.memory._running_on(worker)
            assert holds[worker] == {id: job.process for id, job in held}
            assert cancels[worker] == {id for id, job in held if job.cancel is not None}

    def one_job_of_a_key(self) -> None:
        for key in KEYS:
            holder = self.memory.holder(key)
            alive = [id for id, job in self.memory._jobs.items() if job.key == key and job.status not in TERMINAL]
            assert alive in ([], [holder])
            if holder is not None and not alive:
                assert self.memory._jobs[holder].key_until is not None
        held = self.raw.mget([f"{self.prefix}key:{key}" for key in KEYS])
        assert [self.memory._keys.get(key) for key in KEYS] == held

    def is_lawful(self, id: str, record: Record | None) -> None:
        before = self.before.get(id)
        if record is None:
            assert before is None
            return
        self.before[id] = record
        if before is None:
            assert record.status in {JobStatus.scheduled, JobStatus.queued}
        elif before.status is not record.status:
            assert record.status in TRANSITIONS[before.status]
        assert 0 <= record.attempt - self.revived_at[id] <= MAX_ATTEMPTS
        open_runs = [n for n, (_, end) in enumerate(record.runs) if end is None]
        assert open_runs == ([len(record.runs) - 1] if record.status is JobStatus.running else [])
        assert (record.finished is not None) is (record.status in TERMINAL)
        assert record.suspect in ((0,) if record.status in TERMINAL else (0, 1, 2))
        if before is not None and len(before.runs) == len(record.runs) and record.status is not JobStatus.running:
            self.is_justly_ended(before, record)

    def is_justly_ended(self, before: Record, record: Record) -> None:
        """A loss makes a suspect, of the last attempt too; one that died with others ends no job before the third time
        that this happens to it."""
        start, end = record.runs[-1] if record.runs else (None, None)
        if before.status is not JobStatus.running or end is None:
            return
        if end["outcome"] == "lost" and record.status is JobStatus.failed and end.get("company"):
            assert before.suspect == 2 or not self.may_spare(record.id)
        if end["outcome"] == "released" and "company" in end:
            assert end["company"] > 0
            assert record.suspect == before.suspect + 1
        if end["outcome"] == "lost" and record.status is JobStatus.retrying:
            assert record.suspect > 0

    def may_spare(self, id: str) -> bool:
        return self.memory._jobs[id].plans["lost"].spare

    def can_be_found_again(self, indexes: dict[str, dict[str, int]]) -> None:
        """A job that has not ended is in one place, the same one in both stores: due, on its way, or held by a worker
        that has a lease."""
        ours: dict[str, dict[str, int]] = {name: {} for name in INDEXES}
        for id, job in self.memory._jobs.items():
            places = []
            if job.due is not None:
                ours[f"due:{job.route}"][id] = job.due
                places.append("due")
            if job.on_the_way:
                ours[f"queued:{job.route}"][id] = job.pseq
                places.append("queued")
            if job.outbox is not None:
                ours[f"outbox:{job.route}"][id] = job.outbox
                assert job.on_the_way
            limit = self.seen[id].get("limit_at")
            assert job.limit_at == (None if limit is None else int(limit))
            if job.status is JobStatus.running:
                assert job.worker in self.memory._workers
                places.append("running")
            assert (job.fence is not None) is (job.status is JobStatus.running)
            assert len(places) == (0 if job.status in TERMINAL else 1)
        ours["workers"] = self.memory._workers
        for id, job in self.memory._jobs.items():  # and in the one index of its status
            home = "waiting" if job.status in WAITING else str(job.status)
            ours[home][id] = job.created if job.finished is None else job.finished
        for route in ROUTES:
            ours[f"marks:{route}"] = {str(mark): since for since, mark in self.memory._routes[route].marks}
        assert indexes == ours

    def look(self) -> tuple[Any, Any, Any, Any]:
        """The jobs' hashes, all sorted sets, what each worker holds, and what each is to cancel, in one go."""
        with self.raw.pipeline(transaction=False) as pipe:
            for id in IDS:
                pipe.hgetall(f"{self.prefix}job:{id}")
            for name in INDEXES:
                pipe.zrange(f"{self.prefix}{name}", 0, -1, withscores=True)
            for worker in WORKERS:
                pipe.hgetall(f"{self.prefix}worker:{worker}")
                pipe.smembers(f"{self.prefix}cancels:{worker}")
            rows = iter(pipe.execute())
        hashes = {id: next(rows) for id in IDS}
        indexes = {name: {member: int(score) for member, score in next(rows)} for name in INDEXES}
        workers = {worker: (next(rows), set(next(rows))) for worker in WORKERS}
        return hashes, indexes, {w: held for w, (held, _) in workers.items()}, {w: c for w, (_, c) in workers.items()}

    # ---- and in the end ---------------------------------------------------------------------------------------------

    def left_to_the_stewards_every_job_ends(self) -> None:
        """Every message and every worker so far is gone. New ones come, and of the first new messages half are lost."""
        due = [job.due for job in self.memory._jobs.values() if job.due is not None]
        self.clock.ms = max([self.clock.ms, *due])  # a clock that was set back may be an hour away
        self.both(lambda store: store.beat("last", start=True))
        for second in range(60):
            if all(job.status in TERMINAL for job in self.memory._jobs.values()):
                break
            self.clock.ms += 1000
            self.both(lambda store: store.beat("last"))
            if self.both(lambda store: store.reap(100)):
                self.both_stores_are_equal_and_lawful()
            for route in ROUTES:
                taken = self.both(lambda store, route=route: store.take_due(route, 100))  # type: ignore[misc]
                taken += self.both(lambda store, route=route: store.take_lost(route, 100))  # type: ignore[misc]
                self.publish(route, taken, confirm=bool(taken))
                self.both(lambda store, route=route: store.mark(route, 0))  # type: ignore[misc]
                if taken:
                    self.both_stores_are_equal_and_lawful()
                for number, row in enumerate(taken):
                    if second > 3 or number % 2:
                        self.run(row, route)
        assert self.memory.routes("rq") == self.redis.routes("rq")
        assert sorted(self.memory.dead(10)) == sorted(self.redis.dead(10))
        statuses = {id: job.status for id, job in self.memory._jobs.items()}
        assert set(statuses.values()) <= TERMINAL, statuses

    def run(self, row: Taken, route: str) -> None:
        bell, token = (row.message, row.pseq, route), f"last{next(numbers)}"
        answer = self.claim(bell, token, "last")
        if isinstance(answer, Unseen):
            answer = self.claim(bell, token, "last", seen=answer.state)
        if isinstance(answer, Claimed):
            self.both_stores_are_equal_and_lawful()
            assert self.both(lambda store: store.finish(bell[0], token, write_end("succeeded"), None))
            self.both_stores_are_equal_and_lawful()


def sort(answer: object) -> object:
    """The lists of a beat, and the attempts that are reaped of one worker, come in any order."""
    if isinstance(answer, Beat):
        some = (answer.processes, answer.cancels, answer.lost, answer.cancelled, answer.over)
        return Beat(answer.alive, *(tuple(sorted(one)) for one in some))  # type: ignore[arg-type]
    if isinstance(answer, list) and answer and isinstance(answer[0], (tuple, str)):
        return sorted(answer)
    return answer


def test_both_stores_are_the_same_lawful_machine(server: RedisServer) -> None:
    run_machine(StoreMachine, server, examples=30, steps=50)
