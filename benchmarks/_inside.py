"""A corpus becomes ways to ask it inside this process: raycluster's lake, and its rivals with their usual parameters.

Each takes a vector and returns ten hits with id, uri and text, as Python values. Cosine everywhere; vectors have unit
length, so that an inner product is one.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from _glosses import WIDTH, Corpus

from raycluster import row, search
from raycluster.declare.workload import Sink
from raycluster.encode.minilm import Minilm
from raycluster.fetch import cache_folder
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, commit
from raycluster.lake.follow import Follower
from raycluster.lake.heat import Heat, place
from raycluster.lake.hot import Base
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.rank import _PROBES, _REFINE
from raycluster.lake.table import Table

NAME = "glosses"
K = 10
_PART = 10_000  # rows a batch
_BUILD_SECONDS = 900  # of a graph of 100,000: 35 s of a core, at a niceness of 10
Vectors = npt.NDArray[np.float32]
Ask = Callable[[Any], Sequence[Any]]  # a question becomes hits; each knows its id


def uri(place: int) -> str:
    """Name a gloss as an object."""
    return f"wordnet:/gloss/{place:06d}"


def ids(corpus: Corpus) -> list[str]:
    """Return the ids of the corpus's rows."""
    return [row.row_id(row.object_id(uri(place), "3.0"), "text", 0) for place in range(len(corpus.texts))]


def write(corpus: Corpus, folder: Path) -> Lake:
    """Write the corpus as a run does: fragments, a commit, the indexes that a workload has by default, `live`."""
    lake = Lake(str(folder))
    table = lake.table(NAME)
    encoders = [{"use": "minilm", "family": "encode"}]
    sink = table.create_or_check(dataset_schema(Minilm().writes), encoders)
    batches = (_batch(corpus, start) for start in range(0, len(corpus.texts), _PART))
    commit(table, Change(run_id="benchmark", workload="benchmark", fragments=sink.write(batches)))
    table.set_live(max(one.version for one in build(table, Sink(dataset=NAME).index)))
    return lake


def _batch(corpus: Corpus, start: int) -> pa.RecordBatch:
    texts, vectors = corpus.texts[start : start + _PART], corpus.vectors[start : start + _PART]
    uris = [uri(place) for place in range(start, start + len(texts))]
    objects = [row.object_id(one, "3.0") for one in uris]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    made = {"run_id": "benchmark", "workload": "benchmark", "stages": [], "models": []}
    columns = {
        "id": [row.row_id(one, "text", 0) for one in objects],
        "object_id": objects,
        "uri": uris,
        "sha256": objects,
        "modality": ["text"] * len(texts),
        "media_type": ["text/plain"] * len(texts),
        "position": pa.array([0] * len(texts), pa.int32()),
        "text": texts,
        "vector": column,
        "minilm": column,
        "provenance": [made] * len(texts),
        "ingested_at": [datetime.now(UTC)] * len(texts),
    }
    return pa.record_batch(columns)


def raycluster(lake: Lake) -> tuple[Ask, Ask]:
    """Return how this process asks by vector and by text, over a dataset at hand: what a server's replica does."""
    table = held(lake)

    def by_vector(vector: Any) -> Sequence[Any]:
        hits: list[Any] = search.ask(table, search.Question(vector=vector, k=K))["hits"]
        return hits

    def by_text(text: str) -> Sequence[Any]:
        hits: list[Any] = search.ask(table, search.Question(text=text, k=K))["hits"]
        return hits

    return by_vector, by_text


def held(lake: Lake) -> Table:
    """Return the dataset, its vectors in memory: from the files that a server maps too."""
    follower = Follower(lake, heat=Heat(cache_folder() / "hot", 1 << 30))
    follower.start()
    until = time.monotonic() + _BUILD_SECONDS
    while not follower.table(NAME).hot("live"):
        if time.monotonic() > until:
            raise SystemExit(f"the index in memory is not ready: {follower.heat.told() if follower.heat else ''}")
        time.sleep(0.1)
    return follower.table(NAME)


def base_folder(lake: Lake) -> Path:
    """Return where the files of the index in memory lie, once it is held."""
    return max(place(cache_folder() / "hot", lake.table(NAME).uri).glob("v*"))


def rivals(corpus: Corpus, lake: Lake, folder: Path) -> dict[str, Ask]:
    """Return each rival that is installed, by name, its index built."""
    rows = [{"id": one, "uri": uri(at), "text": corpus.texts[at]} for at, one in enumerate(ids(corpus))]
    found = _faiss(corpus, rows, base_folder(lake))
    for module, make in (("lancedb", _lancedb), ("qdrant_client", _qdrant)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed and left out: uv pip install -e '.[bench]'", file=sys.stderr)
        else:
            found |= make(corpus, rows, folder)
    return found


def _lancedb(corpus: Corpus, rows: list[dict[str, Any]], folder: Path) -> dict[str, Ask]:
    """Return LanceDB with the probes and refinement of our fall-back: the same kind of index, partitioned its way."""
    import lancedb
    from lancedb.index import IvfRq

    column = pa.FixedSizeListArray.from_arrays(pa.array(corpus.vectors.ravel()), WIDTH)
    whole = pa.Table.from_pylist(rows).append_column("vector", column)
    table = lancedb.connect(folder / "lancedb").create_table(NAME, whole)
    table.create_index("vector", config=IvfRq(distance_type="cosine"))

    def search(vector: Any) -> Any:
        return table.search(np.asarray(vector, np.float32)).select(["id", "uri", "text", "_distance"]).limit(K)

    return {"lancedb": lambda vector: search(vector).nprobes(_PROBES).refine_factor(_REFINE).to_list()}


def _faiss(_: Corpus, rows: list[dict[str, Any]], folder: Path) -> dict[str, Ask]:
    """Return the graph that raycluster has built, asked with as many candidates."""
    import faiss

    index = faiss.read_index(str(folder / "index.faiss"))
    index.hnsw.efSearch = Base.open(folder).pile.breadth

    def search(vector: Any) -> Sequence[Any]:
        scores, places = index.search(np.asarray([vector], np.float32), K)
        return [rows[at] | {"score": float(score)} for score, at in zip(scores[0], places[0], strict=True)]

    return {"faiss HNSW": search}


def _qdrant(corpus: Corpus, rows: list[dict[str, Any]], _: Path) -> dict[str, Ask]:
    """Return Qdrant's local mode, which has no index: it compares with every vector, in numpy."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    shape = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection(NAME, vectors_config=shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is not meant for so many
        client.upload_collection(NAME, corpus.vectors, payload=rows, ids=range(len(rows)))

    def search(vector: Any) -> Sequence[Any]:
        found = client.query_points(NAME, query=list(vector), limit=K, with_payload=True)
        return [point.payload | {"score": point.score} for point in found.points]

    return {"qdrant local": search}
