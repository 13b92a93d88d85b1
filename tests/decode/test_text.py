"""Text in every encoding becomes chunks of bounded size that lose nothing; what is no text is refused."""

from __future__ import annotations

import random
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raycluster.decode._encoding import normalise
from raycluster.decode._prose import chunks, count_tokens
from raycluster.decode.text import Text
from raycluster.row import Media

ENGLISH = (
    "The cat sat on the mat. Dr. Smith, who lives in the U.S., paid 3.50 dollars for it. "
    "Nobody had told him that the mat was his own! Was he angry? Not at all.\n\n"
    "On Monday he bought a second mat, and the cat moved there at once. "
)
FRENCH = "L'été dernier, nous sommes allés à la plage où il faisait très chaud. Les élèves étaient déjà là. "
GERMAN = "Größe und Höhe müssen für die Prüfung sehr genau sein. Die Straße ist naß, und der Bär hört zu. "
RUSSIAN = "Вчера вечером мы ходили в кино и смотрели новый фильм про космос. Было очень интересно и весело. "
JAPANESE = "昨日は天気がとても良かったので、公園で散歩をしました。桜の花がきれいに咲いていました。"
POLISH = "Wczoraj wieczorem poszliśmy do kina i obejrzeliśmy nowy film o kosmosie. Było bardzo ciekawie. "


def test_chunks_end_at_sentences_and_lose_nothing(pieces):
    rows = pieces(Text(chunk=40), (ENGLISH * 6).encode())
    assert [row.position for row in rows] == list(range(len(rows)))
    assert len(rows) > 5
    for row in rows:
        assert row.features["tokens"] <= 40
        assert row.text.endswith((".", "!", "?"))
        assert row.features["language"] == "en"
        assert row.features["characters"] == len(row.text)
    assert " ".join(" ".join(row.text for row in rows).split()) == " ".join((ENGLISH * 6).split())
    assert not any(row.text.endswith(("Dr.", "U.S.")) for row in rows)


@pytest.mark.parametrize(
    ("text", "encoding", "found", "language"),
    [
        (ENGLISH, "ascii", "utf-8", "en"),
        (FRENCH, "utf-8", "utf-8", "fr"),
        (FRENCH, "latin-1", "cp1252", "fr"),
        (GERMAN, "cp1252", "cp1252", "de"),
        (GERMAN, "utf-8-sig", "utf-8-sig", "de"),
        (RUSSIAN, "cp1251", "cp1251", "ru"),
        (RUSSIAN, "koi8-r", "koi8_r", "ru"),
        (RUSSIAN, "utf-16", "utf-16", "ru"),
        (ENGLISH, "utf-16-le", "utf_16_le", "en"),
        (ENGLISH, "utf-16-be", "utf_16_be", "en"),
        (ENGLISH, "utf-32", "utf-32", "en"),
        (JAPANESE, "shift_jis", "cp932", "ja"),
        (JAPANESE, "euc_jp", "euc_jis_2004", "ja"),
        (POLISH, "cp1250", "cp1250", "pl"),
    ],
)
def test_encodings_and_languages_are_recognised(pieces, text, encoding, found, language):
    rows = pieces(Text(), (text * 8).encode(encoding))
    assert rows[0].features["encoding"] == found
    assert {row.features["language"] for row in rows} == {language}
    assert rows[0].features["language_confidence"] > 0.8
    assert rows[0].text.startswith(text[:30])


def test_a_sentence_longer_than_a_chunk_is_cut_between_words(pieces):
    words = [f"word{random.Random(7).choice('abc')}{number}" for number in range(300)]
    rows = pieces(Text(chunk=50), " ".join(words).encode())
    assert all(row.features["tokens"] <= 50 for row in rows)
    assert " ".join(row.text for row in rows).split() == words


def test_a_word_longer_than_a_chunk_is_cut_anywhere(pieces):
    word = "".join(random.Random(7).choices("0123456789abcdef", k=5000))
    rows = pieces(Text(chunk=50), word.encode())
    assert "".join(row.text for row in rows) == word
    assert all(row.features["tokens"] <= 50 for row in rows)


def test_overlap_repeats_whole_sentences(pieces):
    sentences = [f"Sentence number {number} stands here alone." for number in range(40)]
    rows = pieces(Text(chunk=40, overlap=12), " ".join(sentences).encode())
    for before, after in pairwise(rows):
        shared = re.findall(r"Sentence number \d+ stands here alone\.", before.text)[-1]
        assert after.text.startswith(shared)
        assert after.features["tokens"] <= 40
    assert all(any(sentence in row.text for row in rows) for sentence in sentences)


def test_too_much_overlap_is_refused_where_it_is_declared():
    with pytest.raises(ValidationError, match="more than half of chunk 20"):
        TypeAdapter(Text).validate_json('{"chunk": 20, "overlap": 11}')
    assert TypeAdapter(Text).validate_json('{"chunk": 20, "overlap": 10, "max_bytes": "1MiB"}').max_bytes == 1 << 20


def test_whitespace_and_invisible_marks_are_normalised(pieces):
    raw = "A  soft\u00adhyphen,\t a BOM\ufeff here." + "\r\n" * 4
    raw += "\x1b[31mRed\x1b[0m e\u0301te\u0301.\r\n    indented = 1\x00\r\n"
    (row,) = pieces(Text(), raw.encode())
    assert row.text == "A softhyphen, a BOM here.\n\nRed été.\n    indented = 1"


def test_quality_is_measured(pieces):
    (spam,) = pieces(Text(), ("buy it now or never " * 30).encode())
    (prose,) = pieces(Text(), ENGLISH.encode())
    (symbols,) = pieces(Text(), b"{[(<*&^%$#@!>)]} a = b; " * 3)
    assert spam.features["repetition"] > 0.9
    assert prose.features["repetition"] < 0.1
    assert symbols.features["symbol_share"] > 0.7
    assert prose.features["symbol_share"] < 0.1
    assert prose.features["words"] == 50


def test_source_code_keeps_its_indentation(pieces):
    source = Path(__file__).read_text()
    rows = pieces(Text(), Path(__file__))
    assert "\n    rows = pieces(" in "\n".join(row.text for row in rows)
    assert re.sub(r"\s+", "", "".join(row.text for row in rows)) == re.sub(r"\s+", "", normalise(source))


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "empty", "no bytes"),
        (b" \r\n\t \n" * 50, "empty", "nothing but blanks"),
        (b"\xef\xbb\xbf", "empty", "nothing but blanks"),
        (random.Random(3).randbytes(20_000), "corrupt", "binary"),
        (bytes(range(1, 32)) * 40, "corrupt", "binary"),
        (b"\x7fELF\x02\x01\x01" + bytes(500) + b"text" * 100, "corrupt", "binary"),
        ((RUSSIAN * 4).encode()[:-3], "truncated", "inside a UTF-8 character"),
        (b"a" * 2000, "too_large", "max_bytes"),
    ],
)
def test_what_is_no_text_is_refused(verdict, content, code, says):
    refused = verdict(Text(max_bytes=1000 if code == "too_large" else 1 << 20), content)
    assert (refused.code, says in refused.message) == (code, True), refused.message


def test_a_few_broken_bytes_do_not_turn_utf8_into_another_encoding(pieces):
    content = (GERMAN * 60).encode().replace(b"B\xc3\xa4r", b"B\xc3r", 1)
    rows = pieces(Text(), content)
    assert rows[0].features["encoding"] == "utf-8"
    assert "Größe" in rows[-1].text
    assert sum(row.text.count("\ufffd") for row in rows) == 1


def test_memory_does_not_grow_with_the_file(tmp_path):
    stage, peaks = Text(), []
    decode = stage.decoder()
    for size in (1, 6):
        log = tmp_path / f"{size}.log"
        log.write_text("2026-11-23 10:00:00 INFO worker 7 finished its part in 3.2 seconds.\n" * 2000 * size)
        media = Media(object_id="o", uri="u", sha256="", modality="text", media_type="text/plain", path=str(log))
        tracemalloc.start()
        count = sum(1 for _ in decode(media))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count > 150 * size
    assert peaks[1] < 1.5 * peaks[0]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.integers(8, 60))
def test_any_text_is_cut_without_loss(text, size):
    text = normalise(text)
    found = list(chunks([text], size))
    assert re.sub(r"\s", "", "".join(chunk.text for chunk in found)) == re.sub(r"\s", "", text)
    assert all(count_tokens(chunk.text) <= size for chunk in found)
