"""Row batches become Lance fragments that no reader sees until the driver commits them. Runs on workers.

A fragment is a file with a random name: writing the same rows twice makes two, and only what is committed exists.
What nobody commits, because its worker or its run died, is an orphan until `gc`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from lance import FragmentMetadata
from lance.fragment import write_fragments

from raycluster.errors import LakeError
from raycluster.lake import store
from raycluster.lake.columns import conform, outside

# The file format that has blobs with sidecar files; fixed, so that every writer of a dataset uses the same.
STORAGE_VERSION: Literal["2.2"] = "2.2"

# A row with a 384-d and a 1280-d vector and a thumbnail takes about 20 kB: a full file is some 50,000 rows. Larger
# files make a changed object costlier to compact away, smaller ones make every commit's manifest longer.
MAX_FILE_BYTES = 1 << 30

# No bound: Lance's own, 1,048,576, cuts the batch in which it lies, and fails where that has nulls ("null_bit_buffer
# size too small", pylance 14.0.2). By bytes it goes on to a new file between two batches.
_MAX_FILE_ROWS = (1 << 31) - 1


@dataclass(frozen=True)
class Sink:
    """Where workers write: small and picklable. `schema` is what batches should look like; absent columns are null."""

    uri: str
    schema: pa.Schema

    def write(self, batches: Iterator[pa.RecordBatch]) -> list[str]:
        """Stream batches into fragments, uncommitted; return each as JSON. Memory holds one batch and a page a column.

        Raises:
            LakeError: the store refused; whatever the iterator itself raises comes out as it was.
        """
        first = next(batches, None)
        if first is None:
            return []
        dataset = store.open_dataset(self.uri)
        feed = _Feed(dataset.schema.remove_metadata(), batches)
        reader = pa.RecordBatchReader.from_batches(feed.schema, feed.run(first))
        try:
            written = write_fragments(
                reader,
                dataset,
                mode="append",
                data_storage_version=STORAGE_VERSION,
                max_rows_per_file=_MAX_FILE_ROWS,
                max_bytes_per_file=MAX_FILE_BYTES,
            )
        except (OSError, ValueError, RuntimeError) as error:
            if feed.error is not None:
                raise feed.error from None
            fix = store.fix_for(self.uri, error)
            raise LakeError(f"cannot write to {self.uri}: {store.plain(error)}", fix=fix) from error
        return [json.dumps(fragment.to_json()) for fragment in written]


class _Feed:
    """Shapes batches while Lance pulls them, and keeps the exception that Lance would turn into text."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self.batches = batches
        self.error: BaseException | None = None

    def run(self, first: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        try:
            yield conform(first, self.schema)
            for batch in self.batches:
                yield conform(batch, self.schema)
        except BaseException as error:
            self.error = error
            raise


def sink(uri: str, dataset: Any) -> Sink:
    """Return the sink of an open dataset."""
    return Sink(uri, outside(dataset.schema))


def files(fragment: str) -> list[str]:
    """Return the names of a fragment's files: random, so they say which fragment it is, for ever."""
    return [str(one.path) for one in FragmentMetadata.from_json(fragment).files]


def size_bytes(fragments: list[str]) -> int:
    """Return the bytes of uncommitted fragments' files, blobs of their own not counted."""
    return sum(int(one.file_size_bytes or 0) for text in fragments for one in FragmentMetadata.from_json(text).files)


def count_rows(fragments: list[str]) -> int:
    """Return how many rows uncommitted fragments hold."""
    return sum(int(json.loads(text)["physical_rows"]) for text in fragments)
