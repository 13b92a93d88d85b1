"""What does it cost to ask a policy? Rego, in a process of its own, against the same rules written out in Python.

`permit`: may this principal read this dataset. `access`: that, and which of its rows and of its 20 columns they see.
Each run asks as ten principals in turn, and every answer is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycluster.errors import Forbidden
from raycluster.govern.gate import Gate, Rules
from raycluster.govern.principal import Principal
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake

ARMS = ("python", "rego")
KINDS = ("permit", "access")
COLUMNS = pa.schema([(f"c{number}", pa.string()) for number in range(20)])
MASKED = {"c3", "c7", "c11"}
READERS = {"photos": {"staff", "partner"}, "calls": {"staff"}}
POLICY = """package data.access.policy

default allow := false

allow if {
    input.method == "GET"
    input.path[0] == "data"
    some role in input.user.roles
    role in data.readers[input.path[1]]
}

rowFilters contains {"expression": sprintf("team = '%s'", [replace(input.user.team, "'", "''")])} if {
    not "staff" in input.user.roles
}

columnMask := {"expression": "NULL"} if {
    input.column.name in {"c3", "c7", "c11"}
    not "staff" in input.user.roles
}
"""
PRINCIPALS = [
    Principal(subject=f"u{number}", roles=(("staff", "partner", "visitor")[number % 3], "x"), team=f"t{number}")
    for number in range(10)
]

Ask = Callable[[Principal], Access | None]


def by_hand(principal: Principal) -> Access | None:
    """Decide as the policy does."""
    if not READERS["photos"].intersection(principal.roles):
        return None
    if "staff" in principal.roles:
        return EVERYTHING
    quoted = (principal.team or "").replace("'", "''")
    return Access(filters=(f"team = '{quoted}'",), masks={name: "NULL" for name in COLUMNS.names if name in MASKED})


def asks(gate: Gate) -> dict[tuple[str, str], Ask]:
    """Return what each arm does for each kind of question."""

    def permit(principal: Principal) -> Access | None:
        try:
            gate.permit(principal, "GET", ("data", "photos"))
        except Forbidden:
            return None
        return EVERYTHING

    def access(principal: Principal) -> Access | None:
        try:
            return gate.access(principal, "photos", COLUMNS)
        except Forbidden:
            return None

    def permit_by_hand(principal: Principal) -> Access | None:
        return EVERYTHING if READERS["photos"].intersection(principal.roles) else None

    return {
        ("python", "permit"): permit_by_hand,
        ("python", "access"): by_hand,
        ("rego", "permit"): permit,
        ("rego", "access"): access,
    }


def measure(ask: Ask, count: int) -> dict[str, float]:
    """Return microseconds a decision: by the clock, and of this process's CPU."""
    times = []
    before = time.process_time()
    for number in range(count):
        principal = PRINCIPALS[number % len(PRINCIPALS)]
        began = time.perf_counter()
        ask(principal)
        times.append(time.perf_counter() - began)
    cpu = (time.process_time() - before) / count
    times.sort()
    return {"p50_us": times[count // 2] * 1e6, "p99_us": times[count * 99 // 100] * 1e6, "cpu_us": cpu * 1e6}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the medians, and Rego as a multiple of Python."""
    rows = ["| | python | rego | ratio |", "|---|---|---|---|"]
    for kind in KINDS:
        for what in ("p50_us", "p99_us", "cpu_us"):
            python, rego = (
                statistics.median(line[what] for line in lines if (line["arm"], line["kind"]) == (arm, kind))
                for arm in ARMS
            )
            rows.append(f"| {kind}: {what} | {python:.1f} | {rego:.1f} | {rego / python:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Let the arms take turns; print a JSON line a run, and a table on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--count", type=int, default=5000)
    chosen = parser.parse_args()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
        (Path(scratch) / "policy.rego").write_text(POLICY)
        (Path(scratch) / "data.json").write_text(json.dumps({"readers": {k: sorted(v) for k, v in READERS.items()}}))
        gate = Gate(Rules(policy=scratch), Lake(f"{scratch}/lake"))
        arms = asks(gate)
        for kind in KINDS:
            for principal in PRINCIPALS:
                python, rego = (arms[arm, kind](principal) for arm in ARMS)
                assert python == rego, f"{kind} of {principal}: {python} is not {rego}"
        for _ in range(chosen.repetitions):
            for kind in KINDS:
                for arm in ARMS:
                    line = {"benchmark": "policy", "arm": arm, "kind": kind, "load_before": os.getloadavg()[0]}
                    lines.append(line | measure(arms[arm, kind], chosen.count))
                    print(json.dumps(lines[-1]), flush=True)
        gate.close()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = len(KINDS) * chosen.repetitions * chosen.count
    print(table(lines), file=sys.stderr)
    print(
        f"the policy's process: {(spent.ru_utime + spent.ru_stime) / asked * 1e6:.0f} us of CPU a decision",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
