"""Every code block of every page holds: it is run, or marked with the reason why it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from page_blocks import CODE, ROOT, Block, blocks_of, pages

PAGES = pages()

# Reasons for a block that is not run, and how many there are. Whoever adds one says so here.
NOT_RUN: dict[str, int] = {
    ".ci/run runs it": 2,
    "it asks a model": 1,
    "it installs": 6,
    "it is the file of a package": 1,
    "it runs all the tests, this one among them": 1,
    "it runs until it is stopped": 3,
    "it takes minutes": 4,
    "it works on the reader's own files": 1,
    "the left side needs Celery's own app": 1,
    "it works on the reader's own schedules": 1,
    "tests/examples runs it": 1,
    "tests/examples/test_huey_adapter.py runs it": 1,
    "tests/adopt/test_adopt_celery_page.py runs it": 11,  # it needs a Redis
    "tests/adopt/test_adopt_dramatiq_page.py runs it": 13,  # it needs a Redis
    "tests/adopt/test_adopt_rq_page.py runs it": 13,  # it needs a Redis
    "tests/unit/test_blobs.py runs it": 1,  # it needs a bucket
    "tests/monitors runs it": 3,  # servers, and packages that the tests' environment need not have
}


def code(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in CODE or block.mark]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if code(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_hold(page: Path, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("QUEUEKIT_", "OPENAI_"))}
    environ |= {
        "QUEUEKIT_BACKEND": "memory",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}",  # python and queuekit are ours
        "PYTHONUNBUFFERED": "1",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",  # nobody: nothing leaves this machine
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("run_page.py")), str(page)],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    if done.returncode:
        pytest.fail(done.stderr + done.stdout, pytrace=False)


def test_what_is_not_run_has_a_reason_and_is_counted() -> None:
    marked = [(page, block) for page in PAGES for block in blocks_of(page) if block.mark == "not run"]
    assert [f"{page.name}:{block.line}" for page, block in marked if not block.reason] == []
    assert Counter(block.reason for _, block in marked) == NOT_RUN


def test_what_another_test_runs_is_run_there() -> None:
    for reason in NOT_RUN:
        if reason.endswith(" runs it"):
            assert (ROOT / reason.removesuffix(" runs it")).exists(), reason
