"""Where the texts come from, and what the stand-in says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from queuekit.demo.answers import summarise
from queuekit.demo.documents import LONGEST, from_folder, from_packages
from queuekit.errors import ConfigError
from queuekit.message import ID_PATTERN

if TYPE_CHECKING:
    from pathlib import Path


def test_the_texts_of_a_folder_are_found_below_it_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.md", "a.txt", "sub/ä b.RST", ".git/c.txt", ".hidden.txt", "d.png", "a.md"):
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / "empty.txt").touch()
    documents = from_folder(tmp_path, 10)
    assert [one.id for one in documents.chosen] == ["a", "a-2", "b", "sub-b"]
    assert documents.chosen[1].text == "text of a.txt"
    assert "4 of 4" in documents.source
    assert all(ID_PATTERN.match(one.id) for one in documents.chosen)


def test_of_many_a_few_are_spread_evenly(tmp_path: Path) -> None:
    for n in range(10):
        (tmp_path / f"{n}.txt").write_text("x" * 2 * LONGEST)
    documents = from_folder(tmp_path, 3)
    assert [one.id for one in documents.chosen] == ["0", "3", "6"]
    assert {len(one.text) for one in documents.chosen} == {LONGEST}
    assert "3 of 10" in documents.source


def test_bytes_that_are_no_utf8_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    assert from_folder(tmp_path, 1).chosen[0].text == "Gr\ufffd\ufffde"


def test_a_folder_without_texts_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FOLDER=.* has no text in it: .*\.md.*Without a folder"):
        from_folder(tmp_path, 3)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(ConfigError, match="does not exist"):
        from_folder(tmp_path / "nowhere", 3)
    with pytest.raises(ConfigError, match="is a file"):
        from_folder(tmp_path / "x.txt", 3)


def test_the_packages_installed_here_have_texts() -> None:
    documents = from_packages(5)
    assert documents == from_packages(5)
    assert len({one.id for one in documents.chosen}) == 5
    assert all(ID_PATTERN.match(one.id) and len(one.text) >= 400 for one in documents.chosen)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " (0 words; most often: none)"),
        ("# Title\n\n[![badge](a)](b)\n\nThis is *the* first sentence that really says something. More.",
         "This is *the* first sentence that really says something."),
        ("Name\n====\n\n.. image:: x.png\n\nSee `the docs <https://x.y>`_ for what this package can do. More.",
         "See the docs for what this package can do."),
        ("<p align='center'>\nOne [link](https://x.y) stands in a sentence of some length. More.",
         "One link stands in a sentence of some length."),
        ("no sentence here " * 30, "no sentence here no sentence here"),
    ],
)  # fmt: skip
def test_a_summary_starts_with_the_first_sentence(text: str, said: str) -> None:
    assert summarise(text).startswith(said)


def test_a_summary_names_what_is_frequent_and_counts_the_words() -> None:
    said = summarise("Queue queue queue worker worker broker. With with with with the.")
    assert said.endswith("(11 words; most often: queue, worker, broker)")
