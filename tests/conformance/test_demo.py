"""`queuekit demo` as a user starts it: real workers, the real client, and nothing left behind."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

for name in ("openai", "celery", "rq", "dramatiq"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'queuekit[demo]'")

pytestmark = pytest.mark.timeout(180)


class Demo:
    """The command, in a process of its own, with a mark in its environment and in that of all that it starts.

    Not one of QUEUEKIT_..., which the demo keeps from its workers.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = f"DEMO_TEST_MARK={secrets.token_hex(8)}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "queuekit", "demo", *arguments],
            env={**os.environ, "TMPDIR": str(self.temporary), name: value, "OPENAI_API_KEY": "a user's own"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        said = self.process.communicate()[0]
        return self.process.returncode, said

    def wait_for(self, pattern: str) -> str:
        """What it says up to a line in which the pattern is found."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if re.search(pattern, line):
                return said
        raise AssertionError(f"no {pattern!r} in:\n{said}")

    def processes(self) -> dict[int, str]:
        found = {}
        for one in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (one / "environ").read_bytes():
                    found[int(one.name)] = (one / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended, or is not ours
                continue
        return found

    def wait_until_all_are_gone(self) -> None:
        while self.processes():  # pytest's own timeout ends it
            time.sleep(0.1)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(5):
        (folder / f"text-{n}.md").write_text(f"# Title\n\nThis is the first sentence of the text number {n}. More.\n")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    demos: list[Demo] = []

    def start(*arguments: str) -> Demo:
        demos.append(Demo(tmp_path, *arguments))
        return demos[-1]

    yield start
    for demo in demos:
        demo.process.kill()
        demo.process.wait()
        assert demo.process.stdout is not None
        demo.process.stdout.close()
        for pid in demo.processes():
            os.kill(pid, signal.SIGKILL)


def test_all_three_engines_agree_and_nothing_is_left(start, texts: Path) -> None:
    demo = start(str(texts), "--seed", "5")
    code, said = demo.end()
    assert code == 0, said
    assert "\x1b" not in said
    assert "celery, rq and dramatiq agree: 5 jobs" in said
    assert "5 of 5 text files" in said
    assert "backoffs divided by 20" in said
    assert "on celery, rq and dramatiq: auth: openai.AuthenticationError" in said
    assert "This is the first sentence of the text number" in said
    delays = [re.findall(r"(\d+\.\d\d)→", line) for line in said.splitlines() if "→" in line and "asked" not in line]
    assert len(delays) >= 4
    assert all(len(row) == 3 and len(set(row)) == 1 for row in delays)
    demo.wait_until_all_are_gone()
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_it_started(start, texts: Path, number: signal.Signals) -> None:
    demo = start(str(texts), "--engines", "rq")
    demo.wait_for("attempt 1 ")
    demo.process.send_signal(number)
    code, said = demo.end()
    assert code == 128 + number
    assert "The demo was stopped" in said
    demo.wait_until_all_are_gone()
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_its_sudden_death_takes_the_workers_along(start, texts: Path) -> None:
    demo = start(str(texts), "--engines", "rq")
    demo.wait_for("attempt 1 ")
    assert any("queuekit worker" in command for command in demo.processes().values())
    demo.process.kill()
    demo.wait_until_all_are_gone()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_dies_ends_the_demo_with_its_last_words(start, texts: Path) -> None:
    demo = start(str(texts), "--engines", "rq")
    demo.wait_for("attempt 1 ")
    for pid, command in demo.processes().items():
        if "queuekit worker" in command:
            os.kill(pid, signal.SIGKILL)
    code, said = demo.end()
    assert code == 1
    assert "the worker of rq has ended (exit code -9)" in said
    assert "RQ HorseWorker serves" in said
    demo.wait_until_all_are_gone()
