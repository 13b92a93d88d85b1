"""Blocks of text become chunks that end where sentences do, each with its language and measures.

Used by the text and document decoders: a chunk is a chunk, whichever file it came from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa

from raycluster.stage import need

# What every piece of text is measured by.
FEATURES: dict[str, pa.DataType] = {
    "language": pa.string(),  # ISO 639-1; zxx where there is no language in it
    "language_confidence": pa.float32(),  # 0 to 1
    "characters": pa.int32(),
    "words": pa.int32(),
    "tokens": pa.int32(),
    "symbol_share": pa.float32(),  # of the characters that are not blank: neither letter nor digit
    "repetition": pa.float32(),  # share of the three-word runs that occur earlier in the same piece
}

# A token stands for one WordPiece of MiniLM, without its vocabulary: up to nine Latin letters, up to two digits,
# or any one other character. Counted against the real tokenizer on English, French, German, Russian and Japanese
# prose, Python, CSV and JSON it lies within 18 % either way.
_TOKEN = re.compile(r"[A-Za-z]{1,9}|[0-9]{1,2}|[^\Wa-zA-Z0-9]|[^\w\s]")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_SYMBOL = re.compile(r"[^\w\s]|_")
_PART = re.compile(r"\s*\S+\s*")

_SAMPLE = 4000  # characters that decide on a block's language; more changes nothing
_SHORT = 200  # characters below which a chunk's own language is less sure than its surroundings'


class Chunk(NamedTuple):
    """A piece of text and what was measured in it (keys of `FEATURES`)."""

    text: str
    features: dict[str, Any]


Language = tuple[str, float]


def count_tokens(text: str) -> int:
    """Return about how many WordPieces a text has, see `_TOKEN`."""
    return sum(1 for _ in _TOKEN.finditer(text))


@cache
def identifier() -> Callable[[str], Language]:
    """Load the language model (0.7 s) and return the function from text to language code and confidence."""
    langid = need("py3langid.langid", '"raycluster[text]"')
    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    return model.classify  # type: ignore[no-any-return]


def chunks(blocks: Iterable[str], size: int, *, overlap: int = 0) -> Iterator[Chunk]:
    """Cut blocks of text into chunks of at most `size` tokens, at sentence borders, in the block's language.

    A sentence longer than a chunk is cut between words, a word longer than a chunk between tokens. With `overlap`
    a chunk begins with the last sentences of the one before, up to that many tokens.
    """
    classify = identifier()
    held: list[tuple[str, int]] = []
    fresh = False  # whether `held` holds more than the overlap
    around: Language = ("zxx", 0.0)
    for block in blocks:
        around = classify(block[:_SAMPLE])
        for sentence, length in _sentences(block, around[0], size):
            if fresh and sum(tokens for _, tokens in held) + length > size:
                yield from _chunk(held, around)
                held = _tail(held, min(overlap, size - length))
            held.append((sentence, length))
            fresh = True
        if held:
            held[-1] = (held[-1][0].rstrip() + "\n", held[-1][1])
    if fresh:
        yield from _chunk(held, around)


def _chunk(sentences: list[tuple[str, int]], around: Language) -> Iterator[Chunk]:
    text = "".join(sentence for sentence, _ in sentences).strip("\n").rstrip()
    if text:
        yield Chunk(text, measure(text, around=around))


def _tail(sentences: list[tuple[str, int]], tokens: int) -> list[tuple[str, int]]:
    kept: list[tuple[str, int]] = []
    for sentence, length in reversed(sentences):
        tokens -= length
        if tokens < 0:
            break
        kept.insert(0, (sentence, length))
    return kept


def _sentences(block: str, language: str, size: int) -> Iterator[tuple[str, int]]:
    """Iterate over sentences of at most `size` tokens with their lengths; joined, they are the block."""
    for sentence in need("sentencex", '"raycluster[text]"').segment(language, block):
        length = count_tokens(sentence)
        if length <= size:
            yield sentence, length
        else:
            yield from _split(sentence, size)


def _split(sentence: str, size: int) -> Iterator[tuple[str, int]]:
    held, held_length = "", 0
    for word in _PART.findall(sentence):
        length = count_tokens(word)
        if held and held_length + length > size:
            yield held, held_length
            held, held_length = "", 0
        while length > size:
            cut = [found.end() for found, _ in zip(_TOKEN.finditer(word), range(size), strict=False)][-1]
            yield word[:cut], size
            word, length = word[cut:], length - size
        held, held_length = held + word, held_length + length
    if held:
        yield held, held_length


def measure(text: str, *, around: Language | None = None) -> dict[str, Any]:
    """Measure one piece of text; a short one takes the language of the text `around` it where that is surer."""
    language, confidence = identifier()(text)
    if around and len(text) < _SHORT and around[1] > confidence:
        language, confidence = around
    words = _WORD.findall(text.lower())
    visible = sum(map(len, text.split()))
    return {
        "language": language,
        "language_confidence": confidence,
        "characters": len(text),
        "words": len(words),
        "tokens": count_tokens(text),
        "symbol_share": len(_SYMBOL.findall(text)) / max(visible, 1),
        "repetition": _repetition(words),
    }


def _repetition(words: list[str]) -> float:
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(runs.values())
    return 1 - len(runs) / total if total else 0.0
