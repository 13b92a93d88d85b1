"""What do raycluster's promises cost? The job of `histogram.py` with all of them, and with each of them taken away.

All: commits every five seconds, a meter in every worker and an agent on the node, rules that every row is held to, and
quarantine. Work is small there, so a promise weighs more than beside a model. Two Ray Data scripts promise nothing:
`lance_ray` and the plain one commit once, when all is done, and keep nothing of a run that dies before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from _arms import FORMAT, Raycluster, Script, blocks_of, one_actor_a_core
from _bench import Question
from _corpus import files
from _decode import turns
from histogram import WORK

# What is too small, too dark, too bright or out of focus. All photos pass, so that all arms make the same rows.
_RULES = [
    {"use": "bounds", "feature": "width", "min": 32},
    {"use": "bounds", "feature": "brightness", "min": 0.001, "max": 0.999},
    {"use": "bounds", "feature": "sharpness", "min": 0.001},
]
_CHECKED = {"check": {"on_bad": "quarantine", "budget": {"rate": 0.01}, "rules": _RULES}}
CHECKED = replace(WORK, declared=WORK.declared | _CHECKED)
UNCHECKED = replace(WORK, declared=WORK.declared | {"check": {"on_bad": "drop"}})


def one_commit(folder: Path, out: Path) -> str:
    """Raycluster, with a pause between commits that no run reaches."""
    from raycluster.engine import landing

    landing._COMMIT_EVERY_SECONDS = math.inf
    return Raycluster(CHECKED)(folder, out)


def unmetered(folder: Path, out: Path) -> str:
    """Raycluster, without a meter in its workers, without agents and without a bill."""
    from raycluster.engine import cluster, run

    cluster.HOOK = "_unmetered.install"
    run._Run.open_account = lambda _: None
    return Raycluster(CHECKED)(folder, out)


class Rows:
    """The actor of the `lance_ray` arm: paths in, rows out, for the sink to write."""

    def __init__(self, pipeline: Callable[[], Any]) -> None:
        self.pipeline = pipeline()

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.Table.from_batches(map(self.pipeline, turns(block["path"].to_pylist(), WORK.turn)))


def lance_ray(folder: Path, out: Path) -> str:
    """Ray Data with the sink that Lance's makers offer."""
    import lance_ray as sink

    uri = str(out / "lance_ray.lance")
    done = blocks_of(files(folder)).map_batches(
        Rows, fn_constructor_kwargs={"pipeline": WORK.pipeline}, **one_actor_a_core()
    )
    sink.write_lance(done, uri, schema=WORK.schema, data_storage_version=FORMAT)
    return uri


if __name__ == "__main__":
    Question(
        file=Path(__file__),
        corpus=WORK.corpus,
        arms={
            "raycluster": Raycluster(CHECKED),
            "one_commit": one_commit,
            "unmetered": unmetered,
            "unchecked": Raycluster(UNCHECKED),
            "lance_ray": lance_ray,
            "script": Script(WORK),
        },
        sizes=(1000, 9000),
        # raycluster's features have fields that the scripts do not make; `histogram.py` compares those that they do
        columns=tuple(name for name in WORK.schema.names if name != "features"),
    ).main()
