"""The docs say what the code does: generated pages are fresh, links lead somewhere, the README's commands are CI's."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "docs" / "_build"
PAGES = [page for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]) if BUILT not in page.parents]


def test_the_page_of_settings_is_fresh() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs/reference/settings.md").read_text() == generate["settings"](), "run python docs/generate.py"


def test_the_page_of_commands_is_fresh() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs/reference/cli.md").read_text() == generate["commands"](), "run python docs/generate.py"


def test_the_page_of_limits_is_fresh() -> None:
    for engine in ("celery", "rq", "dramatiq"):
        pytest.importorskip(engine)
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs/reference/limits.md").read_text() == generate["limits"](), "run python docs/generate.py"


def test_the_page_of_benchmarks_is_what_the_figures_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("celery", "rq", "dramatiq"):
        pytest.importorskip(engine)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks/page.py"))
    runs, there = script["load"](ROOT / "benchmarks/figures"), ROOT / "docs/reference/benchmarks.md"
    made = script["page"](runs, script["beside"](there, ROOT / "docs/images/benchmarks"))
    assert there.read_text() == made, "run benchmarks/page.py"
    assert not any(run["quick"] for run in runs.values())


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


# ---- the contract, its suite and the table of its run --------------------------------------------------------------


def suite() -> dict[str, str]:
    """The clauses as the suite has them: "C1" and the sentence of its class."""
    from importlib import import_module
    from pkgutil import iter_modules

    import queuekit.testing.conformance as package

    found = {}
    for module in iter_modules(package.__path__):
        if module.name.startswith("test_c"):
            for one in vars(import_module(f"{package.__name__}.{module.name}")).values():
                if hasattr(one, "clause"):
                    found[one.clause] = one.__doc__.partition("\n")[0]
    return found


def table() -> list[list[str]]:
    """The rows of docs/reference/conformance.md, its head first."""
    lines = (ROOT / "docs/reference/conformance.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_the_suite_has_the_clauses_of_the_contract() -> None:
    page = (ROOT / "docs/explanation/contract.md").read_text()
    assert re.findall(r"^\| (C\d+) \|", page, re.MULTILINE) == sorted(suite(), key=lambda clause: int(clause[1:]))


def test_the_table_has_every_clause_as_the_suite_says_it() -> None:
    clauses = suite()
    said = {row[0] for row in table()[1:]}
    assert said == {f"**{clause}** {sentence}" for clause, sentence in clauses.items()}, "run nox -s conformance"


def test_the_table_has_every_target_and_every_gap() -> None:
    from queuekit.testing.target import find_targets

    targets = [target for target in find_targets() if not target.missing]
    head = table()[0]
    assert set(head[1:]) == {target.name for target in targets}, "run nox -s conformance"
    page = (ROOT / "docs/reference/conformance.md").read_text()
    for target in targets:
        column = head.index(target.name)
        for row in table()[1:]:
            clause = row[0].split("**")[1]
            gap = target.gap(clause)
            assert row[column].startswith("GAP") == (gap is not None), f"{clause} on {target}"
            assert gap is None or gap in page
        assert not any("FAILED" in row[column] or not row[column] for row in table()[1:])


# ---- the site ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"missing: {package}: pip install 'queuekit[docs]'")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-E",
            "-d",
            tmp_path / "trees",
            "docs",
            tmp_path / "site",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site" / "index.html").exists()


def test_the_reference_has_every_public_name() -> None:
    import queuekit

    page = (ROOT / "docs/reference/api.md").read_text()
    shown = set(re.findall(r"^\.\. auto\w+:: (?:queuekit\.)?(\w+)", page, re.MULTILINE))
    assert set(queuekit.__all__) <= shown


def test_every_page_is_in_a_folder_of_its_kind() -> None:
    """Diataxis: what teaches, what helps with one thing, what is looked up, and what explains."""
    kinds = {"tutorial", "how-to", "reference", "explanation", "decisions", "project"}
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    assert {page.parts[0] for page in pages if len(page.parts) > 1} <= kinds
    assert {page.name for page in pages if len(page.parts) == 1} == {"index.md", "glossary.md"}
