"""A question's words and a hit's text become the places where they meet, as the index of words sees them.

The index cuts text into words, folds accents and case, takes endings off and drops the commonest words; Lance's own
tokeniser does the same here, with the settings that the index says it has. Without an index Lance compares words as
they are written (pylance 14.0.2), and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lance

_WORD = re.compile(r"[^\W_]+")
_FIRST = "zq"  # positions count from the first word that is kept: this one always is
_AS_WRITTEN = {"lower_case": False, "stem": False, "ascii_folding": False}
# What an index says of itself that is an option of the tokeniser.
_OPTIONS = (
    *("base_tokenizer", "language", "max_token_length", "lower_case", "stem", "remove_stop_words"),
    *("custom_stop_words", "ascii_folding"),
)
_FRAGMENT = 160  # characters of text that are shown around what was found
_MOST_FRAGMENTS = 3


@dataclass(frozen=True)
class Words:
    """The words of a question, as the index has them."""

    wanted: frozenset[str]
    options: dict[str, Any]

    @classmethod
    def asked(cls, dataset: Any, text: str) -> Words:
        """Return the words that a text search for `text` looks for in a dataset."""
        indexes = (one.details for one in dataset.describe_indices() if one.name == "text_fts")
        found = next(indexes, None)
        options = _AS_WRITTEN if found is None else {name: found[name] for name in _OPTIONS if name in found}
        return cls(frozenset(token.text for token in lance.tokenize(text, **options)), options)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return where the words are in a text: [start, end) in characters."""
        spans = [found.span() for found in _WORD.finditer(text)]
        line = " ".join((_FIRST, *(text[start:end] for start, end in spans)))
        at = {token.position for token in lance.tokenize(line, **self.options) if token.text in self.wanted}
        return [span for place, span in enumerate(spans, start=1) if place in at]

    def matched(self, text: str) -> list[str]:
        """Return the different words of a text that were asked for, as they are written there."""
        return list(dict.fromkeys(text[start:end] for start, end in self.places(text)))

    def fragments(self, text: str) -> list[dict[str, Any]]:
        """Return the parts of a text around the words: `text`, `start` of it, and [start, end) of each word in it."""
        groups: list[list[tuple[int, int]]] = []
        for span in self.places(text):
            if groups and span[1] - groups[-1][0][0] <= _FRAGMENT:
                groups[-1].append(span)
            else:
                groups.append([span])
        return [_fragment(text, spans) for spans in groups[:_MOST_FRAGMENTS]]


def _fragment(text: str, spans: Sequence[tuple[int, int]]) -> dict[str, Any]:
    first, last = spans[0][0], spans[-1][1]
    margin = max(0, _FRAGMENT - (last - first)) // 2
    start, end = max(0, first - margin), min(len(text), last + margin)
    if start:  # begin and end with a whole word
        start = min(first, text.find(" ", start, first) + 1 or first)
    if end < len(text):
        end = max(last, text.rfind(" ", last, end))
    return {"text": text[start:end], "start": start, "words": [[one - start, two - start] for one, two in spans]}
