"""Five stewards on one store and a fast clock, each of which dies at random: every tick is fired once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import App, Cron, Every, Settings, agent_task, schedules
from queuekit.events import Hooks
from queuekit.schedules.spec import tick_id
from queuekit.store import StoreAway
from queuekit.store.memory import MemoryStore
from queuekit.store.redis import RedisStore
from queuekit.ticks import Ticker

if TYPE_CHECKING:
    from queuekit import JobEvent
    from queuekit.testing.plugin import Broker

TICKS = 200
STEWARDS = 5
START = 1_700_000_000_000


@agent_task(name="fired.work")
def work() -> None: ...


class Clock:
    ms = START

    def __call__(self) -> float:
        return self.ms


class Killed(Exception):
    pass


class Dying:
    """A store whose caller is killed at random: before the request, or with the answer on its way."""

    def __init__(self, store: Any, dice: random.Random) -> None:
        self._store, self._dice = store, dice

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def asked(*args: Any, **more: Any) -> Any:
            fate = self._dice.random()
            if fate < 0.1:
                raise Killed
            answer = call(*args, **more)
            if fate > 0.9:
                raise Killed
            if fate > 0.85:
                raise StoreAway("hung up", sent=True)
            return answer

        return asked


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("when", [Every(1), Cron("* * * * * *", "Europe/Berlin")], ids=["every", "cron"])
def test_each_of_200_ticks_is_fired_once(kind: str, when: Any, request: pytest.FixtureRequest) -> None:
    clock = Clock()
    if kind == "memory":
        store: Any = MemoryStore(clock=clock)
    else:
        broker: Broker = request.getfixturevalue("queuekit_broker")
        store = RedisStore(broker.url, broker.namespace, clock=clock, timeout=10.0)
    app = App(Settings(backend="memory"))
    app._store = store
    told: Counter[str] = Counter()
    with app.activate():
        schedules.add("fast", work.bind(), when, missed="all")
    over = threading.Event()

    def steward(seed: int) -> None:
        dice = random.Random(seed)

        def tell(event: JobEvent, /) -> None:
            told[event.job_id] += 1

        while not over.is_set():
            ticker = Ticker(Dying(store, dice), None, Hooks([tell]), late=30.0)  # type: ignore[arg-type]  # a new process
            try:
                while not over.is_set():
                    try:
                        ticker.fire(30.0)
                    except StoreAway:
                        continue
            except Killed:
                continue

    threads = [threading.Thread(target=steward, args=(seed,)) for seed in range(STEWARDS)]
    for thread in threads:
        thread.start()
    dice = random.Random(0)
    while clock.ms < START + TICKS * 1000:
        clock.ms += dice.choice([100, 400, 1000, 2500])
        over.wait(0.005)
    first, last = START + 1000, clock.ms // 1000 * 1000
    for _ in range(10_000):
        (row,) = store.schedules()
        if row.due is not None and row.due > last:
            break
        over.wait(0.01)
    over.set()
    for thread in threads:
        thread.join()
    wanted = [tick_id("fast", tick) for tick in range(first, last + 1, 1000)]
    assert len(wanted) >= TICKS
    records = [store.get(id) for id in wanted]
    assert all(record is not None and record.status == "scheduled" for record in records)
    assert store.counts()[0].waiting == len(wanted)  # and no others
    assert set(told) <= set(wanted)
    assert set(told.values()) == {1}
