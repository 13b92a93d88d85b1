"""Runs a workload as `raycluster run` does, committing often: for tests that end this process at a bad moment."""

import sys

from raycluster.declare.workload import load_workload
from raycluster.engine import run
from raycluster.engine.prepare import prepare
from raycluster.lake.lake import Lake

run._COMMIT_EVERY_SECONDS = 0.3

if __name__ == "__main__":
    file, place = sys.argv[1:]
    lake = Lake(place)
    summary = run.execute(prepare(load_workload(file), lake), lake)
    print(summary.rows, summary.skipped)
