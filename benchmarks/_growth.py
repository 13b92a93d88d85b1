"""A part of raycluster and a size become what that takes: CPU, memory, disk. One function a part, one process a size.

Each yields from `clocked` exactly what the driver does; what is made up around it (references, fragments that name one
and the same file, windows of nodes that are not there) is made outside of the clock.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import _nothing
import numpy as np
import pyarrow as pa

Figures = dict[str, Any]
A_SHARD = 2048  # objects, as `plan.shards` cuts them at most
_LANDINGS = 8  # of each driver
LINES = 12  # of a window: idle, system, driver, start-up, background, and seven of stages, modalities and outcomes
WINDOW = timedelta(seconds=10)
START = datetime(2026, 11, 1, tzinfo=UTC)


@contextmanager
def clocked() -> Iterator[Figures]:
    """Measure what this process takes in the block: seconds of all its threads, and how much its memory grows.

    Files that are mapped at the end are left out: the kernel takes their pages back when it needs them.
    """
    found: Figures = {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, cpu, started = status("VmRSS") - status("RssFile"), time.process_time(), time.perf_counter()
    yield found
    found["cpu_s"] = round(time.process_time() - cpu, 4)
    found["wall_s"] = round(time.perf_counter() - started, 3)
    found["growth_bytes"] = max(0, status("VmHWM") - status("RssFile") - before) << 10


def status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


@contextmanager
def disk(folder: str) -> Iterator[Callable[[], int]]:
    """Look again and again at how many bytes lie below a folder, also in files without a name; gives the most."""
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.05):
            total = 0
            for number in os.listdir("/proc/self/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{number}").startswith(folder):
                        total += os.stat(f"/proc/self/fd/{number}").st_blocks * 512
            most = max(most, total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        over.set()
        thread.join()


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
    _require(count, size)
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
    _require(plan.objects("done" if known else "new"), size)
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
    _require(tally.objects["ok"], size)
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
    _require(summary.rows, size)
    table = lake.table("scale")
    found |= {"versions": table.version(), "fragments": len(table.open().get_fragments())} | given
    return found | _servants()


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


def commits(size: int, folder: Path, _: str) -> Figures:
    """Commit one fragment more to a table that a run has made of so many: all name one file, by names of their own."""
    from raycluster.lake.write import files

    table, fragment = _table(folder)
    base, many = table.version(), [_renamed(fragment) for _ in range(size)]
    own = {name for one in many for name in files(one)}
    _land(table, many, base=base, own=own)
    times = 10 if size <= 10_000 else 2
    with clocked() as found:
        for one in (_renamed(fragment) for _ in range(times)):
            _land(table, [one], base=base, own=own)
            own.update(files(one))
    found["cpu_s"] = round(found["cpu_s"] / times, 5)
    latest = max(Path(table.uri, "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime_ns)
    found["manifest_bytes"] = latest.stat().st_size
    with clocked() as opened:
        held = [table.open() for _ in range(times)]
    _require(len(held), times)
    return found | {
        "open_cpu_s": round(opened["cpu_s"] / times, 5),
        "open_growth_bytes": opened["growth_bytes"] // times,
    }


def drivers(size: int, folder: Path, _: str) -> Figures:
    """Have so many drivers of disjoint places commit to one table of 1,000 fragments, each a twentieth of its time."""
    table, fragment = _table(folder)
    _land(table, [_renamed(fragment) for _ in range(1000)])
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(size)]
    started = [context.Process(target=_drive, args=(end, table, place)) for place, (_, end) in enumerate(ends)]
    for one in started:
        one.start()
    for mine, _ in ends:
        mine.recv()  # all are ready
    for mine, _ in ends:
        mine.send("go")
    found = [mine.recv() for mine, _ in ends]
    for one in started:
        one.join()
    landed = sum(one["landed"] for one in found)
    fragments = len(table.open().get_fragments())
    _require(fragments, 1000 + landed)
    return {name: sum(one[name] for one in found) / landed for name in ("cpu_s", "wall_s", "tries")}


def _drive(parent: Any, table: Any, place: int) -> None:
    import lance

    from raycluster.lake.write import files

    tries, commit = 0, lance.LanceDataset.commit

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal tries
        tries += 1
        return commit(*given, **more)

    sink, base, own, spans, run_id = table.create_or_check(table.schema()), table.version(), set(), {}, f"r{place}"
    _land(table, [], fence="take", run_id=run_id, workload=run_id)
    parts = [sink.write(iter([_rows([f"{place:02d}/{number:04d}"])])) for number in range(_LANDINGS)]
    parent.send("ready")
    parent.recv()
    cpu = wall = 0.0
    lance.LanceDataset.commit = counted
    for part in parts:
        with clocked() as found:
            _land(table, part, base=base, own=own, spans=spans, run_id=run_id, workload=run_id)
        own.update(name for one in part for name in files(one))
        cpu, wall = cpu + found["cpu_s"], wall + found["wall_s"]
        time.sleep(19 * found["wall_s"])
    parent.send({"cpu_s": cpu, "wall_s": wall, "tries": tries, "landed": len(parts)})


def versions(size: int, folder: Path, _: str) -> Figures:
    """Open a table of so many versions, and look at its history."""
    table, fragment = _table(folder)
    for _ in range(size):
        _land(table, [_renamed(fragment)] if size < 100 else [], fence="take")
    with clocked() as found:
        for _ in range(20):
            table.open()
    found["cpu_s"] = round(found["cpu_s"] / 20, 5)
    with clocked() as looked:
        table.history()
    found["history_cpu_s"] = looked["cpu_s"]
    found["disk_bytes"] = sum(path.stat().st_size for path in Path(table.uri, "_versions").iterdir())
    return found


def _table(folder: Path) -> tuple[Any, str]:
    """Return a table, and a fragment for it that holds one row."""
    from raycluster.lake.columns import dataset_schema
    from raycluster.lake.lake import Lake

    table = Lake(str(folder / "lake")).table("scale")
    sink = table.create_or_check(dataset_schema(pa.schema([])))
    (fragment,) = sink.write(iter([_rows(["x" * 64])]))
    _land(table, [], fence="take")
    return table, fragment


def _rows(ids: list[str]) -> pa.RecordBatch:
    """Return rows that say no more than they must."""
    same = {"modality": "text", "media_type": "text/plain", "provenance": {"run_id": "r", "workload": "w"}}
    columns: dict[str, Any] = dict.fromkeys(("id", "object_id", "uri", "sha256"), ids)
    columns |= {name: [value] * len(ids) for name, value in same.items()}
    columns["position"] = pa.array([0] * len(ids), pa.int32())
    columns["ingested_at"] = pa.array([0] * len(ids), pa.timestamp("us", "UTC"))
    return pa.record_batch(columns)


def _land(table: Any, fragments: list[str], fence: Any = "hold", **more: Any) -> None:
    from raycluster.lake.commit import Change, commit

    more = {"run_id": "r", "workload": "w", "base": table.version()} | more
    commit(table, Change(fragments=fragments, fence=fence, **more))


def _renamed(fragment: str) -> str:
    said = json.loads(fragment)
    for file in said["files"]:
        file["path"] = f"{os.urandom(20).hex()}.lance"
    return json.dumps(said)


def index(size: int, folder: Path, __: str) -> Figures:
    """Build the two indexes that every dataset has, over ids of 64 characters."""
    from raycluster.lake.index import build

    table, _ = _table(folder)
    sink = table.create_or_check(table.schema())
    parts = (np.random.default_rng(part).bytes(64 * 10_000).hex() for part in range(size // 10_000))

    def rows() -> Iterator[pa.RecordBatch]:
        for part in parts:
            ids = [part[at : at + 64] for at in range(0, len(part), 128)]
            yield _rows(ids)

    _land(table, sink.write(rows()))
    with clocked() as found:
        build(table, ())
    files = [path for path in Path(table.uri, "_indices").rglob("*") if path.is_file()]
    return found | {"disk_bytes": sum(path.stat().st_size for path in files)}


def settling(size: int, folder: Path, _: str) -> Figures:
    """Settle a minute of so many nodes, which are made up: six windows each, a file a window, as agents lay them."""
    from raycluster.account.settle import settle
    from raycluster.lake.lake import Lake

    lake = Lake(str(folder / "lake"))
    for window in range(6):
        for node in range(size):
            lake.ledger().drop(windows(range(node, node + 1), window), f"{window}-{node:016d}")
    inbox = Path(folder, "lake", "_inbox")
    held = sum(path.stat().st_size for path in inbox.iterdir())
    with clocked() as found:
        done = settle(lake, _prices())
    _require(done.files, 6 * size)
    return found | _ledger_bytes(folder) | {"inbox_bytes": held, "windows": 6 * size, "lines": done.lines}


def ledger(size: int, folder: Path, _: str) -> Figures:
    """Settle one minute more of 100 made-up nodes, in a ledger that has so many."""
    from raycluster.account.settle import settle
    from raycluster.lake.lake import Lake

    lake = Lake(str(folder / "lake"))
    for minute in range(size + 1):
        for window in range(6 * minute, 6 * minute + 6):
            lake.ledger().drop(windows(range(100), window), f"{window}-all")  # a file for all: the clock is not on it
        if minute < size:
            settle(lake, _prices())
    with clocked() as found:
        settle(lake, _prices())
    return found | _ledger_bytes(folder)


def _ledger_bytes(folder: Path) -> Figures:
    files = [path for name in ("_usage", "_costs") for path in Path(folder, "lake", f"{name}.lance").rglob("*")]
    return {"ledger_bytes": sum(path.stat().st_size for path in files if path.is_file())}


def windows(nodes: range, window: int) -> pa.Table:
    """Return the lines of one window of each of these nodes."""
    from raycluster.lake.ledger import USAGE, line_id

    started = START + window * WINDOW
    plain = {"cluster": "c", "node_type": "n", "market": "on_demand", "node_cpus": 16.0, "node_gpus": 0.0}
    plain |= {"node_memory": 64 << 30, "started_at": started, "ended_at": started + WINDOW, "cpu_seconds": 160 / LINES}
    kinds = ["idle", "system", "driver", "startup", "background", *["task"] * (LINES - 5)]
    rows = []
    for node in nodes:
        for place, kind in enumerate(kinds):
            mine = {} if kind in ("idle", "system") else {"team": f"team-{place % 3}", "run_id": f"r{place % 3}"}
            mine |= {
                "id": line_id(node, window, place),
                "node": f"{node:056x}",
                "kind": kind,
                "stage": f"stage-{place}",
            }
            rows.append(plain | mine)
    return pa.Table.from_pylist(rows, USAGE)


def _prices() -> Any:
    from raycluster.declare.prices import NodePrice, Prices

    nodes = {"n": NodePrice(on_demand=800_000_000)}
    return Prices(name="flat", version="1", nodes=nodes, cpu_hour=1, gib_hour=0, gpu_hour={"default": 0})


def _require(found: int, expected: int) -> None:
    if found != expected:
        raise SystemExit(f"{found}, expected {expected}")
