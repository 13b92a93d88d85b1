"""What is marked in a text is what the index of words found there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster.lake.words import Words


@pytest.fixture(scope="module")
def words(measured: Any) -> Any:
    return lambda text: Words.asked(measured.open("live"), text)


@pytest.mark.parametrize(
    ("asked", "text", "matched"),
    [
        ("cat", "The Cats, and a CAT.", ["Cats", "CAT"]),
        ("running", "She runs; he ran, we are running", ["runs", "running"]),
        ("café", "Cafe, café and CAFÉS", ["Cafe", "café", "CAFÉS"]),
        ("the", "the the the", []),
        ("", "nothing asked", []),
        ("cat", "", []),
        ("cat", "the of and cat", ["cat"]),
        ("snake_case", "in snake and in case", ["snake", "case"]),
        ("x" * 50, "x" * 50, []),
        ("dog's", "a dog, dogs' dog's", ["dog", "dogs", "s"]),
    ],
)
def test_words_meet_as_the_index_sees_them(words: Any, asked: str, text: str, matched: list[str]) -> None:
    assert words(asked).matched(text) == matched


def test_offsets_are_characters_of_the_text(words: Any) -> None:
    text = "Ein 🐈 ist eine cat, sagt the Cat — und «cats»."
    assert [text[start:end] for start, end in words("cat").places(text)] == ["cat", "Cat", "cats"]


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.sampled_from("catsdog 🐈é_-'\n.")), st.text(alphabet="catsdog é", max_size=10))
def test_any_text_can_be_marked(words: Any, text: str, asked: str) -> None:
    for start, end in words(asked).places(text):
        assert text[start:end].isalnum()
    for part in words(asked).fragments(text):
        assert text[part["start"] : part["start"] + len(part["text"])] == part["text"]
        assert all(0 <= start < end <= len(part["text"]) for start, end in part["words"])


def test_long_texts_are_shown_around_what_was_found(words: Any) -> None:
    filler = "nothing of interest here " * 40
    text = f"{filler}a violin {filler}two violins {filler}more violins {filler}violin"
    parts = words("violin").fragments(text)
    assert len(parts) == 3
    for part in parts:
        assert len(part["text"]) <= 160
        assert len(part["words"]) == 1
        assert part["text"].startswith(("nothing", "of", "interest", "here", "a", "two", "more"))
    near = words("violin").fragments("violin and violins")
    assert near == [{"text": "violin and violins", "start": 0, "words": [[0, 6], [11, 18]]}]


def test_without_an_index_words_are_compared_as_written(filled: Any) -> None:
    plain = Words.asked(filled.open("live"), "Cat the")
    assert plain.matched("cat Cat cats The the") == ["Cat"]
