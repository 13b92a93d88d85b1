"""How near is a pipeline to its model: pages of PDFs and chunks of texts become MiniLM vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import DOCUMENTS
from _decode import IDENTITY, encoded, pieces

from raycluster.decode.document import Document
from raycluster.decode.text import Text
from raycluster.encode.minilm import Minilm

MODEL = Minilm(batch=64)
PAGES, TEXTS = Document(chunk=200, dpi=200, thumbnail=False), Text(chunk=200, overlap=20)
MEASURED = ("language", "characters", "words", "tokens", "symbol_share", "repetition")
FEATURES = pa.struct([(name, Text.features[name]) for name in MEASURED])
SCHEMA = pa.schema([*IDENTITY, ("text", pa.string()), ("features", FEATURES), *MODEL.writes])


def pipeline() -> Callable[[list[str]], pa.RecordBatch]:
    """Load the model and return the function from documents to rows."""
    encode, pages, texts = MODEL.encoder(), PAGES.decoder(), TEXTS.decoder()
    kinds = {
        ".pdf": (("document", "application/pdf"), pages),
        ".txt": (("text", "text/plain"), texts),
        ".md": (("text", "text/markdown"), texts),
    }

    def rows(paths: list[str]) -> pa.RecordBatch:
        found = pieces(paths, kinds, "text")
        return found.batch(SCHEMA, encoded(encode, found.payloads, batch=MODEL.batch))

    return rows


WORK = Work(
    file=Path(__file__),
    corpus=DOCUMENTS,
    schema=SCHEMA,
    pipeline=pipeline,
    turn=4,
    declared={
        "decode": {
            "document": {"chunk": 200, "dpi": 200, "thumbnail": False},
            "text": {"chunk": 200, "overlap": 20},
        },
        "encode": [{"use": "ocr"}, {"use": "minilm", "batch": MODEL.batch}],
    },
    sizes=(24, 84),
)

if __name__ == "__main__":
    WORK.question().main()
