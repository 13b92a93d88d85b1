"""What does it cost to resume at a million known objects? Seconds and memory of finding the few that are to be done.

The dataset is a real one on disk, with one small row an object. The listing has as many objects, of which `_FEW` are
new, `_FEW` changed, and `_FEW` of the dataset's are missing. It is made before the clock starts, and its memory is not
counted: how fast a source lists is not the question. What is measured, each time in a process of its own: reading what
the dataset knows, and comparing.

raycluster: `Table.known` and `make_plan`. It also says what changed, what vanished, and what replaces what.
naive: the way of a script. All object ids go into a Python set; a loop asks it for each listed object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _bench
import pyarrow as pa

_FEW = 100
_BATCH_ROWS = 65_536
_WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {name: resume, labels: {team: benchmarks}}
spec:
  source: {files: {paths: ["."]}}
  decode: {text: {}}
  sink: {dataset: resume, index: []}
"""


def listing(first: int, stop: int, changed: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield references by number; those below `changed` have another version."""
    from raycluster.row import OBJECT

    for start in range(first, stop, _BATCH_ROWS):
        numbers = range(start, min(stop, start + _BATCH_ROWS))
        columns = [
            [f"s3://bucket/a/folder/of/objects/{one // 1000:06d}/photo-{one:09d}.jpg" for one in numbers],
            [f"etag-{one * 2654435761:032x}{'-2' * (one < changed)}" for one in numbers],
            [50_000] * len(numbers),
            [None] * len(numbers),
        ]
        yield pa.record_batch([pa.array(*pair) for pair in zip(columns, OBJECT.types, strict=True)], schema=OBJECT)


def build(lake: Path, objects: int) -> None:
    """Make the dataset: one row an object, without what is large."""
    from raycluster.declare.workload import parse_workload
    from raycluster.engine.prepare import schema_of
    from raycluster.lake.commit import Change, commit
    from raycluster.lake.lake import Lake
    from raycluster.row import object_id, row_id

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in listing(0, objects):
            uris, versions = batch.column("uri").to_pylist(), batch.column("version").to_pylist()
            ids = [object_id(uri, version) for uri, version in zip(uris, versions, strict=True)]
            provenance = [{"run_id": "r", "workload": "resume", "stages": [], "models": []}] * len(ids)
            yield pa.record_batch(
                {
                    "id": [row_id(identity, "image", 0) for identity in ids],
                    "object_id": ids,
                    "uri": uris,
                    "sha256": ids,
                    "modality": ["image"] * len(ids),
                    "media_type": ["image/jpeg"] * len(ids),
                    "position": pa.array([0] * len(ids), pa.int32()),
                    "provenance": provenance,
                    "ingested_at": pa.array([0] * len(ids), pa.timestamp("us", "UTC")),
                }
            )

    table = Lake(str(lake)).table("resume")
    sink = table.create_or_check(schema_of(parse_workload(_WORKLOAD)))
    commit(table, Change(run_id="r", workload="resume", fragments=sink.write(rows())))


def raycluster(lake: Path, listed: list[pa.RecordBatch]) -> list[str]:
    """Return the ids of what is to be done, as `prepare` finds them."""
    from raycluster.declare.workload import parse_workload
    from raycluster.engine.prepare import _settled
    from raycluster.lake.lake import Lake
    from raycluster.place import Cluster
    from raycluster.plan import make_plan
    from raycluster.units import Resources

    table = Lake(str(lake)).table("resume")
    cluster = Cluster(nodes=(Resources(cpu=4, memory=8 << 30),))
    known = map(_settled, table.known())
    plan = make_plan(parse_workload(_WORKLOAD), cluster, listed=listed, known=known)
    found = {state: plan.objects(state) for state in plan.counts}
    if found["changed"] != _FEW or found["new"] != _FEW or found["vanished"] != _FEW or len(plan.vanished) != _FEW:
        raise SystemExit(f"expected {_FEW} each of new, changed and vanished, found {found}")
    ids: list[str] = plan.todo["object_id"].to_pylist()
    return ids


def naive(lake: Path, listed: list[pa.RecordBatch]) -> list[str]:
    """Return the ids of what is to be done, as a script finds them."""
    import lance

    from raycluster.row import object_id

    done = set(lance.dataset(f"{lake}/resume.lance").to_table(columns=["object_id"])["object_id"].to_pylist())
    missing = []
    for batch in listed:
        for uri, version in zip(batch["uri"].to_pylist(), batch["version"].to_pylist(), strict=True):
            identity = object_id(uri, version)
            if identity not in done:
                missing.append(identity)
    return missing


ARMS = {"raycluster": raycluster, "naive": naive}


def be(arm: str, lake: Path, objects: int) -> None:
    """Run one arm, as the process that is measured, and print what it took."""
    import duckdb  # noqa: F401 - imports are start-up, which every run has anyway
    import lance  # noqa: F401

    import raycluster.engine.prepare  # noqa: F401

    listed = list(listing(_FEW, objects + _FEW, changed=2 * _FEW))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, cpu, started = _status("VmRSS"), time.process_time(), time.perf_counter()
    ids = ARMS[arm](lake, listed)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    found = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "growth_mib": (_status("VmHWM") - before) >> 10}
    print(json.dumps(found | {"before_mib": before >> 10, "ids": ids}))


def _status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def measure(arm: str, lake: Path, objects: int) -> dict[str, Any]:
    """Return what one arm took in a fresh process."""
    load = os.getloadavg()[0]
    path = os.pathsep.join([str(_bench.HERE), str(_bench.HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--arm", arm, "--lake", str(lake), "--objects", str(objects)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{arm} failed: {ended.stderr}")
    return {"arm": arm, "objects": objects, "load_before": round(load, 2)} | json.loads(ended.stdout)


def lines(sizes: list[int], repetitions: int) -> Iterator[dict[str, Any]]:
    """Yield one line a run; the arms take turns, and must find the same."""
    where = _bench._where(Path(__file__))
    for objects in sizes:
        with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
            build(Path(scratch), objects)
            for repetition in range(repetitions):
                runs = [measure(arm, Path(scratch), objects) for arm in ARMS]
                if runs[0]["ids"] != runs[1]["ids"]:
                    raise SystemExit("the arms do not find the same objects")
                for run in runs:
                    yield where | run | {"ids": len(run["ids"]), "repetition": repetition}


def table(runs: list[dict[str, Any]]) -> str:
    """Return a table in Markdown: medians; ratios are raycluster to naive."""
    said = f"{runs[0]['cores']} cores of {runs[0]['machine']}; commit {runs[0]['commit']}"
    rows = [said, "", "| objects | arm | wall s | CPU s | growth MiB |", "|" + "---|" * 5]
    for objects in dict.fromkeys(run["objects"] for run in runs):
        middle = {}
        for arm in ARMS:
            of = [run for run in runs if run["arm"] == arm and run["objects"] == objects]
            middle[arm] = [statistics.median(run[name] for run in of) for name in ("wall_s", "cpu_s", "growth_mib")]
            rows.append(f"| {objects:,} | {arm} | {middle[arm][0]:.1f} | {middle[arm][1]:.1f} | {middle[arm][2]:.0f} |")
        ratios = [ours / other for ours, other in zip(middle["raycluster"], middle["naive"], strict=True)]
        rows.append(f"| | ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", default="1000000", help="known objects; several sizes with commas")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.arm:
        be(chosen.arm, chosen.lake, int(chosen.objects))
        return
    runs = []
    for line in lines([int(size) for size in chosen.objects.split(",")], chosen.repetitions):
        print(json.dumps(line), flush=True)
        runs.append(line)
    print(table(runs), file=sys.stderr)


if __name__ == "__main__":
    main()
