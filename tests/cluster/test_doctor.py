"""An installation that is wrong in known ways: each is found, told with what to do, and hides no other."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycluster.cluster import doctor
from raycluster.cluster.look import Site


def diagnosed(*arguments: str, **environment: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "raycluster", "doctor", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_the_whole_of_it_ends_in_one_document_and_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    status, document = diagnosed("--lake", str(tmp_path))
    assert {one["subject"] for one in document["findings"]} >= {"versions", "lake", "disk", "memory", "libraries"}
    problems = [one for one in document["findings"] if one["level"] == "problem"]
    assert (status, document["verdict"], problems) == (0, "well", [])
    assert list(tmp_path.iterdir()) == []
    assert sum(document["counts"].values()) == len(document["findings"])
