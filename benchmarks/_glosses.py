"""WordNet's glosses become a corpus of real short texts with MiniLM vectors, made once and kept in the cache folder.

A hundred thousand are the corpus, some others the questions: held out, of the same kind, in nobody's index. What is
left over are texts that no server has been asked before.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raycluster.encode._minilm import MINILM, WIDTH, Minilm
from raycluster.fetch import Package, cache_folder, fetch, keep

WORDNET = Package(
    client="apt",
    name="wordnet-base",
    version="1:3.0-37",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    licence="WordNet",
)
QUESTIONS = 200
_PART = 2048  # texts between two lines of progress


@dataclass(frozen=True)
class Corpus:
    """Texts and their vectors, unit length: (text, 384) float32 each."""

    texts: list[str]
    vectors: npt.NDArray[np.float32]
    questions: npt.NDArray[np.float32]
    unseen: list[str]


def load(count: int) -> Corpus:
    """Return `count` glosses and the questions; embedding 100,000 takes some minutes, the first time."""
    texts = list(dict.fromkeys(_glosses()))  # some synsets share one
    random.Random(0).shuffle(texts)
    if len(texts) < count + QUESTIONS:
        raise SystemExit(f"WordNet has {len(texts)} glosses; {count} and {QUESTIONS} are wanted")
    texts, unseen = texts[: count + QUESTIONS], texts[count + QUESTIONS :]
    made_of = f"{WORDNET.sha256} {MINILM.sha256} {count} {QUESTIONS}"
    name = f"glosses-{count}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    vectors = np.load(keep(cache_folder() / "derived" / name, lambda made: _embed(texts, made)) / "vectors.npy")
    return Corpus(texts[QUESTIONS:], vectors[QUESTIONS:], vectors[:QUESTIONS], unseen)


def _embed(texts: Sequence[str], folder: Path) -> None:
    model = Minilm()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # of like length: little padding
    vectors = np.empty((len(texts), WIDTH), np.float32)
    for start in range(0, len(order), _PART):
        print(f"embedding {start} of {len(order)}", file=sys.stderr)
        part = order[start : start + _PART]
        vectors[part] = model.embed([texts[index] for index in part])
    np.save(folder / "vectors.npy", vectors)


def _glosses() -> Iterator[str]:
    """Yield the definition of each synset, without its example sentences."""
    folder = fetch(WORDNET) / "usr" / "share" / "wordnet"
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("utf-8", "replace").splitlines():
            if not line.startswith("  "):  # the licence
                yield line.partition(" | ")[2].partition('; "')[0].strip()
