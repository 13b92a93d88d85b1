"""What does it cost to know what everything costs? Metered Ray against bare Ray: no-op actor calls, and a Ray Data job.

Each arm is a process with a Ray of its own; arms take turns. CPU seconds are those of all processes of the arm, Ray's
and the node agent's among them, from when everything is warm to the end of the work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import _tree

ARMS = ("bare", "metered")
CALLS = 20_000
BLOCKS, BLOCK_SECONDS = 200, 0.05  # of CPU time each: small blocks, so that there are many calls


def burn(batch: dict[str, Any]) -> dict[str, Any]:
    """Work as long as a small block takes."""
    end = time.thread_time() + BLOCK_SECONDS
    while time.thread_time() < end:
        pass
    return batch


class Burning:
    """The same in an actor."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return burn(batch)


class Empty:
    """An actor whose calls do nothing."""

    def nothing(self) -> None:
        pass

    def cpu(self) -> float:
        return time.process_time()


def calls() -> float:
    """Return the microseconds of CPU that a call costs the actor's process."""
    import ray

    actor = ray.remote(Empty).remote()
    for _ in range(3):
        ray.get([actor.nothing.remote() for _ in range(1000)])
    before = ray.get(actor.cpu.remote())
    for _ in range(CALLS // 1000):
        ray.get([actor.nothing.remote() for _ in range(1000)])
    return (ray.get(actor.cpu.remote()) - before) / CALLS * 1e6


def job() -> None:
    """Run tasks, actors and a shuffle over many small blocks."""
    import ray.data

    rows = ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(burn, batch_size=None)
    actors = ray.data.ActorPoolStrategy(size=1)
    rows.map_batches(Burning, batch_size=None, compute=actors).sort("id", descending=True).materialize()


def be(arm: str) -> dict[str, Any]:
    """Be one arm: return what it measured."""
    import ray

    from raycluster.account import owners
    from raycluster.account.hook import HOOK
    from raycluster.account.owners import Owner
    from raycluster.engine.accounting import agent_of, described, nodes
    from raycluster.engine.cluster import quieten

    metered = arm == "metered"
    tree = _tree.Tree()
    with tree.watched():
        hook = {"worker_process_setup_hook": HOOK} if metered else {"env_vars": {"BARE": "1"}}
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=hook)
        quieten()
        if metered:
            owners.begin(Owner(run_id="benchmark", workload="benchmark", team="benchmark"))
            (agent,) = [agent_of(described(node)) for node in nodes()]
            ray.get(agent.ping.remote())
        job()  # warm: workers are there, everything is imported
        found = {"call_us": calls()}
        before, started = tree.cpu_seconds, time.monotonic()
        job()
        found |= {"job_cpu_seconds": tree.cpu_seconds - before, "job_seconds": time.monotonic() - started}
        if metered:
            found |= _agent(ray.get(agent.ping.remote()), found["job_seconds"])
    ray.shutdown()
    return found


def _agent(pid: int, seconds: float) -> dict[str, float]:
    """Return what the agent uses while a job of so many seconds goes on."""
    from raycluster.account.proc import look

    before = look(pid)
    time.sleep(10)
    after = look(pid)
    assert before is not None and after is not None  # noqa: PT018 - it was asked for its pid just now
    return {"agent_cpu_seconds": (after.cpu - before.cpu) / 1e9 / 10 * seconds}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the medians, and metered as a ratio of bare."""
    arms = {arm: [line for line in lines if line["arm"] == arm] for arm in ARMS}
    rows = ["| what | bare | metered | ratio |", "|---|---|---|---|"]
    for what, unit in (("call_us", "µs of CPU a no-op actor call"), ("job_cpu_seconds", "CPU-s of the Ray Data job")):
        bare, metered = (statistics.median(line[what] for line in arms[arm]) for arm in ARMS)
        pairs = [m[what] / b[what] for b, m in zip(arms["bare"], arms["metered"], strict=True)]
        rows.append(f"| {unit} | {bare:.2f} | {metered:.2f} | {statistics.median(pairs):.3f} |")
    share = statistics.median(line["agent_cpu_seconds"] / line["job_cpu_seconds"] for line in arms["metered"])
    rows.append(f"| of it the node agent | | {share:.2%} | |")
    return "\n".join(rows)


def main() -> None:
    """Let the arms take turns; print a JSON line a run, and a table on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.arm:
        print(json.dumps(be(chosen.arm)))
        return
    lines = []
    for _ in range(chosen.repetitions):
        for arm in ARMS:
            load = os.getloadavg()[0]
            said = subprocess.run([sys.executable, __file__, "--arm", arm], capture_output=True, text=True, check=True)
            lines.append({"arm": arm, "load_before": load, **json.loads(said.stdout.splitlines()[-1])})
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
