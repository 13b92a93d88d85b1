"""Arms become JSON lines and a table: each in a process of its own, taking turns, with equal outputs.

An arm is a function `(folder of files, folder to write to) -> uri of a Lance dataset`. A process does three jobs: the
short one from nothing (the clock starts before the process does, so Python's, torch's and Ray's start are in it), then
the short and the long one again, warm. Clocks stop when the dataset can be read. The two warm ones tell what a job
costs and what a row: a row's cost is the slope between them, a job's what the line has at no rows. What the first job
wrote is held against the limit's, value by value, before a figure is printed: a difference ends the benchmark.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import _tree
from _corpus import Corpus

Arm = Callable[[Path, Path], str]
HERE = Path(__file__).parent
_CORES = "RAYCLUSTER_BENCHMARK_CORES"  # environment: of an arm's process, fewer than there are
CORES = int(os.environ.get(_CORES, len(os.sched_getaffinity(0))))
_PACKAGES = ("ray", "torch", "onnxruntime", "pylance", "daft")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One benchmark: rival ways to the same dataset, the first of them what the others are measured by."""

    file: Path
    corpus: Corpus
    arms: Mapping[str, Arm]
    sizes: tuple[int, ...]  # files of the short and the long job
    columns: tuple[str, ...]  # that must be equal in all arms
    fewer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of some arms, instead
    tolerance: float = 1e-3  # of float columns
    words: tuple[str, ...] = ()  # of its command line, before the options

    def main(self) -> None:
        """Run the whole benchmark, or, as the process that it starts, its arms."""
        chosen = self._arguments()
        if chosen.table:
            print(tables([json.loads(line) for line in chosen.table.read_text().splitlines()]))
        elif chosen.be:
            self._be()
        else:
            _tree.adopt_orphans()
            lines = []
            with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
                for line in self._lines(chosen, Path(scratch)):
                    print(json.dumps(line), flush=True)
                    lines.append(line)
            if not chosen.together:
                print(table(lines), file=sys.stderr)

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
        parser.add_argument("--sizes", type=_sizes, default=self.sizes, help="files of the short and the long job")
        parser.add_argument("--repetitions", type=int, default=3)
        parser.add_argument("--arms", type=lambda text: text.split(","), default=list(self.arms))
        parser.add_argument("--table", type=Path, help="make a table of a file of JSON lines, run nothing")
        parser.add_argument("--together", action="store_true", help="only compare outputs, of one process and core")
        parser.add_argument("--be", action="store_true", help=argparse.SUPPRESS)
        return parser.parse_args(sys.argv[1 + len(self.words) :])

    def _be(self) -> None:
        """Do the jobs that come, and tell the waiting parent, who counts the living before it lets this one end."""
        for line in sys.stdin:
            arm, folder, out = line.rstrip("\n").split("\t")
            print(f"done {self.arms[arm](Path(folder), Path(out))}", flush=True)
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()

    def _lines(self, chosen: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
        if unknown := [arm for arm in chosen.arms if arm not in self.arms]:
            raise SystemExit(f"no such arm here: {', '.join(unknown)}; there are {', '.join(self.arms)}")
        arms = list(dict.fromkeys([next(iter(self.arms)), *chosen.arms]))  # without the first there is no measure
        folders = {size: self.corpus.folder_of(size) for size in chosen.sizes}
        if chosen.together:
            yield from self._together(arms, folders[chosen.sizes[0]], scratch)
            return
        where = _where(self.file)
        expected: dict[int, int] = {}  # rows, by size
        reference: Any = None
        for repetition in range(chosen.repetitions):
            for arm in arms:
                runs, found = self._repeat(arm, folders, scratch)
                reference = found if reference is None else reference
                self._require_equal(arm, reference, found)
                for run in runs:
                    if run["rows"] != expected.setdefault(run["size"], run["rows"]):
                        raise SystemExit(f"{arm}: {run['rows']} rows of {run['size']}, not {expected[run['size']]}")
                derived = _derived(runs)
                yield from (where | {"repetition": repetition} | run | derived for run in runs)

    def _repeat(self, arm: str, folders: Mapping[int, Path], scratch: Path) -> tuple[list[dict[str, Any]], Any]:
        """Do the jobs of one arm in a process of its own; return what was measured, and what the first one wrote."""
        jobs = [("cold", min(folders)), *(("warm", size) for size in folders if len(folders) > 1)]
        found: Any = None
        runs = []
        with _Process(self, scratch) as process:
            for state, size in jobs:
                run, uri = process.measured(arm, folders[size])
                runs.append({"arm": arm, "state": state, "size": size} | run)
                found = self._read(arm, uri) if found is None else found
                shutil.rmtree(process.out)
        return runs, found

    def _together(self, arms: Sequence[str], folder: Path, scratch: Path) -> Iterator[dict[str, Any]]:
        """Do one job of every arm in one process, and say how many rows were equal: no clock is worth reading."""
        expected: Any = None
        with _Process(self, scratch, **{_CORES: "1"}) as process:
            for arm in arms:
                found = self._read(arm, process.do(arm, folder))
                expected = found if expected is None else expected
                self._require_equal(arm, expected, found)
                yield {"benchmark": self.file.stem, "arm": arm, "rows": found.num_rows, "equal": found.column_names}

    def _read(self, arm: str, uri: str) -> Any:
        import lance

        columns = self.fewer.get(arm, self.columns)
        return lance.dataset(uri).to_table(columns=list(columns)).sort_by("id").combine_chunks()

    def _require_equal(self, arm: str, expected: Any, found: Any) -> None:
        """End where an arm's rows are not those of the first one."""
        for problem in differences(expected.select(found.column_names), found, self.tolerance):
            raise SystemExit(f"{arm}: {problem}")
        print(f"{arm}: {found.num_rows} rows equal in {', '.join(found.column_names)}", file=sys.stderr)


class _Process:
    """A process that does the jobs of arms, and what it takes."""

    def __init__(self, question: Question, scratch: Path, **environment: str) -> None:
        self.question, self.environment = question, environment
        self.out = self.scratch = Path(tempfile.mkdtemp(dir=scratch))
        self.tree = _tree.Tree()

    def __enter__(self) -> _Process:
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        # A cluster named in the environment would do the work elsewhere; thread counts are the arms' own affair.
        left_out = ("RAY_ADDRESS", "OMP_NUM_THREADS", "RAYCLUSTER_LAKE")
        environment = {key: value for key, value in os.environ.items() if key not in left_out}
        environment |= {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
        environment |= self.environment
        command = [sys.executable, str(self.question.file), *self.question.words, "--be"]
        ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": self.scratch}
        self.started = time.time()  # seconds since 1970, as the times of versions are
        with (self.scratch / "stderr").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, **ends)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()
        _tree.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def do(self, arm: str, folder: Path) -> str:
        """Let it do one job; return the uri of what it wrote."""
        self.out = Path(tempfile.mkdtemp(dir=self.scratch))
        self.process.stdin.write(f"{arm}\t{folder}\t{self.out}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("done "):
                return line.removeprefix("done ").strip()
        said = (self.scratch / "stderr").read_text()
        raise SystemExit(f"{said}\n{arm} ended with status {self.process.wait()} before it was done")

    def measured(self, arm: str, folder: Path) -> tuple[dict[str, Any], str]:
        """Let it do one job, and return what that took; the first one takes the start of the process, too."""
        load, used = os.getloadavg()[0], self.tree.cpu_seconds if self.started is None else 0.0
        started = time.time() if self.started is None else self.started
        self.started, self.tree.peak_bytes = None, 0
        with self.tree.watched():
            uri = self.do(arm, folder)
            wall = time.time() - started
            used = self.tree.cpu_seconds - used
        rows, first = _landed(uri)
        taken = {"wall_s": round(wall, 3), "first_row_s": round(first - started, 3), "cpu_s": round(used, 2)}
        return taken | {"peak_mib": self.tree.peak_bytes >> 20, "rows": rows, "load_before": round(load, 2)}, uri


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(","))))


def _landed(uri: str) -> tuple[int, float]:
    """Return how many rows a dataset has, and when it got its first, in seconds since 1970."""
    import lance

    dataset = lance.dataset(uri)
    times = [one["timestamp"].timestamp() for one in dataset.versions() if int(one["metadata"]["total_rows"])]
    return int(dataset.count_rows()), min(times)


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


def _derived(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the jobs of one process say together: nothing, where there was but one."""
    if len(runs) < 3:
        return {}
    cold, short, long = runs
    rows = long["rows"] - short["rows"]
    slope = (long["wall_s"] - short["wall_s"]) / rows
    return {
        "startup_s": round(cold["wall_s"] - slope * cold["rows"], 2),
        "job_s": round(short["wall_s"] - slope * short["rows"], 2),
        "marginal_rows_per_s": round(1 / slope, 3) if slope > 0 else None,
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
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES if _is_installed(name))
    commit = (git("rev-parse", "--short", "HEAD") or "unknown") + changed
    stamp = {"commit": commit, "machine": machine, "cores": CORES, "packages": packages}
    return {"benchmark": file.stem, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | stamp


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


_COLUMNS = ("arm", "rows/s", "warm", "marginal", "cold", "cold s", "first row s: cold, warm")
_COLUMNS += ("start-up s", "job s", "CPU ms a row", "peak MiB")
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def tables(lines: list[dict[str, Any]]) -> str:
    """Return a table for each benchmark."""
    names = dict.fromkeys(line["benchmark"] for line in lines)
    return "\n\n".join(table([line for line in lines if line["benchmark"] == name]) for name in names)


def table(lines: list[dict[str, Any]]) -> str:
    """Return a table in Markdown: medians over the repetitions; ratios are taken within each repetition."""
    arms = list(dict.fromkeys(line["arm"] for line in lines))
    first = lines[0]
    sizes = " and ".join(map(str, sorted({line["size"] for line in lines})))
    load = statistics.median(line["load_before"] for line in lines)
    said = (
        f"{first['benchmark']}: {sizes} files, median of {1 + lines[-1]['repetition']} repetitions; load {load:.1f}; "
    )
    said += f"{first['cores']} cores of {first['machine']}; commit {first['commit']}; {first['packages']}"
    jobs = {arm: _jobs([line for line in lines if line["arm"] == arm]) for arm in arms}
    return "\n".join([said, "", _HEAD, *(_row(arm, jobs[arm], jobs[arms[0]]) for arm in arms)])


def _jobs(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return one arm's runs: the cold ones, and the long warm ones (the cold ones, where there was but one size)."""
    cold = [line for line in lines if line["state"] == "cold"]
    longest = max(line["size"] for line in lines)
    return {"cold": cold, "warm": [one for one in lines if one["state"] == "warm" and one["size"] == longest] or cold}


def _row(arm: str, jobs: Mapping[str, list[dict[str, Any]]], base: Mapping[str, list[dict[str, Any]]]) -> str:
    def middle(name: str, state: str = "warm", form: str = ".1f") -> str:
        found = [run[name] for run in jobs[state] if run.get(name) is not None]
        return format(statistics.median(found), form) if found else "-"

    def times(state: str, name: str) -> str:
        pairs = zip(jobs[state], base[state], strict=False)  # a benchmark that was cut short has fewer of the last
        ratios = [one[name] / other[name] for one, other in pairs if one.get(name) and other.get(name)]
        ratios = [1 / ratio for ratio in ratios] if name == "marginal_rows_per_s" else ratios
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"

    rate = statistics.median(run["rows"] / run["wall_s"] for run in jobs["warm"])
    cells = [arm, f"{rate:.1f}", times("warm", "wall_s"), times("warm", "marginal_rows_per_s")]
    cells += [times("cold", "wall_s"), middle("wall_s", "cold")]
    cells += [f"{middle('first_row_s', 'cold')}, {middle('first_row_s')}"]
    cells += [
        middle("startup_s"),
        middle("job_s"),
        middle("cpu_ms_per_row", form=".2f"),
        middle("peak_mib", form=".0f"),
    ]
    return f"| {' | '.join(cells)} |"
