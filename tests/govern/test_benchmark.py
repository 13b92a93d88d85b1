"""The benchmark of a policy compares equal answers, and prints one line a run."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent.parent / "benchmarks" / "policy.py"


def test_every_arm_answers_the_same_and_prints_one_line_a_run():
    command = [sys.executable, str(FILE), "--repetitions", "1", "--count", "200"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(line["arm"], line["kind"]) for line in lines] == [
        (arm, kind) for kind in ("permit", "access") for arm in ("python", "rego")
    ]
    assert all(0 < line["p50_us"] <= line["p99_us"] for line in lines)
    assert "| access: p99_us |" in ended.stderr
