"""A picture of a page becomes its text: RapidOCR with the models in its own wheel, lines in reading order.

Decoders put a page here only where it has no text of its own; a page without any writing keeps `text` null.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from raycluster.encode import Encode, Encoder
from raycluster.errors import BadMedia, MissingPackage
from raycluster.stage import need
from raycluster.units import Seconds

_INSTALL = '"raycluster[ocr]"'


@dataclass(frozen=True, kw_only=True)
class Ocr(Encode):
    """Reads printed text, Latin and Chinese scripts, on one core.

    sure: lines that the reader is less sure of than this (0 to 1) are left out.
    """

    takes: ClassVar = "page"

    sure: Annotated[float, Field(ge=0, le=1)] = 0.5
    batch: Annotated[int, Field(gt=0)] = 1  # the reader takes one page at a time
    timeout: Seconds = 180.0  # 3 s a page on a free core; a dense one on a busy core takes many times that

    @property
    def writes(self) -> pa.Schema:
        """Return the text."""
        return pa.schema([("text", pa.string())])

    @property
    def revision(self) -> str:
        """Return the version of the wheel that holds the models."""
        try:
            return f"rapidocr@{version('rapidocr')}"
        except PackageNotFoundError as error:
            raise MissingPackage("rapidocr is not installed", fix=f"pip install {_INSTALL}") from error

    def encoder(self) -> Encoder:
        """Load the three models (find lines, turn them, read them); about 1 s."""
        rapidocr = need("rapidocr", _INSTALL)
        reader = rapidocr.RapidOCR(
            params={
                "Global.text_score": self.sure,
                "Global.log_level": "error",
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

        def encode(pages: Sequence[bytes]) -> Mapping[str, Sequence[Any]]:
            texts = []
            for page in pages:
                found = reader(_picture(page))
                # found.boxes: (line, 4 corners, x and y) float32, or None
                texts.append(None if found.boxes is None else in_reading_order(np.asarray(found.boxes), found.txts))
            return {"text": texts}

        return encode


def _picture(page: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        # (high, wide, bgr) uint8: the order of channels that the reader was trained with
        return np.asarray(Image.open(io.BytesIO(page)).convert("RGB"))[:, :, ::-1]
    except (OSError, ValueError) as error:
        raise BadMedia("corrupt", f"the picture of this page cannot be opened: {error}") from error


def in_reading_order(boxes: npt.NDArray[np.float32], texts: Sequence[str]) -> str | None:
    """Join pieces of text that share a line with a space, and lines, from the top, with a line break.

    Shapes: boxes (piece, 4 corners, x and y)
    """
    left = boxes[:, :, 0].min(1)
    top, bottom = boxes[:, :, 1].min(1), boxes[:, :, 1].max(1)
    lines: list[list[int]] = []
    for piece in np.argsort((top + bottom) / 2, kind="stable").tolist():
        # A piece belongs to the line whose first piece spans the height of its middle.
        middle = (top[piece] + bottom[piece]) / 2
        if lines and top[lines[-1][0]] <= middle <= bottom[lines[-1][0]]:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    rows = (" ".join(texts[piece] for piece in sorted(line, key=lambda piece: left[piece])) for line in lines)
    return "\n".join(rows).strip() or None
