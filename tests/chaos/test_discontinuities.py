"""The store fails over, or its clock is set: nobody is taken for dead who could not help it."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from queuekit.testing import tasks
from queuekit.testing.plugin import a_server, require
from queuekit.testing.proxy import Proxy
from queuekit.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from queuekit import Job
    from queuekit.testing.bench import WorkerBench

# A clock that is so many seconds off as the first eight bytes of the file say.
SHIFTED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t off(void) {
    static volatile int64_t *page;
    if (!page) {
        int file = open(getenv("TEST_CLOCK"), O_RDONLY);
        void *found = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (found == MAP_FAILED) return 0;
        page = found;
    }
    return *page;
}
int clock_gettime(clockid_t which, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, which, at);
    if (!failed && which == CLOCK_REALTIME) at->tv_sec += off();
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    at->tv_sec = exact.tv_sec, at->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (at) *at = exact.tv_sec;
    return exact.tv_sec;
}
"""


class ShiftedServer(RedisServer):
    """One whose clock can be set."""

    library: Path

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        command, _ = super().prepare()
        clock = self._folder / "clock"
        clock.write_bytes(bytes(mmap.PAGESIZE))
        return command, {**os.environ, "LD_PRELOAD": str(self.library), "TEST_CLOCK": str(clock)}

    def shift(self, seconds: int) -> None:
        with (self._folder / "clock").open("r+b") as file:
            file.write(struct.pack("q", seconds))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(SHIFTED)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c"], cwd=folder, check=True, timeout=60)
    except FileNotFoundError:
        require("cc, a C compiler, on PATH")
    return folder / "clock.so"


@pytest.fixture
def shifted(library: Path, tmp_path: Path) -> Iterator[ShiftedServer]:
    server = ShiftedServer(a_server(tmp_path)._binary, tmp_path / "shifted")
    server.library = library
    with server:
        with redis.Redis.from_url(server.url) as client:
            server.shift(7200)
            if abs(client.time()[0] - time.time() - 7200) > 60:
                require("a Redis or Valkey server that is linked dynamically: its clock cannot be set")
            server.shift(0)
        yield server


def runs(bench: WorkerBench) -> list[Job[Any]]:
    """Jobs that run, in two workers, neither of which may reap the other."""
    bench.start_worker()
    bench.start_worker()
    jobs = [tasks.sleep.enqueue(5.0), tasks.sleep_async.enqueue(5.0)]
    for job in jobs:
        bench.started(job)
    return jobs


def ended_once(bench: WorkerBench, jobs: list[Job[Any]]) -> None:
    for job in jobs:
        assert [one.outcome for one in bench.ended(job).attempts] == ["succeeded"]
        assert len(bench.journal.entries(job.id, "start")) == 1
    assert tasks.add.enqueue(1).result(timeout=30) == 2


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["forward", "back"])
def test_the_clock_of_the_store_is_set(
    new_bench: Callable[..., WorkerBench], shifted: ShiftedServer, seconds: int
) -> None:
    bench = new_bench(store_url=shifted.url)
    jobs = runs(bench)
    shifted.shift(seconds)
    time.sleep(1.0)
    shifted.shift(0)  # and right again
    time.sleep(1.0)
    shifted.shift(seconds)
    ended_once(bench, jobs)


def test_the_store_fails_over(new_bench: Callable[..., WorkerBench], new_server: Callable[[], RedisServer]) -> None:
    """Its address leads to a server that was its replica."""
    master, replica = new_server(), new_server()
    with Proxy(master.port) as proxy, redis.Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", master.port)
        bench = new_bench(store_url=proxy.url(master.url))
        jobs = runs(bench)
        with redis.Redis.from_url(master.url) as first:
            while first.wait(1, 1000) < 1:
                pass
        proxy.refuse()
        master.kill()
        time.sleep(3.0)
        client.replicaof("NO", "ONE")
        proxy.point(replica.port)
        proxy.restore()
        ended_once(bench, jobs)
