"""What does a second core add, and what does a second and a third node take away? One workload's job, three ways.

`one_core` is what the others are measured by: raycluster held to one core. `two_cores` is one node of two,
`three_nodes` a head without cores and two nodes of one each, on the same two cores: what is lost is what nodes cost.
What grows with objects and with nodes on the driver is `scale.py`'s question.

    python benchmarks/scaling.py video_frames
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from _arms import Raycluster, Work
from _bench import Question

WORKLOADS = ("image_classification", "document_embedding", "audio_transcription", "video_frames", "histogram")
_STORE_BYTES = 256 << 20  # of each node's objects: references and messages only


def held_to(cores: int, work: Work) -> Callable[[Path, Path], str]:
    """Return raycluster, on so many cores."""

    def arm(folder: Path, out: Path) -> str:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        return Raycluster(work)(folder, out)

    return arm


def three_nodes(work: Work) -> Callable[[Path, Path], str]:
    """Return raycluster, on a cluster of three nodes in as many processes of Ray, with two cores."""

    def arm(folder: Path, out: Path) -> str:
        from ray.cluster_utils import Cluster

        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        if "RAY_ADDRESS" not in os.environ:
            head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
            cluster.wait_for_nodes()
            os.environ["RAY_ADDRESS"] = cluster.address
        return Raycluster(work)(folder, out)

    return arm


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.argv.insert(1, WORKLOADS[0])
    name = sys.argv[1]
    if name not in WORKLOADS:
        raise SystemExit(f"say which workload, not {name!r}: {', '.join(WORKLOADS)}")
    work = import_module(name).WORK
    Question(
        file=Path(__file__),
        corpus=work.corpus,
        arms={"one_core": held_to(1, work), "two_cores": held_to(2, work), "three_nodes": three_nodes(work)},
        sizes=work.sizes,
        columns=tuple(column for column in work.schema.names if column != "features"),  # has fields for others' media
        words=(name,),
    ).main()
