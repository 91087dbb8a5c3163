"""The parent of `queuekit worker --processes N`, on a clock of its own and with processes that do what they are told."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from queuekit.cli.commands import cli
from queuekit.cli.supervise import FIRST_PAUSE, LIVED, LONGEST_PAUSE, Supervisor, reap_others
from queuekit.processes import SAME, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence


class Child:
    def __init__(self, pid: int, born: float) -> None:
        self.pid, self.born = pid, born
        self.code: int | None = None
        self.got: list[int] = []

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, sig: int, /) -> None:
        self.got.append(sig)


class World:
    def __init__(self, count: int = 2) -> None:
        self.now = 100.0
        self.children: list[Child] = []
        self.refuses = 0
        self.supervisor = Supervisor(self.start, count, lambda: self.now)
        self.look()

    def start(self) -> Child:
        if self.refuses:
            self.refuses -= 1
            raise BlockingIOError("too many processes")
        self.children.append(Child(len(self.children) + 1, self.now))
        return self.children[-1]

    def look(self, after: float = 0.0) -> int | None:
        self.now += after
        return self.supervisor.look()

    def end(self, code: int, number: int = -1) -> int | None:
        self.children[number].code = code
        return self.look()

    @property
    def starts(self) -> list[float]:
        return [child.born - 100 for child in self.children]


def test_it_starts_so_many_and_no_more() -> None:
    world = World(3)
    assert world.look(after=1000) is None
    assert world.starts == [0, 0, 0]
    assert world.supervisor.pids == {1, 2, 3}


def test_another_one_comes_for_one_that_dies_and_later_each_time() -> None:
    world = World(1)
    for _ in range(4):
        world.end(-9)
        for _ in range(int(LONGEST_PAUSE / 0.25)):
            if world.look(after=0.25) is None and world.children[-1].code is None:
                break
    assert world.starts == [0, 0.5, 1.5, 3.5, 7.5]


@pytest.mark.parametrize("code", [0, 1, 3, -9])
def test_whatever_it_has_ended_with(code: int) -> None:
    world = World(2)
    world.end(code)
    assert len(world.children) == 2
    world.look(after=FIRST_PAUSE)
    assert len(world.children) == 3


@given(st.lists(st.floats(0, 60), min_size=1, max_size=20))
def test_the_law_of_pauses(lives: Sequence[float]) -> None:
    """Each pause is the double of the one before, from the first to the longest; one that has lived begins anew."""
    world = World(1)
    before = 0.0
    for lived in lives:
        world.now += lived
        ended = world.now
        world.end(1)
        while world.children[-1].code is not None:
            world.look(after=0.125)
        pause = world.children[-1].born - ended
        least = FIRST_PAUSE if lived > LIVED or not before else min(2 * before, LONGEST_PAUSE)
        assert least - 1e-9 <= pause <= least + 0.25  # the clock is a float
        before = least


def test_the_others_do_not_wait_for_it() -> None:
    world = World(2)
    for _ in range(6):
        world.end(1, 0 if len(world.children) == 2 else -1)
        world.look(after=LONGEST_PAUSE)
    world.end(-9, 1)
    world.look(after=FIRST_PAUSE)
    assert world.children[-1].born - 100 == 6 * LONGEST_PAUSE + FIRST_PAUSE


def test_one_that_was_drained_has_a_successor_at_once() -> None:
    world = World(2)
    world.end(75)
    assert world.look() is None
    assert world.starts == [0, 0, 0]


def test_an_error_of_configuration_ends_all_at_once() -> None:
    world = World(3)
    assert world.end(2, 0) is None
    assert [child.got for child in world.children[1:]] == [[signal.SIGTERM]] * 2
    assert world.end(2, 1) is None
    assert world.end(0, 2) == 2
    assert len(world.children) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_none_is_started_any_more(number: int) -> None:
    world = World(2)
    world.supervisor.asked.put(number)
    assert world.look() is None
    world.supervisor.asked.put(number)
    assert world.look(after=1.0) is None
    assert [child.got for child in world.children] == [[number] * 2] * 2
    assert world.end(0, 0) is None
    assert world.look(after=100) is None
    assert world.end(-9, 1) == 0, "it was asked to stop, and has"
    assert len(world.children) == 2


def test_sigquit_does_not_wait_for_the_grace() -> None:
    world = World(1)
    world.supervisor.asked.put(signal.SIGQUIT)
    world.look()
    assert world.children[0].got == [signal.SIGTERM]
    world.look(after=2 * SAME)
    world.look(after=2 * SAME)
    assert world.children[0].got == [signal.SIGTERM] * 2, "which a worker takes for a second one"


def test_a_stop_in_a_pause_ends_at_once() -> None:
    world = World(1)
    world.end(1)
    world.supervisor.asked.put(signal.SIGTERM)
    assert world.look() == 0


def test_a_system_that_has_no_more_processes_is_asked_again() -> None:
    world = World(1)
    world.refuses = 2
    world.end(1)
    for _ in range(20):
        world.look(after=0.5)
    assert world.starts == [0, 3.5], "after 0.5, 1 and 2 s"


def test_what_it_has_inherited_is_reaped() -> None:
    """A killed worker's steward becomes the child of the first process of its container."""
    if sys.platform != "linux":
        pytest.skip("by prctl")
    body = f"""
import os, subprocess, sys, time
from queuekit.cli.supervise import reap_others
own = subprocess.Popen(["sleep", "60"])
middle = subprocess.run(["sh", "-c", "sleep 0.1 & echo $!"], capture_output=True, text=True)
orphan = int(middle.stdout)
for _ in range(200):
    reap_others({{own.pid}})
    if not os.path.exists(f"/proc/{{orphan}}"):
        break
    time.sleep(0.05)
else:
    sys.exit("it is left")
assert own.poll() is None
own.kill()
time.sleep(0.1)
reap_others({{own.pid}})
assert own.wait() == {-signal.SIGKILL}, "its own it leaves to whoever started it"
"""
    done = subprocess.run(
        [sys.executable, "-c", body],
        preexec_fn=lambda: ctypes.CDLL(None).prctl(36, 1),  # PR_SET_CHILD_SUBREAPER
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # The attribute does not go over to a child, but an exec keeps it.
    assert (done.returncode, done.stderr) == (0, "")


def test_without_children_there_is_nothing_to_reap() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            reap_others(set())
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_not_with_dev() -> None:
    done = CliRunner().invoke(cli, ["worker", "tasks.py", "--dev", "--processes", "2"])
    assert done.exit_code == 2
    assert "--dev runs one worker: leave out --processes 2, or --dev" in done.output


# ---- one signal, heard twice ---------------------------------------------------------------------------------------


def test_two_signals_within_half_a_second_are_one() -> None:
    now = [10.0]
    asked = Asked(lambda: now[0])
    asked(signal.SIGTERM, None)
    now[0] += SAME / 2
    asked(signal.SIGTERM, None)
    asked.wait()
    assert not asked.again()
    now[0] += SAME
    assert not asked.again()
    asked(signal.SIGTERM, None)
    assert asked.again()
    assert asked.again(), "from then on"


def test_it_waits_for_the_first() -> None:
    asked = Asked(time.monotonic)
    before = signal.signal(signal.SIGALRM, asked)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        asked.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not asked.again()
