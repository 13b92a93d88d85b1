"""What does it cost to commit every five seconds? Each way to store the rows of `histogram.py`, and what it keeps.

raycluster with one commit at its end is the limit: nothing else differs from raycluster as it is. A Ray Data script
that writes with `lance_ray`, and the plain script, commit once too, when all is done: they keep nothing of a run that
dies before. See README.md.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import histogram
import pyarrow as pa
from _bench import CORES, Question
from _decode import COLUMNS


def one_commit(folder: Path, out: Path) -> str:
    """Raycluster, but with a pause between commits that no run reaches."""
    from raycluster.engine import landing

    landing._COMMIT_EVERY_SECONDS = math.inf
    return histogram.raycluster(folder, out)


class Rows:
    """The actor of the `lance_ray` arm: paths in, rows out, for the sink to write."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def __call__(self, block: pa.Table) -> pa.Table:
        paths = block["path"].to_pylist()
        parts = (paths[start : start + histogram.BATCH] for start in range(0, len(paths), histogram.BATCH))
        return pa.Table.from_batches(histogram.batches(parts))


def lance_ray(folder: Path, out: Path) -> str:
    """Ray Data with the sink that Lance's makers offer."""
    import lance_ray as sink
    import ray
    import ray.data

    ray.init("local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    uri, paths = str(out / "lance_ray.lance"), histogram.files(folder)
    blocks = min(8 * CORES, len(paths))
    done: Any = ray.data.from_arrow([pa.table({"path": paths[one::blocks]}) for one in range(blocks)]).map_batches(
        Rows,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=1,
    )
    sink.write_lance(done, uri, schema=histogram.SCHEMA, data_storage_version=histogram.FORMAT)
    return uri


if __name__ == "__main__":
    Question(
        file=Path(__file__),
        arms={
            "one_commit": one_commit,
            "raycluster": histogram.raycluster,
            "lance_ray": lance_ray,
            "script": histogram.script,
        },
        sizes=(1000, 12_000),
        # raycluster's features have fields that the scripts do not make; `histogram.py` compares those that they do
        columns=(*(name for name in COLUMNS.names if name != "features"), "histogram"),
        tolerance=1e-3,
    ).main()
