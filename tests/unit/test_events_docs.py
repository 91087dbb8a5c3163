"""The reference of events says what the code says, and the how-to promises what the tests on engines check."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

from queuekit import EventKind, JobEvent

ROOT = Path(__file__).parents[2]


def test_the_page_of_events_is_fresh() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs/reference/events.md").read_text() == generate["events"](), "run python docs/generate.py"


def test_each_kind_and_each_field_has_a_word_said_about_it() -> None:
    page = (ROOT / "docs/reference/events.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| (.+) \|$", page, re.MULTILINE)
    said = [name for names, text in rows if text.strip() for name in re.findall(r"`(\w+)`", names)]
    assert said == [kind.value for kind in EventKind] + [field.name for field in dataclasses.fields(JobEvent)]
