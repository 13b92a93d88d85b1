"""A part of raycluster and a size become what that takes: CPU, memory, disk. One function a part, one process a size.

Each yields from `clocked` exactly what the driver does; what is made up around it (references, fragments that name one
and the same file, windows of nodes that are not there) is made outside of the clock.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _nothing
import pyarrow as pa
from _clock import Figures, clocked, disk, require


def listing_local(size: int, folder: Path, arm: str) -> Figures:
    """List empty files, a thousand to a folder."""
    for number in range(size):
        path = folder / _nothing.key(number)
        if number % _nothing.A_FOLDER == 0:
            path.parent.mkdir()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    return _listing(str(folder), size, arm)


def listing_s3(size: int, _: Path, arm: str) -> Figures:
    """List a made-up bucket, a thousand objects to a prefix."""
    return _bucket(size, _nothing.A_FOLDER, arm)


def listing_flat(size: int, _: Path, arm: str) -> Figures:
    """List a made-up bucket of one prefix."""
    return _bucket(size, size, arm)


def _bucket(size: int, a_folder: int, arm: str) -> Figures:
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    server = context.Process(target=_serve, args=(other, size, a_folder), daemon=True)
    server.start()
    os.environ.update(
        AWS_ENDPOINT_URL=mine.recv(),
        AWS_ACCESS_KEY_ID="none",
        AWS_SECRET_ACCESS_KEY="none",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    found = _listing("s3://b/corpus", size, arm)
    mine.send("over")
    found["requests"] = mine.recv()
    server.join()
    return found


def _serve(parent: Any, size: int, a_folder: int) -> None:
    with _nothing.bucket(size, a_folder) as (address, asked):
        parent.send(address)
        parent.recv()
        parent.send(len(asked))


def _listing(place: str, size: int, arm: str) -> Figures:
    import pyarrow.fs as pafs

    from raycluster.read.files import Files

    if arm == "arrow":  # what pyarrow.dataset and Ray Data call: all of it at once, in no order
        files, path = pafs.LocalFileSystem(), place
        if place.startswith("s3://"):
            endpoint = os.environ["AWS_ENDPOINT_URL"]
            files, path = pafs.S3FileSystem(endpoint_override=endpoint, region="us-east-1"), place[5:]
        with clocked() as found:
            listed = files.get_file_info(pafs.FileSelector(path, recursive=True))
            count = sum(one.type == pafs.FileType.File for one in listed)
    else:
        with clocked() as found:
            count = sum(batch.num_rows for batch in Files(paths=(place,)).objects())
    require(count, size)
    return found


def plan_first(size: int, _: Path, __: str) -> Figures:
    """Compare a listing with an empty dataset."""
    return _plan(size, known=False)


def plan_again(size: int, _: Path, __: str) -> Figures:
    """Compare a listing with a dataset that has all of it."""
    return _plan(size, known=True)


def _plan(size: int, *, known: bool) -> Figures:
    with tempfile.TemporaryDirectory(prefix="plan-") as folder, disk(folder) as most:
        tempfile.tempdir = folder
        with clocked() as found:
            plan = planned(size, known=_known(size) if known else iter(()))
        found["disk_bytes"] = most()
        tempfile.tempdir = None
    require(plan.objects("done" if known else "new"), size)
    return found


def planned(size: int, *, known: Iterator[pa.RecordBatch], cores: int = 4) -> Any:
    """Return the plan of so many objects."""
    from raycluster.place import Cluster
    from raycluster.plan import make_plan
    from raycluster.units import Resources

    cluster = Cluster(nodes=(Resources(cpu=cores, memory=8 << 30),))
    return make_plan(workload(size), cluster, listed=_nothing.references(size), known=known)


def workload(size: int) -> Any:
    """Return a workload that makes a row of each of so many objects."""
    from raycluster.declare import workload as declared

    return declared.Workload(
        name="scale",
        labels={"team": "benchmarks"},
        source=_nothing.Nothing(count=size),
        decode=(_nothing.Letter(),),
        sink=declared.Sink(dataset="scale", index=()),
    )


def _known(size: int) -> Iterator[pa.RecordBatch]:
    from raycluster.compare import KNOWN
    from raycluster.row import object_id

    facts = {"modality": "text", "workload": "scale", "settled": True, "bad": False, "again": False, "outdated": False}
    for batch in _nothing.references(size):
        uris, versions = batch["uri"].to_pylist(), batch["version"].to_pylist()
        columns = {"uri": uris, "object_id": [object_id(*pair) for pair in zip(uris, versions, strict=True)]}
        columns |= {name: [fact] * len(uris) for name, fact in facts.items()}
        yield pa.record_batch([pa.array(columns[name], KNOWN.field(name).type) for name in KNOWN.names], schema=KNOWN)


def books(size: int, _: Path, __: str) -> Figures:
    """Keep a run's books without Ray and without a lake: shards are cut, and messages about them entered."""
    from raycluster.engine.tally import Tally
    from raycluster.plan import shards

    plan = planned(size, known=iter(()))
    line = "x" * 700  # a fragment's metadata
    with clocked() as found:
        tally = Tally(plan.todo)
        found["tally_bytes"] = tally.expected.keys.nbytes + tally.is_due.nbytes
        count = 0
        for shard in shards(plan, sequential=False):
            count += 1
            objects = [{"object_id": one, "pieces": 1, "ok": 1, "bad": 0} for one in shard["object_id"].to_pylist()]
            tally.add({"fragments": [line], "objects": objects, "bad": []})
            if count % 10 == 0:  # of some seconds
                tally.take()
        tally.take()
    require(tally.objects["ok"], size)
    return found | {"shards": count}


def run(size: int, folder: Path, _: str) -> Figures:
    """Run it on Ray, all of it; the figures are the driver's own process, and Ray's store of objects."""
    from raycluster.engine import pipeline
    from raycluster.engine.cluster import connect
    from raycluster.engine.prepare import prepare
    from raycluster.engine.run import execute
    from raycluster.lake.lake import Lake

    lake = Lake(str(folder / "lake"))
    given: Figures = {"shards": 0, "reference_bytes": 0}
    from_units = pipeline.from_units

    def counted(units: list[pa.Table]) -> Any:
        given["shards"] += len(units)
        given["reference_bytes"] += sum(unit.nbytes for unit in units)
        return from_units(units)

    pipeline.from_units = counted
    connect()
    with clocked() as found:
        summary = execute(prepare(workload(size), lake), lake)
    require(summary.rows, size)
    table = lake.table("scale")
    found |= {"versions": table.version(), "fragments": len(table.open().get_fragments())} | given
    return found | _servants()


def blocks(size: int, folder: Path, arm: str) -> Figures:
    """Run so many shards of ten objects each on Ray: what a shard costs the driver, whatever is in it."""
    from raycluster import plan

    plan._SHARD_OBJECTS = 10
    found = run(10 * size, folder, arm)
    require(found["shards"], size)
    return found


def _servants() -> Figures:
    """Say what one question costs Ray's head: to its key-value store, and to the actor that gathers progress."""
    import ray

    from raycluster.account import owners, proc

    session = ray.get_runtime_context().get_session_name()
    commands = {pid: proc.command(pid) for pid in proc.processes()}
    (head,) = [pid for pid, said in commands.items() if "/gcs_server " in said and session in said]
    asked, jobs = 2000, owners.Jobs()
    before = _used(head)
    for _ in range(asked):
        jobs.look()
    found: Figures = {"look_us": round(1e6 * (_used(head) - before) / asked, 1)}
    actor: Any = ray.remote(num_cpus=0)(_Weighed).remote()
    before = ray.get(actor.used.remote())
    ray.get([actor.report.remote({"text": (100, 0.5), "minilm": (100, 0.5)}, 1) for _ in range(asked)])
    found["report_us"] = round(1e6 * (ray.get(actor.used.remote()) - before) / asked, 1)
    return found


class _Weighed:
    """The actor that gathers progress, which also says what it has used."""

    def __init__(self) -> None:
        from raycluster.engine.progress import Progress

        self.progress = Progress()

    def report(self, stages: Any, read_bytes: int) -> None:
        """Hand on."""
        self.progress.report(stages, read_bytes)

    def used(self) -> float:
        """Return this process's CPU seconds."""
        return time.process_time()


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
