"""Progress: said by a task, heard by whoever follows the job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from queuekit import Progress, RetryAfter, agent_task, current_job
from queuekit.execution.stops import Attendant
from queuekit.store import StoreAway

if TYPE_CHECKING:
    from queuekit import App


@agent_task(name="progress.count")
def count(to: int) -> int:
    for n in range(to):
        current_job().progress(n + 1, to, f"page {n + 1}")
    if to == 4 and current_job().attempt == 1:
        raise RetryAfter(1)
    return to


def test_the_last_of_it_stands_in_the_record(queuekit_memory: App) -> None:
    job = count.enqueue(3)
    assert job.info().progress is None
    job.result()
    said = job.info().progress
    assert said is not None
    assert said == Progress(3, 3, "page 3", said.at, 1)


def test_a_later_attempt_says_it_anew(queuekit_memory: App) -> None:
    job = count.enqueue(4)
    job.result()
    said = job.info().progress
    assert said is not None
    assert (said.done, said.attempt) == (4, 2)


def test_who_follows_sees_each_change_until_the_end(queuekit_memory: App) -> None:
    seen = [(str(info.status), info.progress and info.progress.done) for info in count.enqueue(4).follow()]
    assert (seen[0], seen[-1]) == (("queued", None), ("succeeded", 4))
    assert ("retrying", 4) in seen

    async def watch() -> list[str]:
        return [str(info.status) async for info in count.enqueue(3).afollow()]

    assert asyncio.run(watch()) == ["queued", "succeeded"]


@pytest.mark.parametrize(
    ("done", "total"), [(-1, None), (float("nan"), 1), ("1", None), (None, 3), (1, float("inf")), (1, "3")]
)
def test_what_is_no_number_is_refused(done: Any, total: Any) -> None:
    with pytest.raises(ValueError, match="a number that is not negative"):
        current_job().progress(done, total)


def test_outside_of_a_job_nobody_hears_it() -> None:
    current_job().progress(1)


def test_while_it_runs_the_latest_is_told_twice_a_second(queuekit_memory: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the thread that also asks for cancels; a store that is away hears the next one."""
    told: list[str] = []
    away = [True, False, False]

    class Held:
        token = "t"

        class message:  # noqa: N801  # stands for one
            id = "j"

    class Store:
        def cancel_requested(self, ids: Any, worker: str = "") -> dict[str, str]:
            return {}

        def progress(self, id: str, token: str, said: str) -> bool:
            if away.pop(0):
                raise StoreAway("away", sent=False)
            told.append(said)
            return True

    attendant = Attendant(Store())  # type: ignore[arg-type]
    attendant._thread = object()  # type: ignore[assignment]  # its own thread is not wanted here
    stop = attendant.attend(Held())  # type: ignore[arg-type]
    for said in ("a", "b", "c"):
        stop.said.progress = said
        attendant._look({"j": stop})
        attendant._look({"j": stop})
    assert told == ["b", "c"]
    stop.said.progress = "d"
    away.append(False)
    attendant.leave(Held())  # type: ignore[arg-type]
    assert told == ["b", "c", "d"]
