"""Runs a workload as `raycluster run` does, in a control group of its own, and says what the kernel counted."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path


def main(file: str, place: str, group: str) -> None:
    """Print the summary, with the CPU-seconds of the group from before Ray was started to after the bill was made."""
    usage = Path(group) / "cpuacct.usage"
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))  # whatever this starts is in it too

    from raycluster.account import owners
    from raycluster.declare.workload import load_workload
    from raycluster.engine.prepare import prepare
    from raycluster.engine.run import execute
    from raycluster.lake.lake import Lake

    moments: list[float] = []
    connecting = owners.connecting
    from raycluster.engine import cluster
    from raycluster.engine.agents import Agents

    def noted() -> None:
        moments.append(int(usage.read_text()) / 1e9)
        connecting()

    def flushed(agents: Agents) -> None:
        flush(agents)
        moments.append(int(usage.read_text()) / 1e9)

    cluster.connecting = noted
    flush, Agents.flush = Agents.flush, flushed
    lake = Lake(place)
    summary = execute(prepare(load_workload(file), lake), lake)
    print(json.dumps(asdict(summary) | {"kernel_cpu_seconds": moments[1] - moments[0]}, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
