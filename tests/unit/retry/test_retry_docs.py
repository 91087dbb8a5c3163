"""The how-to on retries runs as it stands, and shows what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from queuekit.retry import Backoff, Category, RetryPolicy, RetryRule

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "retries.md"


@pytest.fixture
def page() -> str:
    if not PAGE.exists():
        pytest.skip("the docs are not part of this distribution")
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_the_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {"__name__": "retries"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102
    shown = re.search(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert capsys.readouterr().out.startswith(shown[1])


def test_the_first_example_is_the_article_s(page: str) -> None:
    names: dict[str, object] = {}
    first = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert first is not None
    exec(first[1], names)  # noqa: S102
    assert names["policy"] == RetryPolicy(
        [
            RetryRule("category:rate_limit", Backoff(30, factor=2)),
            RetryRule("category:timeout", Backoff(10, factor=2)),
            RetryRule("category:server", Backoff(5, factor=1)),
            RetryRule("category:auth", action="fail"),
        ],
        max_attempts=6,
    )


def test_every_category_is_on_the_page(page: str) -> None:
    for category in Category:
        assert category in page
