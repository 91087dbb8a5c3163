"""The runner of pages finds what does not hold: otherwise the test of the pages could not fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import blocks_of


def run(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "page.md"
    path.write_text(page)
    work = folder / "work"
    work.mkdir()
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_page.py")), str(path)],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


GOOD = {
    "one namespace": "```python\na = 1\n```\ntext\n```python\nassert a == 1\n```\n",
    "a file": "```python\n# made.py\nb = 2\n```\n```python\nfrom made import b\nassert b == 2\n```\n",
    "a command with its output": "```console\n$ echo one two\none ...\n```\n",
    "an environment": "```console\n$ export A_NAME=x\n$ echo $A_NAME\nx\n```\n",
    "output": "```python\nprint('at', 17)\n```\n\n<!-- output -->\n```text\nat ...\n```\n",
    "not run": "<!-- not run: it would not work -->\n```python\n1 / 0\n```\n",
    "indented": "- item\n\n  ```python\n  a = 1\n  assert a\n  ```\n",
    "settings": '```toml\n# queuekit.toml\nbackend = "memory"\nlease = 20\n```\n',
}
BAD = {
    "an error": ("text\n\n```python\n1 / 0\n```\n", "page.md:4: this python block"),
    "a file that cannot be imported": ("```python\n# made.py\nimport nothing_of_this_name\n```\n", "made.py cannot be"),
    "other output": ("```console\n$ echo one\ntwo\n```\n", "the page says\ntwo"),
    "a command that fails": ("```console\n$ false\n```\n", "ended with 1"),
    "printed otherwise": ("```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```\n", "and it is\n1"),
    "a setting that does not exist": ("```toml\n# queuekit.toml\nlaese = 20\n```\n", "laese"),
    "a mark that is far away": ("<!-- not run: no -->\n\nSome text.\n\n```python\n1 / 0\n```\n", "page.md:6"),
    "no language of ours": ("```rust\nfn main() {}\n```\n", "neither run nor text"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_holds(name: str, tmp_path: Path) -> None:
    done = run(GOOD[name], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_hold(name: str, tmp_path: Path) -> None:
    page, said = BAD[name]
    done = run(page, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr


def test_what_runs_in_the_background_ends_with_the_page(tmp_path: Path) -> None:
    page = "<!-- background -->\n```console\n$ bash -c 'echo $$ > pid; sleep 600'\n```\n```console\n$ sleep 0.5; cat pid\n...\n```\n"
    assert run(page, tmp_path).returncode == 0
    pid = (tmp_path / "work" / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists() or "sleep" not in Path(f"/proc/{pid}/cmdline").read_text()


def test_lines_are_those_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Title\n\n```text\na\n```\n\n<!-- not run: why -->\n\n```python\nb\n```\n")
    first, second = blocks_of(path)
    assert (first.line, first.mark, second.line, second.reason) == (4, "", 10, "why")
