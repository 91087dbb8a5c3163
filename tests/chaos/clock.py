"""A Redis or Valkey server whose clock can be set: the C library's clocks are put off under it."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import redis

from queuekit.testing.plugin import a_server, require
from queuekit.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        if not clock.exists():  # a restart does not put it right
            clock.write_bytes(bytes(mmap.PAGESIZE))
        return command, {**os.environ, "LD_PRELOAD": str(self.library), "TEST_CLOCK": str(clock)}

    def shift(self, seconds: int) -> None:
        with (self._folder / "clock").open("r+b") as file:
            file.write(struct.pack("q", seconds))


def build_library(folder: Path) -> Path:
    (folder / "clock.c").write_text(SHIFTED)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c"], cwd=folder, check=True, timeout=60)
    except FileNotFoundError:
        require("cc, a C compiler, on PATH")
    return folder / "clock.so"


def a_shifted_server(folder: Path) -> ShiftedServer:
    """Not started yet."""
    server = ShiftedServer(a_server(folder)._binary, folder / "shifted")
    server.library = build_library(folder)
    return server


def check_clock(server: ShiftedServer) -> None:
    """Skips where the clock of the server, which runs, stays as it is."""
    with redis.Redis.from_url(server.url) as client:
        server.shift(7200)
        if abs(client.time()[0] - time.time() - 7200) > 60:
            require("a Redis or Valkey server that is linked dynamically: its clock cannot be set")
        server.shift(0)
