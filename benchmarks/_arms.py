"""One pipeline becomes the arms of a benchmark: plain processes, a Ray Data script, Daft, and raycluster.

A workload's file says how files are taken apart, which models come after, and how a user declares the same; what that
makes of some files (`Work.pipeline`), how the arms share the work out, and how rows are stored, is here, once, so that
arms differ in the framework only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from _bench import CORES, Question
from _corpus import Corpus, files
from _decode import IDENTITY, Taken, encoded, identify, turns

from raycluster.encode import Encode

FORMAT = "2.2"  # of Lance's files, the same in all arms
_BLOCKS = 8  # blocks of paths a core: fewer, and one core waits for another at the end
# What says `take one core`: Ray sets the first for its actors, and so do the others.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}

_NATIVE = {"DAFT_RUNNER": "native"}  # else it would take a Ray that runs in this process

Take = Callable[[list[str]], Taken]
Pipeline = Callable[[list[str]], pa.RecordBatch]  # some files become a batch of rows


@dataclass(frozen=True, kw_only=True)
class Work:
    """One workload, as every arm does it."""

    file: Path
    corpus: Corpus
    take: Callable[[], Take]  # called once in a process: opens what takes files apart
    columns: tuple[tuple[str, pa.DataType], ...]  # of the rows that it takes, beside their identity
    models: tuple[Encode, ...]  # a later one may take what an earlier one wrote
    turn: int  # files a call
    declared: Mapping[str, Any]  # decode and encode of the workload's file
    sizes: tuple[int, int]  # files of the short and the long job
    idiom: Pictures | None = None  # the same in Daft's own expressions

    @property
    def name(self) -> str:
        """Return the workload's name."""
        return self.file.stem

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of the rows; all of them are compared."""
        return pa.schema([*IDENTITY, *self.columns, *(field for model in self.models for field in model.writes)])

    def pipeline(self) -> Pipeline:
        """Load the models and return the function from files to rows."""
        take, encoders, schema = self.take(), [model.encoder() for model in self.models], self.schema

        def rows(paths: list[str]) -> pa.RecordBatch:
            taken = take(paths)
            made: dict[str, list[Any]] = {}
            for model, encode in zip(self.models, encoders, strict=True):
                payloads = made.get(model.takes, taken.payloads)
                made |= encoded(encode, payloads, batch=model.batch)
            return taken.batch(schema, made)

        return rows

    @property
    def arms(self) -> dict[str, Callable[[Path, Path], str]]:
        """Return the arms, the limit first; without Daft where it is not installed."""
        found: dict[str, Any] = {"limit": Limit(self), "script": Script(self)}
        if find_spec("daft"):
            found["daft"] = Daft(self)
            if self.idiom:
                found["daft_idiom"] = self.idiom
        return found | {"raycluster": Raycluster(self)}

    def question(self) -> Question:
        """Return the benchmark."""
        if not find_spec("daft"):
            print('without Daft, a rival, which is not installed: pip install "raycluster[bench]"', file=sys.stderr)
        return Question(
            file=self.file,
            corpus=self.corpus,
            arms=self.arms,
            sizes=self.sizes,
            columns=tuple(self.schema.names),
            fewer={"daft_idiom": tuple(IDENTITY.names)},  # its pixels are others
        )

    def write(self, pipeline: Pipeline, parts: Iterable[list[str]], uri: str) -> list[str]:
        """Write uncommitted fragments where the rows are made."""
        return write(map(pipeline, parts), self.schema, uri)


def write(rows: Iterable[pa.RecordBatch], schema: pa.Schema, uri: str) -> list[str]:
    """Write uncommitted fragments."""
    from lance.fragment import write_fragments

    reader = pa.RecordBatchReader.from_batches(schema, rows)
    return [json.dumps(one.to_json()) for one in write_fragments(reader, uri, data_storage_version=FORMAT)]


def commit(uri: str, schema: pa.Schema, fragments: Iterable[str]) -> str:
    """Make fragments a dataset."""
    import lance

    found = [lance.FragmentMetadata.from_json(one) for one in fragments]
    lance.LanceDataset.commit(uri, lance.LanceOperation.Overwrite(schema, found))
    return uri


class Limit:
    """One plain process a core, which stay: each takes the next files when it is done with its last."""

    def __init__(self, work: Work) -> None:
        self.work, self.pool = work, None

    def __call__(self, folder: Path, out: Path) -> str:
        import multiprocessing

        if self.pool is None:
            os.environ |= _ONE_THREAD
            fork = multiprocessing.get_context("fork")  # nothing heavy is loaded yet: children load it side by side
            self.turn = fork.Value("q", 0)
            self.pool = fork.Pool(CORES, _be_ready, (self.work, self.turn))
        self.turn.value = 0
        uri, paths = str(out / "limit.lance"), files(folder)
        parts = self.pool.starmap(_take_turns, [(paths, uri)] * CORES, chunksize=1)
        return commit(uri, self.work.schema, [one for part in parts for one in part])


_here: list[Any] = []  # of a process of the limit: its work, the number of the next file, its pipeline


def _be_ready(work: Work, turn: Any) -> None:
    _here[:] = [work, turn, work.pipeline()]


def _take_turns(paths: list[str], uri: str) -> list[str]:
    work, turn, pipeline = _here

    def parts() -> Iterable[list[str]]:
        while True:
            with turn:
                start, turn.value = turn.value, turn.value + work.turn
            if start >= len(paths):
                return
            yield paths[start : start + work.turn]

    return work.write(pipeline, parts(), uri)


class Writing:
    """What an actor of the script or of Daft does: paths in, fragments out; payloads never leave it."""

    def __init__(self, work: Work, uri: str) -> None:
        self.work, self.uri = work, uri
        self.pipeline = work.pipeline()

    def fragments(self, paths: list[str]) -> list[str]:
        return self.work.write(self.pipeline, turns(paths, self.work.turn), self.uri)

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"fragment": self.fragments(block["path"].to_pylist())})


class Script:
    """The best Ray Data script: one fused actor a core, started at once, on blocks of paths."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, folder: Path, out: Path) -> str:
        uri = str(out / "script.lance")
        done = blocks_of(files(folder)).map_batches(
            Writing, fn_constructor_kwargs={"work": self.work, "uri": uri}, **one_actor_a_core()
        )
        return commit(uri, self.work.schema, [row["fragment"] for row in done.take_all()])


def blocks_of(paths: list[str]) -> Any:
    """Start Ray where it is not there, and return a dataset of blocks of paths."""
    import logging

    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    number = min(_BLOCKS * CORES, len(paths))
    return ray.data.from_arrow([pa.table({"path": paths[one::number]}) for one in range(number)])


def one_actor_a_core() -> dict[str, Any]:
    """Return how `map_batches` works on blocks."""
    from ray.data import ActorPoolStrategy

    pool = ActorPoolStrategy(size=CORES)
    return {"batch_size": None, "batch_format": "pyarrow", "compute": pool, "num_cpus": 1}


class Daft:
    """Daft with a class UDF in a process a core, which writes fragments where the rows are made."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, folder: Path, out: Path) -> str:
        import daft

        os.environ |= _ONE_THREAD | _NATIVE
        uri, paths = str(out / "daft.lance"), files(folder)
        size = -(-len(paths) // (_BLOCKS * CORES))

        @daft.cls(max_concurrency=CORES, use_process=True)
        class Udf:
            def __init__(self, work: Work, uri: str) -> None:
                self.writing = Writing(work, uri)

            @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.string()), batch_size=size)
            def __call__(self, paths: Any) -> Any:
                found = self.writing.fragments(paths.to_pylist())
                return [found, *([] for _ in range(len(paths) - 1))]

        done = daft.from_pydict({"path": paths}).select(Udf(self.work, uri)(daft.col("path")).alias("fragments"))
        return commit(uri, self.work.schema, [one for row in done.to_pylist() for one in row["fragments"]])


class Pictures:
    """What Daft's documentation does with pictures: its own expressions download, decode and resize, a UDF the rest.

    The whole picture is squeezed into the square (Daft's `resize` keeps no proportions), and nothing is measured of it:
    files and ids can be equal, pixels cannot.
    """

    def __init__(self, stage: Encode) -> None:
        self.stage = stage

    def __call__(self, folder: Path, out: Path) -> str:
        import daft
        from daft.functions import decode_image, download, resize

        os.environ |= _ONE_THREAD | _NATIVE
        uri, paths, turn = str(out / "daft_idiom.lance"), files(folder), 64
        schema = pa.schema([*IDENTITY, *self.stage.writes])

        @daft.cls(max_concurrency=CORES, use_process=True)
        class Udf:
            def __init__(self, stage: Encode) -> None:
                self.encode = stage.encoder()

            @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.string()), batch_size=turn)
            def __call__(self, paths: Any, contents: Any, images: Any) -> Any:
                found = Taken()
                for path, content, image in zip(
                    paths.to_pylist(), contents.to_pylist(), images.to_pylist(), strict=True
                ):
                    found.add(identify(path, os.stat(path), content), ("image", "image/jpeg"), image)
                rows = found.batch(schema, self.encode(found.payloads))
                return [write([rows], schema, uri), *([] for _ in range(len(paths) - 1))]

        content = daft.col("content")
        image = resize(decode_image(content, mode="RGB"), 224, 224)
        frame = daft.from_pydict({"path": paths}).with_column("content", download(daft.col("path")))
        done = frame.select(Udf(self.stage)(daft.col("path"), content, image).alias("fragments"))
        return commit(uri, schema, [one for row in done.to_pylist() for one in row["fragments"]])


class Raycluster:
    """The workload that a user would declare, by the command that a user would type."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, folder: Path, out: Path) -> str:
        import yaml

        from raycluster import cli
        from raycluster.lake.lake import Lake

        spec = {
            "source": {"files": {"paths": [str(folder)]}},
            **self.work.declared,
            "sink": {"dataset": self.work.name, "index": []},
        }
        metadata = {"name": self.work.name, "labels": {"team": "benchmarks"}}
        declared = {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec}
        file = out / "workload.yaml"
        file.write_text(yaml.safe_dump(declared))
        try:
            with redirect_stdout(sys.stderr):
                cli.main(["run", str(file), "--lake", str(out), "--json"])
        except SystemExit as ended:
            if ended.code:
                raise
        return str(Lake(str(out)).table(self.work.name).uri)
