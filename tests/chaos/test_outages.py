"""The broker or the store goes away under a worker, for longer than the conformance suite has the time for.

CHAOS_OUTAGES=60 pytest tests/chaos/test_outages.py --queuekit-backend=rq-worker
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from queuekit.testing.outages import GONE, outage
from queuekit.testing.report import NOTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import WorkerBench
    from queuekit.testing.servers import RedisServer, Server

SECONDS = float(os.environ.get("CHAOS_OUTAGES", "0"))


@pytest.mark.skipif(not SECONDS, reason="outages of all kinds take half an hour: CHAOS_OUTAGES=10 (seconds) runs them")
@pytest.mark.timeout(int(SECONDS * 2) + 240)
@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("what", ["broker", "store"])
def test_outage(
    new_bench: Callable[..., WorkerBench],
    new_broker: Callable[[], Server],
    new_server: Callable[[], RedisServer],
    record_property: Callable[[str, object], None],
    what: str,
    how: str,
) -> None:
    said = outage(new_bench, new_broker(), new_server(), what=what, how=how, seconds=SECONDS)
    record_property(NOTE, said)
    print(said)
