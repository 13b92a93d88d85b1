"""What does a table cost that was built by a thousand small commits, and what does each commit cost?

Three ways to the same rows: raycluster's protocol (fragments from `Sink.write`, then `commit`, as a run does every
few seconds), plain `lance.write_dataset(mode="append")` a batch, and one append at the end. Then the first table
is compacted by `maintain` and asked the same questions again. See README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from _bench import _where as where

from raycluster.declare.workload import Index
from raycluster.lake import store
from raycluster.lake.columns import conform, dataset_schema
from raycluster.lake.commit import Change, commit
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.maintain import maintain
from raycluster.lake.table import Table
from raycluster.lake.write import STORAGE_VERSION, Sink, files

WIDTH = 384
INDEXES = (Index(column="vector", kind="ivf_rq"),)
MODALITIES = ("image", "audio", "text")
LAST = 20  # commits around a mark, of which the median is told
QUESTIONS = 40
OPENINGS = 10


def rows(part: int, objects: int) -> pa.RecordBatch:
    """Return one commit's objects, one row each."""
    rng = np.random.default_rng(part)
    uris = [f"s3://bucket/folder/{part:06d}/{index:06d}.jpg" for index in range(objects)]
    ids = [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
    # vectors: (objects, WIDTH) float32, unit length
    vectors = rng.standard_normal((objects, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stages = pa.array([{"run_id": "r", "workload": "w", "stages": ["s"], "models": ["m"]}] * objects)
    columns = {
        "id": ids,
        "object_id": ids,
        "uri": uris,
        "sha256": ids,
        "modality": [MODALITIES[index % 3] for index in range(objects)],
        "media_type": ["image/jpeg"] * objects,
        "position": pa.array([0] * objects, pa.int32()),
        "text": [f"number {index} of {part}" for index in range(objects)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
        "provenance": stages,
        "ingested_at": pa.array([part] * objects, pa.timestamp("us", "UTC")),
    }
    return pa.record_batch(columns)


class Raycluster:
    """Fragments, then a fenced commit: what a run does."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(str(folder))
        self.table = self.lake.table("d")
        self.sink: Sink = self.table.create_or_check(dataset_schema(pa.schema([]), WIDTH))
        self.own: set[str] = set()
        self.base: int | None = None
        self._commit("take")
        self.base = self.table.version()

    def add(self, batch: pa.RecordBatch) -> float:
        """Write and commit a batch; return the seconds that the commit took."""
        written = self.sink.write(iter([batch]))
        began = time.perf_counter()
        self._commit("hold", written)
        took = time.perf_counter() - began
        self.own |= {name for one in written for name in files(one)}
        return took

    def add_proven(self, batch: pa.RecordBatch) -> float:
        """Do the same once the work is proven, as the next run would."""
        self._commit("take")
        self.base = self.table.version()
        took = self.add(batch)
        self.end()
        return took

    def end(self) -> None:
        """Give the fence back: the work is proven."""
        self._commit("release")

    def _commit(self, fence: Any, written: list[str] | None = None) -> None:
        change = Change(run_id="r", workload="w", fragments=written or (), fence=fence, base=self.base, own=self.own)
        commit(self.table, change)


class Append:
    """Lance by itself: no fence, nothing replaced, an unknown outcome stays unknown."""

    def __init__(self, folder: Path, like: Table) -> None:
        self.uri = str(folder / "append.lance")
        self.schema = like.open().schema.remove_metadata()
        store.create(self.uri, self.schema)

    def add(self, batches: Iterable[pa.RecordBatch]) -> float:
        """Write batches in one commit; return the seconds."""
        reader = pa.RecordBatchReader.from_batches(self.schema, (conform(one, self.schema) for one in batches))
        began = time.perf_counter()
        lance.write_dataset(reader, self.uri, mode="append", data_storage_version=STORAGE_VERSION)
        return time.perf_counter() - began


def measure(commits: int, objects: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line for each mark, each way, and each state of the table."""
    ours = Raycluster(folder / "lake")
    theirs = Append(folder, ours.table)
    took: dict[str, list[float]] = {"append": [], "raycluster": [], "of it commit": []}
    marks = [mark for mark in (10, 100, 1000, 10_000) if mark <= commits] or [commits]
    for part in range(commits):
        batch = rows(part, objects)
        took["append"].append(theirs.add([batch]))
        began = time.perf_counter()
        took["of it commit"].append(ours.add(batch))
        took["raycluster"].append(time.perf_counter() - began)
        if part + 1 in marks:
            for arm, seconds in took.items():
                uri = theirs.uri if arm == "append" else ours.table.uri
                milliseconds = 1000 * statistics.median(seconds[-LAST:])
                yield {"arm": arm, "commits": part + 1, "ms": round(milliseconds, 2), "manifest_bytes": manifest(uri)}
    ours.end()
    once = Append(folder / "once", ours.table)
    seconds = once.add(rows(part, objects) for part in range(commits))  # making the rows is in it, as in a stream
    making = timed(lambda: [rows(part, objects) for part in range(commits)], times=1)
    totals = {arm: sum(took[arm]) for arm in ("append", "raycluster")} | {"one commit": seconds - making}
    for arm, total in totals.items():
        yield {"arm": arm, "commits": commits, "rows": commits * objects, "seconds": round(total, 2)}
    yield from tended(ours, commits, objects)


def tended(ours: Raycluster, commits: int, objects: int) -> Iterator[dict[str, Any]]:
    """Ask the same of the table as it is and as `maintain` leaves it."""
    built = timed(lambda: ours.table.set_live(max(one.version for one in build(ours.table, INDEXES))), times=1)
    yield {"state": "as committed", "index_s": round(built, 2)} | asked(ours, commits, objects)
    began = time.perf_counter()
    done = maintain(ours.lake, "d", keep_age=timedelta(0), keep_versions=1)
    seconds = time.perf_counter() - began
    if done.fragments_after != 1:
        raise SystemExit(f"not compacted: {done}")
    said = {"maintain_s": round(seconds, 2), "bytes_freed": done.bytes_freed, "bytes_rewritten": done.bytes_rewritten}
    yield {"state": "compacted"} | said | asked(ours, commits + 1, objects)


def asked(ours: Raycluster, part: int, objects: int) -> dict[str, Any]:
    """Measure opening, searching, counting, and one commit more."""
    dataset = ours.table.open()
    questions = rows(10**6, QUESTIONS)["vector"].to_numpy(zero_copy_only=False)
    ask = [lambda vector=vector: search(dataset, vector) for vector in questions]
    for one in ask[:5]:
        one()
    found = {
        "fragments": len(dataset.get_fragments()),
        "open_ms": timed(lambda: lance.dataset(ours.table.uri, session=lance.Session()), times=OPENINGS),
        "search_ms": statistics.median(timed(one, times=1) for one in ask),
        "count_ms": timed(lambda: dataset.count_rows("modality = 'audio'"), times=OPENINGS),
    }
    found["commit_ms"] = ours.add_proven(rows(part, objects))
    rounded = {name: round(1000 * value, 2) if name.endswith("ms") else value for name, value in found.items()}
    return rounded | {
        "manifest_bytes": manifest(ours.table.uri)
    }  # of that commit: a compaction's lists what it replaced


def search(dataset: Any, vector: Any) -> pa.Table:
    nearest = {"column": "vector", "q": vector, "k": 10, "nprobes": 8, "refine_factor": 2}
    return dataset.to_table(columns=["id", "_distance"], nearest=nearest, filter="modality = 'audio'", prefilter=True)


def timed(work: Callable[[], Any], *, times: int) -> float:
    """Return the median of some tries, in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def manifest(uri: str) -> int:
    """Return the bytes of the latest version's manifest: all that a commit writes anew."""
    return max(Path(uri, "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime_ns).stat().st_size


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as tables in Markdown; ratios are to plain appends, and to the table as it was committed."""
    marks = [line for line in lines if "ms" in line]
    plain = {line["commits"]: line["ms"] for line in marks if line["arm"] == "append"}
    said = ["| arm | commits before | ms a commit | of append | manifest kB |", "|" + "---|" * 5]
    for line in marks:
        ratio = f"{line['ms'] / plain[line['commits']]:.2f}"
        cells = [line["arm"], line["commits"], line["ms"], ratio, f"{line['manifest_bytes'] / 1000:.0f}"]
        said.append(f"| {' | '.join(map(str, cells))} |")
    totals = [line for line in lines if "seconds" in line]
    said += ["", *(f"{line['arm']}: {line['rows']} rows in {line['seconds']} s" for line in totals), ""]
    before, after = (line for line in lines if "state" in line)
    said += ["| | as committed | compacted | ratio |", "|" + "---|" * 4]
    for name in ("fragments", "manifest_bytes", "open_ms", "search_ms", "count_ms", "commit_ms"):
        said.append(f"| {name} | {before[name]} | {after[name]} | {after[name] / before[name]:.2f} |")
    return "\n".join(said)


def main() -> None:
    """Print one JSON line a measurement, and a table on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--objects", type=int, default=100, help="in each commit")
    chosen = parser.parse_args()
    lines = []
    stamp = where(Path(__file__))
    with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
        for line in measure(chosen.commits, chosen.objects, Path(scratch)):
            print(json.dumps(stamp | line), flush=True)
            lines.append(line)
    print(f"{stamp['commit']}, {stamp['cores']} cores of {stamp['machine']}; {stamp['packages']}\n", file=sys.stderr)
    print(table(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
