"""A part of the lake and a size become what that takes, as `_growth.py` does for the way of objects.

Fragments name one and the same file, windows are those of nodes that are not there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _clock import Figures, clocked, require

_LANDINGS = 8  # of each driver
LINES = 12  # of a window: idle, system, driver, start-up, background, and seven of stages, modalities and outcomes
WINDOW = timedelta(seconds=10)
START = datetime(2026, 11, 1, tzinfo=UTC)


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
    require(len(held), times)
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
    require(fragments, 1000 + landed)
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
    require(done.files, 6 * size)
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
