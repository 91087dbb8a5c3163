"""The site: `nox -s docs`, or sphinx-build -W docs docs/_build."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "queuekit"
author = "The queuekit authors"
project_copyright = "the queuekit authors"
version = release = version_of("queuekit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "queuekit"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 90


def _as_markdown(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Our docstrings write `code` as Markdown does, where reStructuredText wants two backticks; and a word that ends in
    an underscore would be a link there."""
    for number, line in enumerate(lines):
        coded = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        lines[number] = re.sub(r"(?<=\w)_(?=\s|$)", r"\_", coded)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _as_markdown)
