"""How near is a pipeline to its model: JPEGs become EfficientNet-Lite0 features, labels and vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from _arms import Pictures, Work
from _corpus import PHOTOS
from _decode import IDENTITY, PICTURE, photos

from raycluster.encode.efficientnet import Efficientnet

MODEL = Efficientnet(batch=64)
SCHEMA = pa.schema([*IDENTITY, ("features", PICTURE), *MODEL.writes])


def pipeline() -> Callable[[list[str]], pa.RecordBatch]:
    """Load the network and return the function from photos to rows."""
    encode = MODEL.encoder()

    def rows(paths: list[str]) -> pa.RecordBatch:
        found = photos(paths)
        return found.batch(SCHEMA, encode(found.payloads))

    return rows


WORK = Work(
    file=Path(__file__),
    corpus=PHOTOS,
    schema=SCHEMA,
    pipeline=pipeline,
    turn=64,
    declared={
        "decode": {"image": {"size": 224, "thumbnail": False}},
        "encode": [{"use": "efficientnet", "batch": 64}],
    },
    sizes=(2000, 3500),
    idiom=Pictures(MODEL),
)

if __name__ == "__main__":
    WORK.question().main()
