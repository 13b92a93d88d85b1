"""The benchmarks measure what they say: equal outputs are demanded, every process is counted, one line a run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import _bench  # noqa: E402
import _tree  # noqa: E402


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("histogram", ("limit", "script", "raycluster")),
        ("image_classification", ("limit", "script", "raycluster")),
        ("durability", ("one_commit", "raycluster", "lance_ray", "script")),
    ],
)
def test_every_arm_makes_the_same_rows_and_prints_one_line_a_run(name: str, arms: tuple[str, ...]) -> None:
    command = [
        sys.executable,
        str(BENCHMARKS / f"{name}.py"),
        "--sizes",
        "8,24",
        "--checked",
        "8",
        "--repetitions",
        "1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)
    assert ended.returncode == 0, ended.stderr
    for arm in arms:
        assert f"{arm}: 8 rows equal in id, object_id, uri, sha256" in ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    runs = {(line["arm"], line["size"]): line for line in lines}
    assert set(runs) == {(arm, size) for arm in arms for size in (8, 24)}
    for (_, size), line in runs.items():
        assert (line["benchmark"], line["rows"]) == (name, size)
        assert line["cores"] == _bench.CORES
        assert line["commit"]
        assert line["machine"]
        # Each arm loads torch in at least one process: more than a second of CPU and 100 MiB.
        assert line["cpu_s"] > 1
        assert line["peak_mib"] > 100
        assert {"wall_s", "startup_s", "marginal_rows_per_s", "cpu_ms_per_row", "peak_growth_mib"} <= set(line)
    # Ray's own processes are counted too.
    if "limit" in arms:
        assert runs["raycluster", 8]["cpu_s"] > runs["limit", 8]["cpu_s"]
    assert "| raycluster |" in ended.stderr


def rows(**changed: object) -> pa.Table:
    columns = {"id": ["a", "b"], "size": [1, 2], "score": [0.5, 0.25], "features": [{"x": 1.0}, {"x": 2.0}]} | changed
    vector = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    return pa.table(columns).append_column("vector", vector)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": ["a", "c"]}, "id: not the same values"),
        ({"size": [1, 3]}, "size: not the same values"),
        ({"score": [0.5, 0.26]}, "score: differs by 0.01"),
        ({"features": [{"x": 1.0}, {"x": 2.1}]}, "features.x: differs by 0.1"),
        ({"score": [0.5, None]}, "score: 1 nulls"),
    ],
)
def test_outputs_that_differ_are_found(changed: dict[str, object], said: str) -> None:
    (problem,) = _bench.differences(rows(), rows(**changed), 1e-3)
    assert problem.startswith(said)


def test_outputs_within_the_tolerance_are_equal() -> None:
    assert list(_bench.differences(rows(), rows(score=[0.5004, 0.2496]), 1e-3)) == []
    assert list(_bench.differences(rows(), rows().slice(0, 1), 1e-3)) == ["1 rows, expected 2"]


def test_the_dead_and_the_grandchildren_are_counted() -> None:
    burn = "import time\nwhile time.process_time() < 1.5: pass\n"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); kept = bytearray(80 << 20)\n"
    tree = _tree.Tree()
    with (
        tree.watched(),
        subprocess.Popen(
            [sys.executable, "-c", parent + "print(flush=True); input()"], stdin=-1, stdout=-1, text=True
        ) as child,
    ):
        child.stdout.readline()
        time.sleep(0.8)  # memory is looked at less often than CPU
        used = tree.cpu_seconds
        child.communicate("\n")
    assert 1.2 < used < 3.5  # new processes are looked for twice a second
    assert 80 << 20 < tree.peak_bytes < 300 << 20


def run(size: int, wall: float, cpu: float, peak: int) -> dict[str, object]:
    return {"size": size, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}


def test_two_sizes_tell_start_up_from_speed() -> None:
    # 5 s of start-up, 100 rows a second, 20 ms of CPU a row
    derived = _bench._derived(run(100, 6.0, 12.0, 500), run(1100, 16.0, 32.0, 520))
    assert derived == {
        "startup_s": 5.0,
        "marginal_rows_per_s": 100.0,
        "cpu_ms_per_row": 20.0,
        "peak_growth_mib": 20,
    }
