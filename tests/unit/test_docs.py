"""The docs say what the code does: generated pages are fresh, links lead somewhere, the README's commands are CI's."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_settings_is_fresh() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs/reference/settings.md").read_text() == generate["settings"](), "run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("name", ["demo", "test"])
def test_ci_finds_the_commands_of_the_readme(name: str) -> None:
    script = (ROOT / ".ci/run").read_text()
    function = re.search(r"^readme\(\).*$", script, re.MULTILINE)
    assert function is not None
    said = subprocess.run(
        ["bash", "-c", f"{function[0]}\nreadme {name}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert said.startswith("python3 -m venv .venv && ")
    assert said in (ROOT / "README.md").read_text()
