"""Runs a workload as `raycluster run` does, committing often: for tests that end this process at a bad moment."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import moment
import ray

from raycluster.declare.workload import load_workload
from raycluster.engine import landing, pipeline
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.errors import RayclusterError
from raycluster.lake.lake import Lake

landing._COMMIT_EVERY_SECONDS = 0.3


def main(file: str, place: str) -> None:
    """Run it, and print the summary, or the error, as one line of JSON."""
    lake = Lake(place)
    if os.environ.get(moment.WORKER):
        hook = {"worker_process_setup_hook": "moment.arm_worker"}
        ray.init(os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=False, runtime_env=hook)
    if os.environ.get("SHARD_TWICE"):  # as a retry would, whose first attempt was believed lost
        from_units = pipeline.from_units
        pipeline.from_units = lambda units: from_units([*units, units[0]])
    moment.arm(os.environ.get(moment.DRIVER, ""))
    try:
        summary = execute(prepare(load_workload(file), lake), lake)
    except RayclusterError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        sys.exit(1)
    print(json.dumps(asdict(summary), default=str), flush=True)
    ray.shutdown()
    os._exit(0)  # an interpreter that takes all its modules down is a second that proves nothing


if __name__ == "__main__":
    main(*sys.argv[1:])
