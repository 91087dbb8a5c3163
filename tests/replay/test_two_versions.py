"""A deploy as it is done: workers and producers of two versions of a program side by side, while jobs flow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_replay import ENGINES

from queuekit import Job, JobInfo
from queuekit.job import TERMINAL
from queuekit.testing.bench import WorkerBench
from queuekit.testing.plugin import require
from queuekit.testing.servers import RedisServer
from queuekit.testing.target import find_targets

HERE = Path(__file__).parent / "deploy"
COUNT = 24


class Deploy:
    """One application. `jobs`: id -> [task's name, which version can run it, its result]."""

    def __init__(self, bench: WorkerBench) -> None:
        self.bench = bench
        self.jobs: dict[str, list[Any]] = {}

    def start(self, version: str) -> Any:
        return self.bench.start_worker(str(HERE / version / "shop.py"), ready=False)

    def produce(self, version: str, count: int = COUNT) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
        environ |= {f"QUEUEKIT_{name.upper()}": str(value) for name, value in self.bench.settings.items()}
        command = [sys.executable, str(HERE / "produce.py"), str(HERE / version), str(count)]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)

    def produced(self, producer: subprocess.Popen[str]) -> list[str]:
        said, _ = producer.communicate(timeout=60)
        assert producer.returncode == 0
        made = {id: rest for id, *rest in map(json.loads, said.splitlines())}
        self.jobs |= made
        return list(made)

    def info(self, id: str) -> JobInfo:
        record = self.bench.app.store.get(id)
        assert record is not None
        return record.info()

    def wait(self, *versions: str) -> None:
        """Until all jobs have ended that these versions can run."""
        ids = [id for id, (_, by, _) in self.jobs.items() if by in versions]

        def open_ones() -> list[JobInfo]:
            assert all(worker.exit_code in {None, 0} for worker in self.bench.workers), self.bench.worker.said()
            return [info for info in map(self.info, ids) if info.status not in TERMINAL]

        self.bench.until(lambda: not open_ones(), f"all have ended of {len(ids)} jobs for {versions}", within=120)

    def stop(self, worker: Any) -> None:
        worker.terminate()
        assert worker.wait(30) == 0

    def handed_back(self) -> list[str]:
        """The jobs that a worker has met first which cannot run them."""
        firsts = {id: self.info(id).attempts[:1] for id in self.jobs}
        return [id for id, first in firsts.items() if first and first[0].outcome == "released"]

    def check(self) -> None:
        """Nothing lost, nothing failed, nothing run by code that could not."""
        for id, (task, _, expected) in self.jobs.items():
            info = self.info(id)
            assert (info.status, info.task) == ("succeeded", task), info
            job: Job[Any] = Job(id, app=self.bench.app)
            assert job.result(timeout=0) == expected
            outcomes = {one.outcome for one in info.attempts}
            assert outcomes <= {"released", "retried", "succeeded"}, info
            counted = [one for one in info.attempts if one.outcome != "released"]
            assert [one.number for one in counted] == list(range(1, len(counted) + 1))
        assert self.bench.app.store.quarantined(10) == []


@pytest.fixture(params=ENGINES)
def deploy(request: pytest.FixtureRequest, new_server: Callable[[], RedisServer], tmp_path: Path) -> Iterator[Deploy]:
    target = find_targets((ENGINES[request.param],))[0]
    if target.missing:
        require(target.missing)
    bench = WorkerBench(target, tmp_path, broker_url=new_server().url)
    with bench.in_use():
        yield Deploy(bench)
    bench.close()


def test_a_deploy_rolls_forward_and_back_while_jobs_flow(deploy: Deploy) -> None:
    old = deploy.start("old")
    producers = [deploy.produce("old")]
    new = deploy.start("new")
    producers.append(deploy.produce("new"))
    for producer in producers:
        deploy.produced(producer)
    deploy.wait("either")
    for _ in range(30):  # who takes a job is chance, and a worker may have come when all were taken
        if deploy.handed_back():
            break
        deploy.produced(deploy.produce("new"))
        deploy.wait("either")
    deploy.stop(old)
    deploy.wait("new")
    deploy.start("old")
    deploy.stop(new)
    deploy.wait("old")
    deploy.check()
    assert deploy.handed_back(), "the two versions never met"


def test_jobs_of_a_renamed_task_run_under_its_new_definition(deploy: Deploy) -> None:
    """Queued, waiting for a retry, a dead letter: their record keeps the name that they were enqueued with."""
    requests = """
import sys; sys.path.insert(0, sys.argv[1]); import shop
for text, fails in (("retrying", 1), ("dead", 3)):
    print(shop.summarise.enqueue(text, fails=fails).id)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QUEUEKIT_")}
    environ |= {f"QUEUEKIT_{name.upper()}": str(value) for name, value in deploy.bench.settings.items()}
    command = [sys.executable, "-c", requests, str(HERE / "old")]
    old = deploy.start("old")
    retrying, dead = subprocess.check_output(command, env=environ, text=True, timeout=60).split()
    deploy.bench.until(lambda: deploy.info(dead).status == "failed", "it is a dead letter", within=40)
    old.kill_all()
    retrying, _ = subprocess.check_output(command, env=environ, text=True, timeout=60).split()
    queued = deploy.produced(deploy.produce("old", 3))[2]
    deploy.start("old")
    deploy.bench.until(lambda: deploy.info(retrying).attempts, "it was tried", within=40)
    deploy.bench.worker.kill_all()
    deploy.start("new")
    deploy.bench.app.revive(dead)
    for id in (retrying, queued, dead):
        deploy.bench.until(lambda: deploy.info(id).status in TERMINAL, f"{id} has ended", within=60)  # noqa: B023  # at once
        info = deploy.info(id)
        assert (info.status, info.task) == ("succeeded", "shop.summarise"), info
