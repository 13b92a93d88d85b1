"""How near is a pipeline to its model: pages of PDFs and chunks of texts become MiniLM vectors."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import DOCUMENTS
from _decode import pieces

from raycluster.decode.document import Document
from raycluster.decode.text import Text
from raycluster.encode.minilm import Minilm

MODEL = Minilm(batch=64)
PAGES, TEXTS = Document(chunk=200, dpi=200, thumbnail=False), Text(chunk=200, overlap=20)
MEASURED = ("language", "characters", "words", "tokens", "symbol_share", "repetition")
FEATURES = pa.struct([(name, Text.features[name]) for name in MEASURED])
KINDS = {
    ".pdf": (("document", "application/pdf"), PAGES),
    ".txt": (("text", "text/plain"), TEXTS),
    ".md": (("text", "text/markdown"), TEXTS),
}

WORK = Work(
    file=Path(__file__),
    corpus=DOCUMENTS,
    take=partial(pieces, KINDS, attrgetter("text")),
    columns=(("text", pa.string()), ("features", FEATURES)),
    models=(MODEL,),
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
