"""The sample workload, with its real models on real media, killed three times: the same rows as one undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sampling import part

from raycluster.errors import NotFound
from raycluster.lake.lake import Lake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(sys.executable).with_name("raycluster")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a folder with the sample workload and a part of its corpus."""
    folder = tmp_path_factory.mktemp("sample")
    part(tmp_path_factory.mktemp("whole"), folder / "corpus")
    shutil.copy(ROOT / "workloads/sample/sample.yaml", folder)
    return folder


def start(folder: Path, lake: Lake) -> subprocess.Popen[str]:
    command = [str(COMMAND), "run", "sample.yaml", "--lake", lake.uri, "--json"]
    with (folder / "stderr").open("a") as err:
        return subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True
        )


def finish(folder: Path, lake: Lake) -> dict[str, object]:
    run = start(folder, lake)
    out, _ = run.communicate(timeout=600)
    summary: dict[str, object] = json.loads(out)
    assert summary.get("status") == "done", summary
    return summary


def rows(lake: Lake, version: str | None = None) -> list[str]:
    try:
        return sorted(lake.table("sample").open(version).to_table(columns=["id"])["id"].to_pylist())
    except NotFound:
        return []


def bad(lake: Lake) -> list[tuple[str, str]]:
    return sorted((row["id"], row["code"]) for row in lake.quarantine("sample").rows())


def test_killed_three_times_it_gives_the_same_rows(sample: Path, tmp_path: Path) -> None:
    undisturbed, lake = Lake(str(tmp_path / "undisturbed")), Lake(str(tmp_path / "lake"))
    once = finish(sample, undisturbed)
    chance = random.Random(3)
    for death in range(3):
        before = len(rows(lake))
        driver = start(sample, lake)
        while len(rows(lake)) == before and driver.poll() is None:
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 3))
        assert driver.poll() is None
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate(timeout=60)
        kept = rows(lake)
        print(f"\nDEATH | sample, {death + 1} | {len(kept)} of {once['rows']} rows committed")
        assert before < len(kept) < once["rows"]
        assert set(kept) <= set(rows(undisturbed))
        assert not rows(lake, "live")
    last = finish(sample, lake)
    print(
        f"DEATH | sample, after three deaths | {last['skipped']} of {last['objects']} objects skipped, "
        f"{last['rows']} rows committed | {last['seconds']} s, undisturbed {once['seconds']} s"
    )
    assert rows(lake, "live") == rows(undisturbed, "live")
    assert bad(lake) == bad(undisturbed)
    assert len(set(rows(lake))) == len(rows(lake)) == once["rows"]
