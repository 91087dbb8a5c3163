"""What a Celery system keeps when its tasks become queuekit's: producers that know nothing of it, and AsyncResult."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("celery", reason="Celery is not installed")

from celery_owner import HERE, Owner  # noqa: E402  # after the check that Celery is there

from queuekit import JobStatus  # noqa: E402
from queuekit.testing import tasks  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from queuekit.testing.servers import RedisServer

TASK = tasks.add.name


@pytest.fixture(params=["redis", "rabbitmq"])
def new_owner(
    request: pytest.FixtureRequest, tmp_path: Path, queuekit_server: RedisServer
) -> Iterator[Callable[..., Owner]]:
    made: list[Owner] = []

    def make(**settings: Any) -> Owner:
        if request.param == "rabbitmq":
            url = request.getfixturevalue("queuekit_rabbitmq").url
        else:
            url = request.getfixturevalue("new_server")().url
        owner = Owner(tmp_path, url, queuekit_server.url, **settings)
        made.append(owner)
        return owner

    yield make
    for owner in made:
        owner.close()


def native(owner: Owner, *args: Any, name: str = TASK, **options: Any) -> str:
    """As a producer that knows the task's name and the queue alone. The id."""
    queue = f"queuekit.{owner.namespace}.default"
    return str(owner.send(name, *args, queue=queue, serializer="json", **options).id)


def test_a_native_producer_starts_a_job(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner(adopt=True)
    with owner.app.activate():
        owner.start()
        before = [tasks.add.enqueue(number) for number in range(3)]
        id = native(owner, 1, 5)
        job = owner.until(lambda: owner.app.store.get(id) and tasks.add.job(id), "its record is made")
        assert job.result(timeout=40) == 6
        info = job.info()
        assert (info.task, info.queue, [one.outcome for one in info.attempts]) == (TASK, "default", ["succeeded"])
        assert [one.result(timeout=40) for one in before] == [1, 2, 3]

        retried = native(owner, ["timeout"], name=tasks.follow.name)  # the policy is that of the task
        owner.until(lambda: owner.app.store.status(retried) is JobStatus.succeeded, "it is retried")
        assert len(tasks.follow.job(retried).info().attempts) == 2
        assert owner.quarantine() == []


def test_what_a_native_message_may_not_ask_for_goes_to_quarantine(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner(adopt=True)
    with owner.app.activate():
        worker = owner.start()
        native(owner, 1, countdown=60)
        native(owner, name="os.system")
        native(owner, "one")
        owner.send(TASK, 1, queue=f"queuekit.{owner.namespace}.default")  # a pickle
        native(owner, 1, task_id="no good id!")
        found = owner.until(lambda: len(owner.quarantine()) == 5 and owner.quarantine(), "all are put aside")
        reasons = " | ".join(sorted(one.reason for one in found))
        for said in ("cannot ask for eta", "does not know the task 'os.system'", "do not fit", "as JSON", "its id"):
            assert said in reasons
        assert tasks.add.enqueue(1).result(timeout=40) == 2
        assert worker.exit_code is None


def test_without_adopt_a_native_message_goes_to_quarantine(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner()
    with owner.app.activate():
        owner.start()
        native(owner, 1)
        (found,) = owner.until(owner.quarantine, "it is put aside")
        assert "adopt" in found.reason


NATIVE = """
import sys
import celery_both
from queuekit.testing.tasks import add, follow

print(add.native.delay(1, b=2).id)
print(add.native.apply_async((3,), priority=0).id)
print(add.native.s(4).apply_async().id)
"""


def test_the_native_task_is_one_that_can_be_sent(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner(adopt=True)
    with owner.app.activate():
        owner.start()
        said = subprocess.run(
            [sys.executable, "-c", NATIVE],
            env=owner.environ(),
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        ids = said.stdout.split()
        owner.until(lambda: all(owner.app.store.status(id) is JobStatus.succeeded for id in ids), "all have run")
        assert [tasks.add.job(id).result(timeout=0) for id in ids] == [3, 4, 5]


# ---- AsyncResult ---------------------------------------------------------------------------------------------------


def test_celerys_results_stay_where_they_were(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner(celery_result=True)
    with owner.app.activate():
        owner.start()
        result = owner.native.AsyncResult

        good, bad = tasks.add.enqueue(1), tasks.without_policy.enqueue(["bug"])
        assert result(good.id).get(timeout=60) == 2
        with pytest.raises(Exception, match="KeyError.*a bug") as caught:
            result(bad.id).get(timeout=60)
        assert type(caught.value).__name__ == "TaskFailed"
        assert result(bad.id).state == "FAILURE"

        again = tasks.follow.enqueue(["retry-after:2"])
        owner.until(lambda: result(again.id).state == "RETRY", "its retry is said")
        assert again.result(timeout=40) == "attempt 2"  # by another publication, with an id of its own
        assert owner.until(lambda: result(again.id).successful(), "its success is said")
        assert result(again.id).result == "attempt 2"

        stopped = tasks.sleep_async.enqueue(60)
        owner.started(stopped)
        stopped.cancel("enough")
        owner.until(lambda: result(stopped.id).state == "REVOKED", "its end is said")

        secret = tasks.confidential.enqueue("hush")
        secret.result(timeout=40)
        assert "hush" not in str(result(secret.id).result).lower()


def test_a_job_whose_last_attempt_died_is_a_failure_there_too(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner(celery_result=True)
    with owner.app.activate():
        owner.start()
        job = tasks.only_once.enqueue(["killed"])
        owner.until(lambda: owner.native.AsyncResult(job.id).state == "FAILURE", "it is said by the worker's parent")


def test_without_the_setting_the_backend_is_told_nothing(new_owner: Callable[..., Owner]) -> None:
    owner = new_owner()
    with owner.app.activate():
        owner.start()
        job = tasks.add.enqueue(1)
        assert job.result(timeout=60) == 2
        assert owner.native.AsyncResult(job.id).state == "PENDING"
