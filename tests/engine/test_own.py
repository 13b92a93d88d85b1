"""A Ray of our own has no processes that only clusters need, and Ray Data does without its actors there."""

import json
import os
import subprocess
import sys

import pytest
import ray

from raycluster.engine import own

ACTORS = {"datasets_stats_actor": "_dataset_stats_actor", "AutoscalingCoordinator": "AutoscalingCoordinator"}
LEFT_OUT = ("/dashboard.py", "/monitor.py", "/log_monitor.py")
SCRIPT = """
import json, sys
from pathlib import Path
import psutil, ray
if sys.argv[1] == "theirs":
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
from raycluster.engine import own
from raycluster.engine.cluster import connect
connect()
import ray.data
summed = sum(row["id"] for row in ray.data.range(10, override_num_blocks=2).iter_rows())
found = []
for name, space in json.loads(sys.argv[2]).items():
    try:
        ray.get_actor(name, namespace=space)
        found.append(name)
    except ValueError:
        pass
session = Path(ray._private.worker._global_node.get_session_dir_path()).name
lines = (" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]))
ran = [line for line in lines if session in line]
print(json.dumps([own.is_own(), summed, found, ran]))
"""


IDLE = """
import os, time
from pathlib import Path
import ray
from raycluster.engine import own
own.IDLE_SECONDS = float(os.environ["IDLE"])
from raycluster.engine.cluster import connect
connect()
pid = ray.get(ray.remote(lambda: os.getpid()).remote())
until = time.monotonic() + 8
while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
    time.sleep(0.1)
print(Path(f"/proc/{pid}").exists())
"""


def started(whose: str) -> tuple[bool, int, list[str], str]:
    command = [sys.executable, "-c", SCRIPT, whose, json.dumps(ACTORS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not ended.returncode, ended.stderr
    is_own, summed, found, ran = json.loads(ended.stdout.splitlines()[-1])
    return is_own, summed, found, "\n".join(ran)


def test_a_ray_of_our_own_has_no_processes_that_only_clusters_need() -> None:
    is_own, summed, found, ran = started("ours")
    assert (is_own, summed, found) == (True, 45, [])
    assert "raylet" in ran
    assert not [name for name in LEFT_OUT if name in ran]


@pytest.mark.slow
def test_a_ray_that_somebody_else_has_started_is_whole() -> None:
    is_own, summed, found, ran = started("theirs")
    assert (is_own, summed, sorted(found)) == (False, 45, sorted(ACTORS))
    assert not [name for name in LEFT_OUT if name not in ran]


@pytest.mark.usefixtures("cluster")
def test_ray_data_hears_of_room_for_a_unit_that_waits() -> None:
    there = ray.cluster_resources()
    told = own._one_node().get_total_resources()
    assert (told.cpu, told.memory) == (2 * there["CPU"], 2 * there["memory"])
    assert told.object_store_memory == there["object_store_memory"]


@pytest.mark.parametrize(("seconds", "is_there"), [("1", False), ("60", True)])
def test_a_worker_ends_when_it_was_idle_for_long_and_not_before(seconds: str, is_there: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=120, env={**os.environ, "IDLE": seconds}
    )
    assert ended.stdout.splitlines()[-1:] == [str(is_there)], ended.stderr
