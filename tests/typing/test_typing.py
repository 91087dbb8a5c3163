"""What type checkers say of the public API: right uses pass with the right types, and each wrong one is reported.

`accept.py` and `reject.py` are read by mypy --strict and by pyright, as a user's module would be, and never run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import queuekit

HERE = Path(__file__).parent
ACCEPT, REJECT = HERE / "accept.py", HERE / "reject.py"
SOURCE = Path(queuekit.__file__).parent.parent
TIMEOUT = 100  # seconds; without a cache mypy reads every library that queuekit uses

Errors = dict[tuple[str, int], list[str]]  # the file's name and the line -> what was said


def run_mypy(folder: Path) -> Errors:
    # Errors inside of queuekit are not the point here: like any library, it is read, and not reported on.
    command = ["mypy", "--strict", "--config-file=", "--follow-imports=silent", "--no-pretty", "--no-error-summary"]
    done = run([*command, ACCEPT.name, REJECT.name], folder)
    if done.returncode not in (0, 1):
        pytest.fail(f"mypy broke down:\n{done.stdout}{done.stderr}")
    found: Errors = {}
    for line in done.stdout.splitlines():
        match = re.match(r"(?P<file>.+\.py):(?P<line>\d+): error: (?P<text>.*)", line)
        if match:
            found.setdefault((Path(match["file"]).name, int(match["line"])), []).append(match["text"])
    return found


def run_pyright(folder: Path) -> Errors:
    config = {
        "extraPaths": [str(SOURCE)],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
        "typeCheckingMode": "standard",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    done = run(["pyright", "--outputjson", f"--pythonpath={sys.executable}"], folder)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        # Its package brings no program of its own: it fetches one, and node to run it, where there are none.
        pytest.skip(f"pyright is installed, but cannot be run here: {(done.stderr or done.stdout).strip()[-300:]}")
    assert report["summary"]["filesAnalyzed"] == 2
    found: Errors = {}
    for item in report["generalDiagnostics"]:
        if item["severity"] == "error":
            place = Path(item["file"]).name, item["range"]["start"]["line"] + 1
            found.setdefault(place, []).append(item["message"])
    return found


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    for file in (ACCEPT, REJECT):  # away from this project's own configuration
        shutil.copy(file, folder)
    environment = dict(os.environ, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    if SOURCE.name != "site-packages":  # there mypy looks by itself, and refuses to be told
        environment["MYPYPATH"] = str(SOURCE)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


CHECKERS: dict[str, Callable[[Path], Errors]] = {"mypy": run_mypy, "pyright": run_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'queuekit[dev]'")
    return CHECKERS[name](tmp_path_factory.mktemp(name))


def marked() -> dict[int, str]:
    lines = REJECT.read_text().splitlines()
    return {number: line for number, line in enumerate(lines, start=1) if "# reject: " in line}


@pytest.mark.timeout(TIMEOUT + 20)
def test_right_uses_are_accepted(errors: Errors) -> None:
    assert {place: said for place, said in errors.items() if place[0] == ACCEPT.name} == {}


@pytest.mark.timeout(TIMEOUT + 20)
def test_wrong_uses_are_rejected_and_nothing_else(errors: Errors) -> None:
    reported = {line: said for (file, line), said in errors.items() if file == REJECT.name}
    expected = marked()
    assert len(expected) > 60
    assert [expected[line] for line in expected.keys() - reported.keys()] == [], "wrong, but not reported"
    assert {line: reported[line] for line in reported.keys() - expected.keys()} == {}, "reported, but not marked"
