"""Pixels become EfficientNet-Lite0 features, a label, and a vector in the space of texts.

The shared vector needs no training: it is the mean of MiniLM's vectors of the ten likeliest classes' names, weighted
by their probabilities. Source: Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raycluster.encode import Encode, Encoder, unit
from raycluster.encode._bert import MINILM, WIDTH
from raycluster.encode._lite0 import FEATURES, LITE0, network
from raycluster.encode._torch import Precision
from raycluster.fetch import Package, cache_folder, keep

_LIKELIEST = 10  # classes that make the shared vector
_PROMPT = "a photo of a {}"


@dataclass(frozen=True, kw_only=True)
class Efficientnet(Encode):
    """Describes and labels images and frames with the 1000 classes of ImageNet. Any side works; 224 is best.

    dtype: of a GPU, where `bfloat16` is faster. On a processor it is slower than float32, even on one that computes in
        it (90 images/s against 105); cosine to float32 about 0.995.
    """

    takes: ClassVar = "pixels"
    weights: ClassVar[tuple[Package, ...]] = (LITE0, MINILM)

    dtype: Precision = "float32"

    @property
    def writes(self) -> pa.Schema:
        """Return features, the likeliest class with its probability, and the shared vector."""
        return pa.schema(
            [
                ("efficientnet", pa.list_(pa.float32(), FEATURES)),
                ("label", pa.string()),
                ("label_score", pa.float32()),
                ("vector", pa.list_(pa.float32(), WIDTH)),
            ]
        )

    def encoder(self) -> Encoder:
        """Load 4.7 M parameters and the vectors of the class names; 0.2 s, on a CPU without torch."""
        compute = network(self.dtype)
        names, vectors = _classes()

        def encode(pixels: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
            columns: dict[str, list[Any]] = {name: [] for name in self.writes.names}
            for features, logits in compute(pixels):
                chances = np.exp(logits - logits.max(1, keepdims=True))
                chances /= chances.sum(1, keepdims=True)
                # classes, scores: (image, 10), the likeliest first
                classes = np.argsort(-chances, axis=1, kind="stable")[:, :_LIKELIEST]
                scores = np.take_along_axis(chances, classes, axis=1)
                # (image, 1, 10) and (image, 10, 384) -> (image, 384)
                shared = (scores[:, None] @ vectors[classes])[:, 0]
                columns["efficientnet"] += list(unit(features))
                columns["label"] += [names[index] for index in classes[:, 0]]
                columns["label_score"] += scores[:, 0].tolist()
                columns["vector"] += list(unit(shared))
            return columns

        return encode

    def text_encoder(self) -> Encoder:
        """Return MiniLM, of whose vectors the shared ones are made: pictures alone can be asked for in words."""
        from raycluster.encode import _minilm

        model = _minilm.Minilm()
        return lambda texts: {"vector": list(model.embed(texts))}


def _classes() -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the 1000 class names and their vectors, computed once a machine (3 s on a core).

    Shapes: (1000, 384) float32, unit length.
    """
    from safetensors import safe_open

    # The key changes with whatever the vectors are made of.
    key = hashlib.sha256(f"{MINILM.sha256} {_PROMPT}".encode()).hexdigest()[:12]
    folder = keep(cache_folder() / "derived" / f"imagenet-names-{key}", _embed_names)
    with safe_open(folder / "names.safetensors", framework="numpy") as file:
        return json.loads(file.metadata()["names"]), file.get_tensor("vectors")


def _embed_names(folder: Path) -> None:
    from safetensors.numpy import save_file
    from torchvision.models import EfficientNet_B0_Weights

    from raycluster.encode._minilm import Minilm

    names = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    vectors = Minilm().embed([_PROMPT.format(name) for name in names])
    save_file({"vectors": vectors}, folder / "names.safetensors", {"names": json.dumps(names)})
