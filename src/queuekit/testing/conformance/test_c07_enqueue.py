from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from queuekit import App, EnqueueError, PayloadError, Settings
from queuekit.testing import tasks
from queuekit.testing.bench import SLACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuekit.testing.bench import Bench, WorkerBench
    from queuekit.testing.servers import RedisServer, Server

TIMEOUT = 1.5


def enqueue_fails(bench: WorkerBench) -> EnqueueError:
    """The error, which comes in time."""
    began = time.monotonic()
    with pytest.raises(EnqueueError) as caught:
        tasks.add.options(id="c7").enqueue(1)
    assert time.monotonic() - began <= TIMEOUT + SLACK
    assert caught.value.job_id == "c7"
    return caught.value


class TestC7:
    """enqueue never hangs, and says what it knows."""

    clause = "C7"

    def test_the_store_refuses(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, enqueue_timeout=TIMEOUT)
        store.kill()
        assert enqueue_fails(bench).recorded is False
        store.start()
        assert tasks.add.options(id="c7").enqueue(1).created

    def test_the_store_is_silent(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
    ) -> None:
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, enqueue_timeout=TIMEOUT)
        tasks.add.enqueue(1)  # connected
        store.freeze()
        assert enqueue_fails(bench).recorded is None
        store.thaw()
        job = tasks.add.options(id="c7").enqueue(1)
        bench.start_worker()
        assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]

    @pytest.mark.parametrize("how", ["kill", "freeze"])
    def test_only_the_broker_is_away(
        self,
        new_bench: Callable[..., WorkerBench],
        new_broker: Callable[[], Server],
        new_server: Callable[[], RedisServer],
        how: str,
    ) -> None:
        """The job is accepted, and runs when the broker is back."""
        broker, store = new_broker(), new_server()
        bench = new_bench(broker_url=broker.url, store_url=store.url, enqueue_timeout=TIMEOUT)
        getattr(broker, how)()
        began = time.monotonic()
        job = tasks.add.enqueue(1)
        assert time.monotonic() - began <= 2 * TIMEOUT + SLACK
        assert job.status() == "queued"
        broker.start() if how == "kill" else broker.thaw()
        bench.start_worker(ready=False)
        assert bench.ended(job).status == "succeeded"
        assert len(bench.journal.entries(job.id, "start")) == 1

    def test_again_with_the_same_id(self, bench: Bench) -> None:
        first = tasks.add.options(id="c7-again").enqueue(3)
        second = tasks.add.options(id="c7-again").enqueue(3)
        assert (first.created, second.created) == (True, False)
        assert first == second
        assert bench.ended(first) == bench.ended(second)
        assert len(bench.journal.entries("c7-again", "start")) == 1
        with pytest.raises(EnqueueError, match="something else") as caught:
            tasks.add.options(id="c7-again").enqueue(4)
        assert caught.value.recorded is False

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, bench: Bench) -> None:
        with pytest.raises(PayloadError) as caught:
            tasks.add.options(id="c7-refused").enqueue("one")  # type: ignore[arg-type]
        assert caught.value.parameter == "a"
        assert bench.app.store.status("c7-refused") is None

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_from_a_process_that_was_forked(self, workers: WorkerBench) -> None:
        """The parent has connections open; the child must not use them."""
        tasks.add.enqueue(1)
        pid = os.fork()
        if pid == 0:
            try:
                tasks.add.options(id="c7-forked").enqueue(4)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert tasks.add.enqueue(5).result(timeout=20) == 6
        assert tasks.add.job("c7-forked").result(timeout=20) == 5

    def test_an_app_that_was_closed_opens_again(self, workers: WorkerBench) -> None:
        app = App(Settings(**workers.settings))
        with app.activate():
            first = tasks.add.enqueue(1)
            app.close()
            app.close()
            assert first.result(timeout=20) == 2
            assert tasks.add.enqueue(2).result(timeout=20) == 3
        app.close()
