"""`python -m raycluster.cluster.look NAME` with a site as JSON on stdin becomes findings, one JSON document a line."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict

from raycluster.cluster.look import Finding, Site


def main(name: str) -> None:
    """Look at one subject, and say at once what is found: nobody knows for how long this process may run."""
    said = json.load(sys.stdin)
    site = Site(**said | {"workloads": tuple(said["workloads"])})
    try:
        for finding in importlib.import_module(f"raycluster.cluster.look.{name}").look(site):
            _say(finding)
    except Exception as error:  # noqa: BLE001 - one subject that cannot be looked at hides no other
        words = str(error).strip().splitlines() or [""]
        _say(Finding("problem", f"it could not be looked at: {type(error).__name__}: {words[-1]}"))


def _say(finding: Finding) -> None:
    print(json.dumps(asdict(finding)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
