"""When a process counts as gone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from queuekit.processes import is_alive, start_time

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=[60]).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of threads on Linux alone")
def test_a_process_lives_for_as_long_as_one_of_its_threads() -> None:
    """So it is for a moment with each killed process that has several: its locks are held until the last one ends."""
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat, until = Path(f"/proc/{process.pid}/stat"), time.monotonic() + 10
        name = f"{process.pid}:{start_time(process.pid)}"
        while ") Z " not in stat.read_text() and time.monotonic() < until:
            time.sleep(0.01)
        assert ") Z " in stat.read_text(), "its first thread is a zombie"
        assert is_alive(name)
        process.kill()
        while is_alive(name) and time.monotonic() < until:
            time.sleep(0.01)
        assert not is_alive(name), "gone, and nobody has waited for it yet"
        assert stat.exists()
