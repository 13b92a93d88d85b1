"""How near is a real model's pipeline to its model: JPEGs become EfficientNet-Lite0 features, labels and vectors.

Three arms make the same columns with the same network: the limit (one plain process a core), the best Ray Data script
that we can write, and raycluster as its users run it. See README.md for what each does besides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _bench import CORES, Question
from _decode import COLUMNS, photos

from raycluster.encode.efficientnet import Efficientnet

MODEL = Efficientnet()
SCHEMA = pa.schema([*COLUMNS, *MODEL.writes])
BATCH = 64  # photos that a plain process or a script's actor decodes before the network sees them
FORMAT = "2.2"  # of Lance's files, the same in all arms


class Pipeline:
    """The loaded network and what it does to paths: what the limit and the script share."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.network = MODEL.encoder()

    def batches(self, paths: Iterator[list[str]]) -> Iterator[pa.RecordBatch]:
        """Decode, classify, and give rows their columns."""
        for some in paths:
            found = photos(some)
            made = self.network(found.pixels)
            yield found.batch(SCHEMA, {field.name: _column(made[field.name], field.type) for field in MODEL.writes})


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values)), kind.list_size)


def write(rows: Iterator[pa.RecordBatch], uri: str) -> list[str]:
    """Write uncommitted fragments where the rows were made."""
    from lance.fragment import write_fragments

    reader = pa.RecordBatchReader.from_batches(SCHEMA, rows)
    return [json.dumps(one.to_json()) for one in write_fragments(reader, uri, data_storage_version=FORMAT)]


def commit(uri: str, fragments: list[str]) -> str:
    """Make the fragments a dataset."""
    import lance

    found = [lance.FragmentMetadata.from_json(one) for one in fragments]
    lance.LanceDataset.commit(uri, lance.LanceOperation.Overwrite(SCHEMA, found))
    return uri


def files(folder: Path) -> list[str]:
    """List the photos."""
    return sorted(entry.path for entry in os.scandir(folder))


def limit(folder: Path, out: Path) -> str:
    """One plain process a core: each takes the next photos when it is done with its last."""
    import multiprocessing

    fork = multiprocessing.get_context("fork")  # nothing heavy is loaded yet: the children load it side by side
    turn, answers = fork.Value("q", 0), fork.SimpleQueue()

    def work() -> None:
        answers.put(write(Pipeline().batches(take()), str(out / "limit.lance")))

    def take() -> Iterator[list[str]]:
        while True:
            with turn:
                start, turn.value = turn.value, turn.value + BATCH
            if start >= len(paths):
                return
            yield paths[start : start + BATCH]

    paths = files(folder)
    children = [fork.Process(target=work) for _ in range(CORES)]
    for child in children:
        child.start()
    fragments = [one for _ in children for one in answers.get()]
    for child in children:
        child.join()
    return commit(str(out / "limit.lance"), fragments)


class Write:
    """The script's actor: paths in, fragments out; pixels never leave it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.pipeline = Pipeline()

    def __call__(self, block: pa.Table) -> pa.Table:
        paths = block["path"].to_pylist()
        parts = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
        return pa.table({"fragment": write(self.pipeline.batches(parts), self.uri)})


def script(folder: Path, out: Path) -> str:
    """The best Ray Data script: one fused actor a core, started at once, on blocks of paths."""
    import logging

    import ray
    import ray.data

    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    uri, paths = str(out / "script.lance"), files(folder)
    blocks = min(8 * CORES, len(paths))
    done = ray.data.from_arrow([pa.table({"path": paths[one::blocks]}) for one in range(blocks)]).map_batches(
        Write,
        fn_constructor_kwargs={"uri": uri},
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=1,
    )
    return commit(uri, [row["fragment"] for row in done.take_all()])


def raycluster(folder: Path, out: Path) -> str:
    """The workload that a user would declare."""
    import yaml

    from raycluster.declare.workload import parse_workload
    from raycluster.engine.prepare import prepare
    from raycluster.engine.run import execute
    from raycluster.lake.lake import Lake

    spec = {
        "source": {"files": {"paths": [str(folder)]}},
        "decode": {"image": {"size": 224, "thumbnail": False}},
        "encode": [{"use": "efficientnet"}],
        "sink": {"dataset": "photos", "index": []},
    }
    metadata = {"name": "image-classification", "labels": {"team": "benchmarks"}}
    text = yaml.safe_dump({"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec})
    lake = Lake(str(out))
    execute(prepare(parse_workload(text), lake), lake)
    return lake.table("photos").uri


if __name__ == "__main__":
    Question(
        file=Path(__file__),
        arms={"limit": limit, "script": script, "raycluster": raycluster},
        sizes=(200, 1600),
        columns=(*COLUMNS.names, *MODEL.writes.names),
        tolerance=1e-3,
    ).main()
