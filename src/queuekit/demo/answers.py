"""What the stand-in for a model says of a text: its first sentence, length and most frequent words; or a vector.

No model is asked. It is computed from the text that was really sent, so that an answer shows that the right text came.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from typing import Final

__all__ = ["embed", "summarise"]

_MARKUP: Final = tuple(
    (re.compile(pattern, re.DOTALL | re.MULTILINE), instead)
    for pattern, instead in (
        (r"```.*?(```|\Z)", " "),  # code
        (r"<!--.*?(-->|\Z)", " "),
        (r"<[^>\n]{1,500}>", " "),
        (r"^[ \t]*(\.\. |\[!\[|!\[|:\w+:|[|+])[^\n]*$", " "),  # directives, badges, tables
        (r"!?\[([^\]\n]*)\]\([^)\n]*\)", r"\1"),  # a link: its text stays
        (r"`+([^`<\n]*)(?: <[^>\n]*>)?`+_{0,2}", r"\1"),
        (r"^[ \t]*[=\-~^\"'#*_]{3,}[ \t]*$", ". "),  # underlines: what stands above is a title, no part of a sentence
        (r"^[ \t]*#+ [^\n]*$", " "),
        (r"\*\*", ""),
    )
)
_SENTENCE: Final = re.compile(r"[A-Z][^.!?]{30,}?[.!?](?=\s|\Z)", re.DOTALL)
_COMMON: Final = frozenset(
    {
        "about",
        "also",
        "been",
        "before",
        "both",
        "could",
        "does",
        "each",
        "from",
        "have",
        "here",
        "html",
        "http",
        "https",
    }
    | {"into", "just", "like", "made", "make", "many", "more", "most", "must", "need", "only", "other", "over", "same"}
    | {"should", "some", "such", "than", "that", "their", "them", "then", "there", "these", "they", "this", "those"}
    | {"under", "used", "using", "very", "want", "were", "what", "when", "where", "which", "while", "will", "with"}
    | {"without", "would", "your"}
)


def summarise(text: str) -> str:
    """One line. Never raises, also for an empty text."""
    words = re.findall(r"[^\W\d_]+", text)
    frequent = Counter(word.lower() for word in words if len(word) > 3 and word.lower() not in _COMMON)
    often = ", ".join(word for word, _ in sorted(frequent.items(), key=lambda item: (-item[1], item[0]))[:4])
    return f"{_first_sentence(text)} ({len(words)} words; most often: {often or 'none'})"


def embed(text: str) -> list[float]:
    """16 dimensions, of length 1: texts that have words in common are near each other. Never raises."""
    vector = [0.0] * 16
    for word in re.findall(r"[^\W\d_]+", text.lower()):
        vector[zlib.crc32(word.encode("utf-8", "replace")) % 16] += 1.0
    length = math.hypot(*vector) or 1.0
    return [one / length for one in vector]


def _first_sentence(text: str) -> str:
    plain = text
    for pattern, instead in _MARKUP:
        plain = pattern.sub(instead, plain)
    found = _SENTENCE.search(plain) or _SENTENCE.search(text)
    sentence = " ".join((found[0] if found else plain).split())
    return sentence if len(sentence) <= 160 else sentence[:157] + "..."
