"""One store to test, with a clock that the test moves and the words that the tests use."""

from __future__ import annotations

import itertools
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit.store import Claimed, IfEnded, NewJob, Query
from queuekit.store.ends import write_end
from queuekit.store.memory import MemoryStore
from queuekit.store.redis import RedisStore
from queuekit.testing.servers import find_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from queuekit.job import Record
    from queuekit.store import Claim, Created, Listed, Store, Taken
    from queuekit.testing.servers import RedisServer

R = "rq:default:0"
LEASE = 30.0
OUTBOX = 5.0
START = 1_700_000_000_000  # ms

_namespaces = (f"t{os.getpid()}-{number}" for number in itertools.count())


def binary_of(kind: str) -> Path:
    try:
        return find_server(kind.partition(":")[2])
    except LookupError as missing:
        if os.environ.get("QUEUEKIT_TEST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{kind}: {missing}")
        pytest.skip(f"{kind}: {missing}")


def list_all(world: World, n: int = 3, **query: Any) -> list[Listed]:
    """All pages of a list. A job that is on two of them, or a page that goes back, fails the test."""
    asked = Query(**query)
    found: list[Listed] = []
    cursor = None
    while True:
        page = world.store.jobs(asked, n, cursor)
        assert len(page.jobs) <= n
        found += page.jobs
        if page.cursor is None:
            places = [(one.moment, one.id) for one in found]
            assert places == sorted(set(places), reverse=asked.newest_first)
            return found
        assert page.cursor != cursor
        cursor = page.cursor


class Clock:
    """Milliseconds, moved by hand."""

    def __init__(self, ms: int = START) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms


def plan(
    delay: float | None = 0.0, state: str = "", *, reason: str = "the worker died", outcome: str = "lost"
) -> IfEnded:
    return IfEnded(delay=delay, state=state, end=write_end(outcome, delay=delay, reason=reason), reason=reason)


OK = write_end("succeeded")
AGAIN = write_end("retried", error_type="builtins.ValueError", error_message="no", category="unknown", delay=10.0)
BAD = write_end("failed", error_type="builtins.KeyError", error_message="'x'", category="bad_request")
BACK = write_end("released", reason="the worker stops")


class World:
    """`store` is the one under test; `make()` gives another one, or one of other settings, on the same clock."""

    def __init__(self, kind: str, server: RedisServer | None) -> None:
        self.kind, self.server = kind, server
        self.namespace = next(_namespaces)
        self.clock = Clock()
        self._made: list[Store] = []
        self.store = self.make()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._made:
            store.close()
        if self.server is not None:
            if keys := self._scan():
                self.raw.delete(*keys)
            self.raw.close()

    def make(self, namespace: str | None = None, *, real_clock: bool = False, **settings: Any) -> Store:
        settings = {"lease": LEASE, "clock": None if real_clock else self.clock, **settings}
        made: Store
        if self.server is None:
            made = MemoryStore(**settings)
        else:
            made = RedisStore(self.server.url, namespace or self.namespace, timeout=10.0, **settings)
        self._made.append(made)
        return made

    def use(self, **settings: Any) -> Store:
        """Put a store of other settings in the place of `store`."""
        self.store = self.make(**settings)
        return self.store

    # ---- time -------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, on the clock of the store and for what the server itself lets expire."""
        ms = round(seconds * 1000)
        self.clock.ms += ms
        if self.server is None or ms <= 0:
            return
        keys = self._scan()
        with self.raw.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.pttl(key)
            for key, left in zip(keys, pipe.execute(), strict=True):
                # A few ms have really passed since it was set: tests keep a second away from the edge.
                if left >= 0:
                    pipe.pexpire(key, max(left - ms, 0))
            pipe.execute()

    def tick(self, seconds: float, *, beat: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Let time pass with somebody ticking all along. Gives what was reaped."""
        reaped = []
        step = LEASE / 3
        while seconds > 0:
            self.advance(min(step, seconds))
            seconds -= step
            for worker in beat:
                assert self.store.beat(worker).alive
            reaped += self.store.reap(100)
        return reaped

    def settle(self, *workers: str) -> None:
        """Open leases, and tick until reaping is not suspended any more."""
        for worker in workers:
            self.store.beat(worker, start=True)
        self.store.reap(100)
        assert self.tick(LEASE, beat=workers) == []

    @property
    def now(self) -> float:
        return self.clock.ms / 1000

    # ---- the server -------------------------------------------------------------------------------------------------

    @cached_property
    def raw(self) -> redis.Redis:
        assert self.server is not None
        return redis.Redis.from_url(self.server.url, decode_responses=True)

    @property
    def prefix(self) -> str:
        return f"queuekit:{{{self.namespace}}}:"

    def command(self, *args: str | int) -> Any:
        return self.raw.execute_command(*args)  # type: ignore[no-untyped-call]

    def _scan(self) -> list[str]:
        return list(self.raw.scan_iter(f"{self.prefix}*", count=1000))

    def key_names(self) -> set[str]:
        """The keys of the namespace, without their prefix."""
        return {key.removeprefix(self.prefix) for key in self._scan()}

    # ---- operations, in short ---------------------------------------------------------------------------------------

    def new(self, id: str = "j", *, token: str | None = None, route: str = R, **more: Any) -> Created:
        job = {"message": f'{{"id":"{id}"}}', "digest": f"digest of {id}", "result_ttl": 3600.0, **more}
        return self.store.create(NewJob(id=id, route=route, token=token or f"new-{id}", **job))

    def claim(self, id: str = "j", token: str = "t1", *, worker: str = "w", pseq: int = 1, **more: Any) -> Claim:
        asked: dict[str, Any] = {
            "epoch": self.store.epoch(),
            "route": R,
            "process": f"process of {worker}",
            "timeout": None,
            "seen": "",
            "on_lost": plan(),
            "on_limit": plan(outcome="failed", reason="over its limit"),
            **more,
        }
        return self.store.claim(id=id, token=token, worker=worker, pseq=pseq, **asked)

    def run(self, id: str = "j", token: str = "t1", *, worker: str = "w", **more: Any) -> Claimed:
        """claim(), by a worker that has a lease, and that has to be answered Claimed."""
        self.store.beat(worker, start=True)
        claimed = self.claim(id, token, worker=worker, **more)
        assert isinstance(claimed, Claimed), claimed
        return claimed

    def get(self, id: str = "j") -> Record:
        record = self.store.get(id)
        assert record is not None
        return record

    def ids(self, taken: Sequence[Taken]) -> list[str]:
        return [row.message.removeprefix('{"id":"').removesuffix('"}') for row in taken]
