"""How near is a pipeline to its model: films become frames, two a second, with EfficientNet-Lite0's columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import CLIPS
from _decode import IDENTITY, PICTURE, encoded, frames

from raycluster.encode.efficientnet import Efficientnet

FPS = 2
MODEL = Efficientnet(batch=64)
SPAN = [("start_seconds", pa.float64()), ("end_seconds", pa.float64())]
SCHEMA = pa.schema([*IDENTITY, *SPAN, ("features", PICTURE), *MODEL.writes])


def pipeline() -> Callable[[list[str]], pa.RecordBatch]:
    """Load the network and return the function from films to rows."""
    encode = MODEL.encoder()

    def rows(paths: list[str]) -> pa.RecordBatch:
        found = frames(paths, fps=FPS)
        return found.batch(SCHEMA, encoded(encode, found.payloads, batch=MODEL.batch))

    return rows


WORK = Work(
    file=Path(__file__),
    corpus=CLIPS,
    schema=SCHEMA,
    pipeline=pipeline,
    turn=4,
    declared={
        "decode": {"video": {"fps": FPS, "size": 224, "thumbnail": False}},
        "encode": [{"use": "efficientnet", "batch": MODEL.batch}],
    },
    sizes=(40, 150),
)

if __name__ == "__main__":
    WORK.question().main()
