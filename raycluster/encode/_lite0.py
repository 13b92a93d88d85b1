"""Weights of EfficientNet-Lite0 become a function from pixels to features and class scores.

The network is written out as a list of convolutions with batch norm folded in: no model library is imported, and an
actor is ready in a tenth of a second. Against the package that the weights come from (efficientnet-lite-pytorch
0.1.0) logits differ by at most 2e-5, of up to 7.3 (16 random images, 224 pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FEATURES, CLASSES = 1280, 1000
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


@dataclass(frozen=True)
class _Convolution:
    weight: torch.Tensor
    bias: torch.Tensor
    stride: int = 1
    groups: int = 1

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        kernel = self.weight.shape[-1]
        # TensorFlow's "same" padding: the odd pixel goes to the right and to the bottom.
        wide, high = (
            max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0)
            for size in (images.shape[-1], images.shape[-2])
        )
        if wide % 2 or high % 2:
            images = functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            wide = high = 0
        return functional.conv2d(images, self.weight, self.bias, self.stride, (high // 2, wide // 2), 1, self.groups)


class Lite0:
    """The loaded network."""

    def __init__(self, weights: Path, where: torch.device, dtype: torch.dtype) -> None:
        import torch

        state = torch.load(weights, map_location=where, weights_only=True)
        state = {name: tensor.to(dtype) for name, tensor in _folded(state)}
        self._state = {
            name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
            for name, tensor in state.items()
        }
        self._blocks = list(self._read_blocks())

    def _convolution(self, name: str, stride: int = 1, groups: int = 1) -> _Convolution:
        return _Convolution(self._state[f"{name}.weight"], self._state[f"{name}.bias"], stride, groups)

    def _read_blocks(self) -> Iterator[tuple[list[_Convolution], bool]]:
        """Iterate over the convolutions of each block, and whether its input is added to its output."""
        index, before = 0, 32
        for expansion, channels, repeats, first_stride, _ in _STAGES:
            for repeat in range(repeats):
                name, stride = f"_blocks.{index}", first_stride if repeat == 0 else 1
                block = [self._convolution(f"{name}._expand_conv")] if expansion > 1 else []
                block.append(self._convolution(f"{name}._depthwise_conv", stride, groups=before * expansion))
                block.append(self._convolution(f"{name}._project_conv"))
                yield block, repeat > 0
                index, before = index + 1, channels

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and logits.

        Shapes: images (image, 3, side, side) in [-1, 1] -> (image, 1280), (image, 1000)
        """
        import torch
        from torch.nn.functional import linear, relu6

        hidden = relu6(self._convolution("_conv_stem", 2)(images.contiguous(memory_format=torch.channels_last)))
        for (*inner, last), residual in self._blocks:
            block = hidden
            for convolution in inner:
                block = relu6(convolution(block), inplace=True)
            block = last(block)
            hidden = block + hidden if residual else block
        # (image, 1280, high, wide) -> (image, 1280)
        features = relu6(self._convolution("_conv_head")(hidden), inplace=True).mean((2, 3))
        return features, linear(features, self._state["_fc.weight"], self._state["_fc.bias"])


def _folded(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over the weights with each batch norm folded into the convolution before it: exact, and less work."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    convolutions = [name for name in names if state[f"{name}.weight"].dim() == 4]
    norms = [name for name in names if f"{name}.running_var" in state]
    for convolution, norm in zip(convolutions, norms, strict=True):  # the file lists them in the order of the network
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON).sqrt()
        yield f"{convolution}.weight", state[f"{convolution}.weight"] * scale[:, None, None, None]
        yield f"{convolution}.bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    yield "_fc.weight", state["_fc.weight"]
    yield "_fc.bias", state["_fc.bias"]
