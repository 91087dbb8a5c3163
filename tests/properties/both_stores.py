"""What the state machines share: the same calls to both stores, on one clock, and what is left when it is over."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, cast

import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from queuekit.store.memory import MemoryStore
from queuekit.store.redis import RedisStore

if TYPE_CHECKING:
    from queuekit.job import Record
    from queuekit.testing.servers import RedisServer

DAY = 86_400.0
numbers = itertools.count()


class Clock:
    ms = 1_700_000_000_000

    def __call__(self) -> float:
        return self.ms


class BothStores(RuleBasedStateMachine):
    lease = 3.0

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.clock = Clock()
        long = {"retention": 1000 * DAY, "dead_ttl": 1000 * DAY}  # nothing expires here: Redis would use its own clock
        self.namespace = f"machine{os.getpid()}-{next(numbers)}"
        self.redis = RedisStore(server.url, self.namespace, lease=self.lease, clock=self.clock, timeout=10.0, **long)
        self.memory = MemoryStore(lease=self.lease, clock=self.clock, **long)
        self.memory._epoch = self.redis.epoch()
        self.raw = redis.Redis.from_url(server.url, decode_responses=True, protocol=2)
        self.prefix = f"queuekit:{{{self.namespace}}}:"
        self.before: dict[str, Record] = {}
        self.seen: dict[str, Any] = {}  # the hash of each job as it was in Redis

    def left_to_the_stewards_every_job_ends(self) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            self.left_to_the_stewards_every_job_ends()
        finally:
            if keys := list(self.raw.scan_iter(f"{self.prefix}*", count=1000)):
                self.raw.delete(*keys)
            for client in (self.raw, self.redis):
                client.close()


def run_machine(machine: type[BothStores], server: RedisServer, *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        cast("type[BothStores]", lambda: machine(server)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
