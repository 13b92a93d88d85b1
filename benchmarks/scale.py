"""What grows with the corpus, and what with the cluster? CPU, memory and bytes of the driver, part by part.

Nothing is decoded and nothing has bytes (`_nothing.py`), so that what is left is raycluster's own. Each part is
measured at several sizes, each in a process of its own (`_growth.py`, `_growth_lake.py`), its growth fitted, and drawn
out to each part's target: 10^9 objects, 1,000 nodes. Nodes that are not here are simulated: their windows are written
as their agents would.
What the figures mean stands in docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bench
import numpy as np

OBJECTS, NODES = 10**9, 1000
SHARDS = 1 << 16  # that a run of 10^9 objects has, and so fragments, before any are joined


@dataclass(frozen=True)
class Part:
    """One question: a function of `_growth`, at which sizes it is asked, and what it is drawn out to."""

    unit: str
    sizes: tuple[int, ...]
    target: int
    figures: tuple[str, ...] = ("cpu_s", "growth_bytes")
    arms: tuple[str, ...] = ("raycluster",)


_MILLION = (10_000, 100_000, 1_000_000)
PARTS = {
    "listing_local": Part("an object", _MILLION, OBJECTS, arms=("raycluster", "arrow")),
    "listing_s3": Part("an object", _MILLION, OBJECTS, ("cpu_s", "growth_bytes", "requests"), ("raycluster", "arrow")),
    "listing_flat": Part("an object", _MILLION, OBJECTS),
    "plan_first": Part("an object", _MILLION, OBJECTS, ("cpu_s", "growth_bytes", "disk_bytes")),
    "plan_again": Part("an object", _MILLION, OBJECTS, ("cpu_s", "growth_bytes", "disk_bytes")),
    "books": Part("an object", _MILLION, OBJECTS, ("cpu_s", "growth_bytes", "tally_bytes")),
    "run": Part("an object", (10_000, 100_000), OBJECTS, ("cpu_s", "growth_bytes", "reference_bytes")),
    "blocks": Part("a shard", (100, 1000), SHARDS, ("cpu_s", "growth_bytes")),
    "commits": Part(
        "a fragment",
        (100, 1000, 10_000, 100_000),
        SHARDS,
        ("cpu_s", "growth_bytes", "manifest_bytes", "open_cpu_s", "open_growth_bytes"),
    ),
    "drivers": Part("a driver", (1, 2, 4, 8), 16, ("cpu_s", "wall_s", "tries")),
    "versions": Part("a version", (100, 1000), 10_000, ("cpu_s", "history_cpu_s", "disk_bytes")),
    "index": Part("a row", _MILLION, OBJECTS, ("cpu_s", "growth_bytes", "disk_bytes")),
    "settling": Part("a node", (10, 100, 1000), NODES, ("cpu_s", "growth_bytes", "inbox_bytes", "ledger_bytes")),
    # minutes of 100 nodes: a day of 1,000 has 14,400 of them
    "ledger": Part("a minute", (3, 10, 30, 100), 14_400, ("cpu_s", "growth_bytes", "ledger_bytes")),
}


@dataclass(frozen=True)
class Fit:
    """How a figure grows: as a line, `fixed` + `each` x size, and as a power, `height` x size ** `slope`."""

    slope: float
    fixed: float
    each: float
    line: float  # the worst relative residual of the line
    height: float  # at size 1, of the power
    power: float  # the worst relative residual of the power

    def at(self, size: int) -> float:
        """Return the figure at another size, by whichever of line and power is nearer to what was measured."""
        drawn = self.fixed + self.each * size if self.line <= self.power else self.height * size**self.slope
        return max(0.0, float(drawn))


def fit(sizes: Sequence[int], values: Sequence[float]) -> Fit | None:
    """Fit a figure's growth by least squares of relative errors; None where it is not there at every size."""
    x, y = np.array(sizes, float), np.array(values, float)
    if len(x) < 2 or not (y > 0).all():
        return None
    slope, height = np.polyfit(np.log(x), np.log(y), 1)
    each, fixed = np.polyfit(x, y, 1, w=1 / y)
    line, power = (float(np.abs(drawn / y - 1).max()) for drawn in (fixed + each * x, np.exp(height) * x**slope))
    return Fit(float(slope), float(fixed), float(each), line, float(np.exp(height)), power)


def be(part: str, size: int, arm: str, folder: Path) -> None:
    """Measure one part, as the process that is measured: imports first, which every driver has anyway."""
    import _growth
    import _growth_lake
    import duckdb  # noqa: F401

    import raycluster.account.settle
    import raycluster.engine.run
    import raycluster.read.files  # noqa: F401

    print(json.dumps(getattr(_growth if hasattr(_growth, part) else _growth_lake, part)(size, folder, arm)))


def measure(part: str, size: int, arm: str) -> dict[str, Any]:
    """Return what one part took in a fresh process."""
    load = os.getloadavg()[0]
    path = os.pathsep.join([str(_bench.HERE), str(_bench.HERE.parent), os.environ.get("PYTHONPATH", "")])
    left_out = ("RAY_ADDRESS", "RAYCLUSTER_LAKE")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as folder:
        command = [sys.executable, __file__, "--be", part, "--sizes", str(size), "--arm", arm, "--folder", folder]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{part} of {size} failed: {ended.stderr}")
    said = json.loads(ended.stdout.splitlines()[-1])
    return {"part": part, "arm": arm, "size": size, "load_before": round(load, 2)} | said


def lines(names: Sequence[str], sizes: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """Yield one line a run."""
    where = _bench._where(Path(__file__))
    for name in names:
        part = PARTS[name]
        for size in sizes or part.sizes:
            for arm in part.arms:
                yield where | measure(name, size, arm)


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown: what was measured at each size, how it grows, and what that says for the target."""
    said = f"{runs[0]['cores']} cores of {runs[0]['machine']}; commit {runs[0]['commit']}; {runs[0]['packages']}"
    rows = [said, "", "| part | figure | measured | slope | each | off: line, power | drawn out |", "|" + "---|" * 7]
    for name, arm in dict.fromkeys((run["part"], run["arm"]) for run in runs):
        of = [run for run in runs if (run["part"], run["arm"]) == (name, arm)]
        rows += [_row(name, arm, figure, of) for figure in PARTS[name].figures if figure in of[0]]
    return "\n".join(rows)


def _row(name: str, arm: str, figure: str, of: list[dict[str, Any]]) -> str:
    part, found = PARTS[name], fit([run["size"] for run in of], [run[figure] for run in of])
    measured = ", ".join(f"{run['size']:,}: {_shown(run[figure], figure)}" for run in of)
    cells = [name if arm == "raycluster" else f"{name}, {arm}", figure.removesuffix("_s").removesuffix("_bytes")]
    if found is None:
        return f"| {' | '.join([*cells, measured, '-', '-', '-', '-'])} |"
    grown = f"{_shown(found.at(part.target), figure)} at {part.target:,}"
    each = f"{_shown(found.each, figure)} {part.unit}"
    cells += [measured, f"{found.slope:.2f}", each, f"{found.line:.0%}, {found.power:.0%}", grown]
    return f"| {' | '.join(cells)} |"


def _shown(value: float, figure: str) -> str:
    if figure.endswith("_bytes"):
        return _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))
    if figure.endswith("_s"):
        return f"{value / 3600:.1f} h" if value > 7200 else _scaled(1e6 * value, 1000, ("us", "ms", "s", "ks"))
    return f"{value:,.3g}"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(value) >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    return f"{value:.3g} {units[place]}"


def main() -> None:
    """Print one JSON line a run, and a table on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--sizes", help="instead of each part's own; with commas between")
    parser.add_argument("--table", type=Path, help="make a table of a file of JSON lines, run nothing")
    parser.add_argument("--be", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sizes = None if chosen.sizes is None else [int(size) for size in chosen.sizes.split(",")]
    if chosen.be:
        be(chosen.be, (sizes or [0])[0], chosen.arm, chosen.folder)
        return
    if chosen.table:
        print(table([json.loads(line) for line in chosen.table.read_text().splitlines()]))
        return
    runs = []
    for line in lines(chosen.parts.split(","), sizes):
        print(json.dumps(line), flush=True)
        runs.append(line)
    print(table(runs), file=sys.stderr)


if __name__ == "__main__":
    main()
