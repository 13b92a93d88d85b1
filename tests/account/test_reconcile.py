"""The account of a real run is held against what the kernel itself counted for its processes."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.account.settle import settle
from raycluster.declare.prices import LOCAL
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS, USAGE

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
DRIVER = ROOT / "tests/reconciling_driver.py"
GROUPS = Path("/sys/fs/cgroup/cpuacct")
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: t}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{chunk: 200}}}}
  encode: [{{use: minilm}}]
  sink: {{dataset: d, index: []}}
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group, in which the kernel counts the CPU time of all that is started in it, to the nanosecond."""
    made = GROUPS / f"raycluster-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "cpuacct.usage").read_text()
    except OSError as error:
        pytest.skip(f"needs a control group that counts CPU time (cgroup v1, root): {error}")
    yield made
    deadline = time.monotonic() + 60
    while made.exists() and time.monotonic() < deadline:  # Ray's daemons take a while to end
        with suppress(OSError):
            made.rmdir()
        time.sleep(0.5)


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    """Write a corpus of prose, some fifty CPU-seconds of MiniLM."""
    words = " ".join(path.read_text() for path in sorted(ROOT.glob("*.md"))).split()
    chance = random.Random(0)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(30):
        start = chance.randrange(len(words) - 1500)
        (corpus / f"{index:02d}.txt").write_text(" ".join(words[start : start + 1500]))
    file = tmp_path / "w.yaml"
    file.write_text(WORKLOAD.format(corpus=corpus))
    return file


def test_the_lines_of_a_run_are_what_the_kernel_counted(group: Path, workload: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), str(workload), str(tmp_path / "lake"), str(group)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=500)
    summary = json.loads(said.stdout.splitlines()[-1])
    assert summary["status"] == "done"
    ledger = Lake(str(tmp_path / "lake")).ledger()
    usage = pa.Table.from_batches(ledger.usage(), USAGE).to_pylist()
    sums = Counter[str]()
    for line in usage:
        sums[line["kind"]] += line["cpu_seconds"]
    ours = sum(cpu for kind, cpu in sums.items() if kind not in ("idle", "other", "unexplained"))
    kernel = summary["kernel_cpu_seconds"]
    print(f"\nRECONCILED | kernel {kernel:.2f} CPU-s | attributed {ours:.2f} ({ours / kernel:.2%}) | {dict(sums)}")
    assert ours == pytest.approx(kernel, rel=0.04)  # on a quiet machine within 1 %: what ends between two looks is lost
    assert sums["task"] > 0.3 * kernel
    minilm = [line for line in usage if line["stage"] == "minilm"]
    assert {(line["team"], line["modality"], line["outcome"]) for line in minilm} == {("t", "text", "ok")}
    assert sum(line["rows_out"] for line in minilm) == summary["rows"]


def test_the_bill_of_a_run_is_its_nodes_time_times_their_price(group: Path, workload: Path, tmp_path: Path) -> None:
    for file in sorted((tmp_path / "corpus").iterdir())[4:]:
        file.unlink()
    command = [sys.executable, str(DRIVER), str(workload), str(tmp_path / "lake"), str(group)]
    subprocess.run(command, capture_output=True, check=True, timeout=500)
    lake = Lake(str(tmp_path / "lake"))
    settle(lake, LOCAL)
    usage = pa.Table.from_batches(lake.ledger().usage(), USAGE).to_pylist()
    paid = sum(pa.Table.from_batches(lake.ledger().costs(), COSTS)["nanousd"].to_pylist())
    windows = {(one["started_at"], one["ended_at"], one["node_cpus"], one["node_memory"]) for one in usage}
    hourly = {LOCAL.cpu_hour * cpus + LOCAL.gib_hour * memory / 2**30 for _, _, cpus, memory in windows}
    assert len(hourly) == 1  # the node has not changed
    seconds = max(end for _, end, _, _ in windows) - min(start for start, _, _, _ in windows)
    assert paid == pytest.approx(hourly.pop() * seconds.total_seconds() / 3600, abs=2)  # nano-dollars
