"""Drivers that die at a bad moment, and two at once: the next run goes on, the ids are as if undisturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from raycluster.errors import NotFound
from raycluster.lake.lake import Lake
from raycluster.row import object_id, row_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DRIVER = Path(__file__).with_name("dying_driver.py")
OBJECTS = 48
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: t}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{chunk: 200}}}}
  encode: [{{use: "private_stages:Slow"}}]
  check: {{rules: [{{use: bounds, feature: characters, min: 12}}]}}
  sink: {{dataset: d}}
"""


@pytest.fixture
def job(tmp_path: Path) -> tuple[Path, Lake]:
    """Make a corpus, of which every eighth object is bad, and a workload that takes half a second for each."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(OBJECTS):
        (corpus / f"t{index:02d}.txt").write_text(
            "short\n" if index % 8 == 7 else f"word{index} and some more of them.\n"
        )
    file = tmp_path / "w.yaml"
    file.write_text(WORKLOAD.format(corpus=corpus))
    return file, Lake(str(tmp_path / "lake"))


def start(file: Path, lake: Lake) -> subprocess.Popen[bytes]:
    """Start a driver; what it says goes to a file, which outlives it and its Ray."""
    with file.with_suffix(".out").open("ab") as out:
        command = [sys.executable, str(DRIVER), str(file), lake.uri]
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def finish(driver: subprocess.Popen[bytes], file: Path) -> tuple[int, int]:
    """Wait for a driver's end; return the rows it committed and the objects it skipped."""
    driver.wait(timeout=200)
    said = file.with_suffix(".out").read_text()
    assert driver.returncode == 0, said
    committed, skipped = said.split()[-2:]
    return int(committed), int(skipped)


def rows(lake: Lake, version: int | str | None = None) -> list[str]:
    try:
        return lake.table("d").open(version).to_table(columns=["id"])["id"].to_pylist()
    except NotFound:
        return []


def expected(file: Path) -> set[str]:
    """Return the ids that one undisturbed run makes, from the definition of an id."""
    corpus = file.parent / "corpus"
    ids = set()
    for path in corpus.iterdir():
        state = path.stat()
        if state.st_size > len("short\n"):
            identity = object_id(path.as_uri(), f"{state.st_size}-{state.st_mtime_ns}")
            ids.add(row_id(identity, "text", 0))
    return ids


def require_undisturbed(file: Path, lake: Lake) -> None:
    found = rows(lake, "live")
    assert Counter(found).most_common(1)[0][1] == 1
    assert set(found) == expected(file)
    assert lake.quarantine("d").counts() == {"contract": OBJECTS // 8}


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_driver_loses_and_doubles_nothing(job: tuple[Path, Lake], seed: int) -> None:
    file, lake = job
    driver = start(file, lake)
    target = random.Random(seed).randrange(1, OBJECTS * 3 // 4)
    while len(rows(lake)) < target and driver.poll() is None:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = len(rows(lake))
    assert 0 < kept < OBJECTS
    assert lake.table("d").live() is None  # no reader saw a part
    committed, skipped = finish(start(file, lake), file)
    print(f"seed {seed}: killed at {kept} rows; the next run skipped {skipped} objects and committed {committed} rows")
    assert skipped >= kept
    assert kept + committed >= len(expected(file))
    require_undisturbed(file, lake)


def test_two_drivers_at_once_leave_what_one_would(job: tuple[Path, Lake]) -> None:
    file, lake = job
    drivers = [start(file, lake) for _ in range(2)]
    for driver in drivers:
        driver.wait(timeout=250)
    assert 0 in {driver.returncode for driver in drivers}
    require_undisturbed(file, lake)
    assert finish(start(file, lake), file) == (0, OBJECTS)
