"""What does the framework cost when the work is small: JPEGs become colour histograms, 2 ms a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from _arms import Pictures, Work
from _corpus import PHOTOS
from _decode import PICTURE, photos

from raycluster.encode import Encode, Encoder

WIDTH = 512  # 8 shades of red, green and blue each
COLUMN = pa.field("histogram", pa.list_(pa.float32(), WIDTH))


def histogram(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the share of pixels of each colour. Shapes: (side, side, rgb) -> (512,)."""
    # red, green, blue: (side, side), three bits each, at their place in a number below 512
    red = (pixels[..., 0] & 0xE0).astype(np.uint16) << 1
    green, blue = (pixels[..., 1] & 0xE0) >> 2, pixels[..., 2] >> 5
    counts = np.bincount((red | green | blue).reshape(-1), minlength=WIDTH)
    return (counts / counts.sum()).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Histogram(Encode):
    """Counts colours; a private stage, as users write them."""

    takes: ClassVar = "pixels"

    @property
    def writes(self) -> pa.Schema:
        """Return one column of 512 shares."""
        return pa.schema([COLUMN])

    def encoder(self) -> Encoder:
        """Return the function; there is nothing to load."""

        def encode(pixels: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
            return {"histogram": [histogram(one) for one in pixels]}

        return encode


WORK = Work(
    file=Path(__file__),
    corpus=PHOTOS,
    take=lambda: photos,
    columns=(("features", PICTURE),),
    models=(Histogram(),),
    turn=64,
    declared={"decode": {"image": {"size": 224, "thumbnail": False}}, "encode": [{"use": "histogram:Histogram"}]},
    sizes=(1000, 6000),
    idiom=Pictures(Histogram()),
)

if __name__ == "__main__":
    WORK.question().main()
