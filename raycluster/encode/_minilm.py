"""Texts become MiniLM vectors of 384 dimensions, the space that every modality shares.

For `minilm.py`, which encodes rows of text, and `efficientnet.py`, which puts names of classes into the same space. The
network itself lies in `_bert.py`; here texts are cut into windows, and windows joined to vectors of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raycluster.encode import unit
from raycluster.encode._bert import MINILM, WIDTH, folder, network

if TYPE_CHECKING:
    import tokenizers

# Tokens a window, [CLS] and [SEP] included: what the model was trained with (sentence_bert_config.json).
WINDOW = 256
# Tokens a network call. A core's cache holds what is computed of few: with 32 long windows a call it took 1.1 times as
# long. A GPU wants as many as there are; beyond this it gains little, and a text of a thousand windows must fit.
_CALL, _GPU_CALL = 512, 8192


class Minilm:
    """The loaded model: `embed` turns texts into unit vectors."""

    def __init__(self, precision: str = "float32") -> None:
        self._network, on_gpu = network(precision)
        self._call = _GPU_CALL if on_gpu else _CALL
        self._tokenizer = _tokenizer(folder())

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts of any length: a long one is the mean of its windows, weighted by their tokens.

        Shapes: (text, 384) float32, unit length.
        """
        encoded = self._tokenizer.encode_batch(list(texts))
        windows = [(owner, part.ids) for owner, whole in enumerate(encoded) for part in (whole, *whole.overflowing)]
        windows.sort(key=lambda window: len(window[1]))  # windows of like length: little padding
        # sums: (text, 384) float32
        sums = np.zeros((len(texts), WIDTH), np.float32)
        for part in _calls(windows, self._call):
            # lengths: (window,) int32; ids: (window, token) int32, 0 beyond the end of each
            lengths = np.array([len(ids) for _, ids in part], np.int32)
            ids = np.zeros((len(part), lengths[-1]), np.int32)
            for row, (_, window) in zip(ids, part, strict=True):
                row[: len(window)] = window
            np.add.at(sums, [owner for owner, _ in part], unit(self._network(ids, lengths)) * lengths[:, None])
        return unit(sums)


def _calls(windows: list[tuple[int, list[int]]], most: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Split windows, shortest first, into calls of at most `most` tokens with padding; one window always fits."""
    part: list[tuple[int, list[int]]] = []
    for window in windows:
        if part and (len(part) + 1) * len(window[1]) > most:
            yield part
            part = []
        part.append(window)
    if part:
        yield part


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WINDOW)  # what overflows comes as further windows
    return tokenizer


__all__ = ["MINILM", "WIDTH", "WINDOW", "Minilm"]
