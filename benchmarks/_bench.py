"""Arms become JSON lines and a table: each run in a process of its own, taking turns, equal outputs checked first.

An arm is a function `(folder of photos, folder to write to) -> uri of a Lance dataset`. Its clock starts before its
process does and stops when the dataset can be read, so Python's, torch's and Ray's start are in it. Two sizes tell
start-up and speed apart: a row's cost is the slope between them, start-up is what the line has at no rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _corpus
import _tree

Arm = Callable[[Path, Path], str]
HERE = Path(__file__).parent
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Question:
    """One benchmark: rival ways to the same dataset, the first of them the limit."""

    file: Path
    arms: Mapping[str, Arm]
    sizes: tuple[int, int]  # photos of the short and the long run
    columns: tuple[str, ...]  # that must be equal in all arms
    tolerance: float  # of float columns

    def main(self) -> None:
        """Run the whole benchmark, or, as the process that it starts, one arm."""
        chosen = self._arguments()
        if chosen.table:
            print(table([json.loads(line) for line in chosen.table.read_text().splitlines()]))
        elif chosen.arm:
            self._be(chosen.arm, *chosen.paths)
        else:
            _tree.adopt_orphans()
            lines = []
            with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
                for line in self._lines(chosen, Path(scratch)):
                    print(json.dumps(line), flush=True)
                    lines.append(line)
            print(table(lines), file=sys.stderr)

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
        parser.add_argument("--sizes", type=_sizes, default=self.sizes, help="photos of the short and the long run")
        parser.add_argument("--repetitions", type=int, default=3)
        parser.add_argument("--arms", type=lambda text: text.split(","), default=list(self.arms))
        parser.add_argument("--checked", type=int, default=64, help="photos whose outputs are compared before all else")
        parser.add_argument("--table", type=Path, help="make a table of a file of JSON lines, run nothing")
        parser.add_argument("--arm", help=argparse.SUPPRESS)
        parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
        return parser.parse_args()

    def _be(self, arm: str, folder: Path, out: Path) -> None:
        """Run one arm, tell the waiting parent, and stay until it has counted the living."""
        uri = self.arms[arm](folder, out)
        print(f"done {uri}", flush=True)
        sys.stdin.readline()
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()

    def _lines(self, chosen: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
        folders = {size: _corpus.folder_of(size) for size in (*chosen.sizes, chosen.checked)}
        self._require_equal(chosen.arms, folders[chosen.checked], scratch)
        where = _where(self.file)
        for repetition in range(chosen.repetitions):
            runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen.arms}
            for size in chosen.sizes:
                for arm in chosen.arms:
                    run = {"arm": arm, "size": size, "repetition": repetition}
                    run |= self._measure(arm, folders[size], scratch)
                    if run["rows"] != size:
                        raise SystemExit(f"{arm}: {run['rows']} rows of {size} photos")
                    runs[arm].append(run)
            for short, long in runs.values():
                derived = _derived(short, long)
                yield from (where | run | derived for run in (short, long))

    def _measure(self, arm: str, folder: Path, scratch: Path) -> dict[str, Any]:
        load = os.getloadavg()[0]
        tree = _tree.Tree()
        out = Path(tempfile.mkdtemp(dir=scratch))
        started = time.perf_counter()
        with tree.watched():
            process = self._start(arm, folder, out)
            uri = _wait_done(process, out)
            wall = time.perf_counter() - started
            used = tree.cpu_seconds
        rows = _count(uri)
        _end(process)
        shutil.rmtree(out, ignore_errors=True)
        measured = {"wall_s": round(wall, 3), "cpu_s": round(used, 2), "peak_mib": tree.peak_bytes >> 20}
        return measured | {"rows": rows, "load_before": round(load, 2)}

    def _start(self, arm: str, folder: Path, out: Path) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        # A cluster named in the environment would do the work elsewhere; thread counts are the arms' own affair.
        left_out = ("RAY_ADDRESS", "OMP_NUM_THREADS", "RAYCLUSTER_LAKE")
        environment = {key: value for key, value in os.environ.items() if key not in left_out}
        environment |= {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, str(self.file), "--arm", arm, str(folder), str(out)]
        with (out / "stderr").open("w") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=out
            )

    def _require_equal(self, arms: list[str], folder: Path, scratch: Path) -> None:
        """Compare what the arms make of the same photos; end where they differ."""
        expected: Any = None
        for arm in dict.fromkeys([next(iter(self.arms)), *arms]):
            out = Path(tempfile.mkdtemp(dir=scratch))
            process = self._start(arm, folder, out)
            found = _read(_wait_done(process, out), self.columns)
            _end(process)
            expected = expected if expected is not None else found
            for problem in differences(expected, found, self.tolerance):
                raise SystemExit(f"{arm}: {problem}")
            print(f"{arm}: {found.num_rows} rows equal in {', '.join(self.columns)}", file=sys.stderr)


def _sizes(text: str) -> tuple[int, int]:
    short, long = map(int, text.split(","))
    return short, long


def _wait_done(process: subprocess.Popen[str], out: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("done "):
            return line.removeprefix("done ").strip()
    status = process.wait()
    raise SystemExit(f"{(out / 'stderr').read_text()}\nan arm ended with status {status} before it was done")


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate("go\n")
    _tree.clear()


def _count(uri: str) -> int:
    import lance

    return int(lance.dataset(uri).count_rows())


def _read(uri: str, columns: tuple[str, ...]) -> Any:
    import lance

    return lance.dataset(uri).to_table(columns=list(columns)).sort_by("id").combine_chunks()


def differences(expected: Any, found: Any, tolerance: float) -> Iterator[str]:
    """Say where two tables, sorted by id, differ: text and whole numbers exactly, fractions beyond the tolerance."""
    import numpy as np
    import pyarrow as pa

    if expected.num_rows != found.num_rows:
        yield f"{found.num_rows} rows, expected {expected.num_rows}"
        return
    for name in expected.column_names:
        left, right = (table.column(name).combine_chunks() for table in (expected, found))
        if pa.types.is_struct(left.type):
            fields = [field.name for field in left.type]
            pairs = [pa.table({f"{name}.{one}": column.field(one) for one in fields}) for column in (left, right)]
            yield from differences(*pairs, tolerance)
            continue
        if left.null_count or right.null_count:
            yield f"{name}: {right.null_count} nulls, expected {left.null_count}, and neither may be"
        elif pa.types.is_fixed_size_list(left.type) or pa.types.is_floating(left.type):
            a, b = (
                column.flatten() if pa.types.is_fixed_size_list(column.type) else column for column in (left, right)
            )
            worst = float(np.abs(a.to_numpy() - b.to_numpy()).max(initial=0))
            if worst > tolerance:
                yield f"{name}: differs by {worst:.2g}, more than {tolerance:g}"
        elif not left.equals(right):
            yield f"{name}: not the same values"


def _derived(short: Mapping[str, Any], long: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two runs of one arm say together."""
    rows = long["size"] - short["size"]
    slope = (long["wall_s"] - short["wall_s"]) / rows
    return {
        "startup_s": round(short["wall_s"] - slope * short["size"], 2),
        "marginal_rows_per_s": round(1 / slope, 1) if slope > 0 else None,
        "cpu_ms_per_row": round(1000 * (long["cpu_s"] - short["cpu_s"]) / rows, 3),
        "peak_growth_mib": long["peak_mib"] - short["peak_mib"],
    }


def _where(file: Path) -> dict[str, Any]:
    """Return what a number needs to be a benchmark: commit and machine."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no", ":/raycluster") else ""
    machine = f"{models[0].partition(':')[2].strip() if models else platform.machine()}, {_memory_gib()} GiB"
    packages = " ".join(f"{name} {version(name)}" for name in ("ray", "torch", "pylance"))
    commit = (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    stamp = {"commit": commit, "machine": machine, "cores": CORES, "packages": packages}
    return {"benchmark": file.stem, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | stamp


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))


_HEAD = "| arm | rows/s | of the limit | CPU ms a row | start-up s | wall s | peak MiB | growth MiB |\n|" + "---|" * 8


def table(lines: list[dict[str, Any]]) -> str:
    """Return a table in Markdown: medians over the repetitions; ratios are taken within each repetition."""
    arms = list(dict.fromkeys(line["arm"] for line in lines))
    sizes = sorted({line["size"] for line in lines})
    long = {arm: [line for line in lines if line["arm"] == arm and line["size"] == sizes[-1]] for arm in arms}
    first = lines[0]
    said = f"{first['benchmark']}, {sizes[0]} and {sizes[-1]} photos, median of {len(long[arms[0]])} repetitions; "
    said += f"{first['cores']} cores of {first['machine']}; commit {first['commit']}; {first['packages']}"
    return "\n".join([said, "", _HEAD, *(_row(arm, long[arm], long[arms[0]], lines) for arm in arms)])


def _row(arm: str, runs: list[dict[str, Any]], limit: list[dict[str, Any]], lines: list[dict[str, Any]]) -> str:
    def middle(name: str) -> float:
        return statistics.median(run[name] if run[name] is not None else float("nan") for run in runs)

    ratios = [
        run["marginal_rows_per_s"] / other["marginal_rows_per_s"]
        for run, other in zip(runs, limit, strict=True)
        if run["marginal_rows_per_s"] and other["marginal_rows_per_s"]
    ]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
    short = [line for line in lines if line["arm"] == arm and line["size"] < runs[0]["size"]]
    walls = f"{statistics.median(line['wall_s'] for line in short):.1f}, {middle('wall_s'):.1f}"
    peaks = f"{statistics.median(line['peak_mib'] for line in short):.0f}, {middle('peak_mib'):.0f}"
    cells = [arm, f"{middle('marginal_rows_per_s'):.0f}", spread, f"{middle('cpu_ms_per_row'):.2f}"]
    cells += [f"{middle('startup_s'):.1f}", walls, peaks, f"{middle('peak_growth_mib'):.0f}"]
    return f"| {' | '.join(cells)} |"
