"""A workload, a cluster and what a dataset already holds become a plan: pure, no Ray, no I/O of its own.

Whoever lists the source and reads the dataset hands both in as iterators; the engine carries the plan out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any, Literal, get_args

import pyarrow as pa

from raycluster.declare.workload import Workload
from raycluster.errors import Unplaceable
from raycluster.row import OBJECT, object_id
from raycluster.units import Resources, show_bytes

State = Literal["new", "changed", "done", "vanished"]
STATES: tuple[State, ...] = get_args(State)

# A shard is what one worker turns into one fragment. Several a worker keep all of them busy to the end; the bounds
# keep a fragment worth opening (one costs about 1 ms a scan) and little to do again when a worker dies.
_SHARDS_A_WORKER = 8
_SHARD_OBJECTS = 2048
_SHARD_BYTES = 1 << 30

TODO = OBJECT.append(pa.field("object_id", pa.string(), nullable=False))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What can be had: the free-standing capacity of every node, since a worker must fit on one."""

    nodes: tuple[Resources, ...]

    @property
    def cpu(self) -> float:
        """Return the cores of all nodes."""
        return sum(node.cpu for node in self.nodes)

    @property
    def gpu(self) -> float:
        """Return the GPUs of all nodes."""
        return sum(node.gpu for node in self.nodes)


@dataclass(kw_only=True)
class Count:
    """Objects and their bytes."""

    objects: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        """Count one object more."""
        self.objects += 1
        self.size += size


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Stages that run one after the other in the same workers, rows never leaving the process between them.

    All stages that need no GPU and stand next to each other share a pool; a stage that needs one has its own.
    """

    stages: tuple[Any, ...]
    needs: Resources
    actors: int

    @property
    def name(self) -> str:
        """Return the stages' names, joined."""
        return "+".join(stage.name for stage in self.stages) or "write"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a workload will do on this cluster and this dataset."""

    workload: Workload
    pools: tuple[Pool, ...]
    counts: dict[State, dict[str, Count]]
    todo: pa.Table = field(repr=False)  # schema TODO
    # what this run replaces: a changed object's id -> the ids of its older versions
    replaced: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    vanished: tuple[str, ...] = field(default=(), repr=False)  # object ids that the source no longer lists
    problems: tuple[str, ...] = ()
    base: int = 0  # the dataset's version that the source was compared with; 0: it did not exist

    @property
    def listed(self) -> int:
        """Return how many objects the source lists."""
        return sum(self.objects(state) for state in ("new", "changed", "done"))

    def objects(self, state: State) -> int:
        """Return how many objects are in a state."""
        return sum(count.objects for count in self.counts[state].values())

    def require_placeable(self) -> None:
        """Raise Unplaceable when the cluster cannot hold a stage."""
        if self.problems:
            raise Unplaceable("\n".join(self.problems), fix="change `needs`/`actors`, or run on a larger cluster")


def make_plan(
    workload: Workload,
    cluster: Cluster,
    *,
    listed: Iterable[pa.RecordBatch],
    known: Iterable[pa.RecordBatch],
    modality: Callable[[dict[str, Any]], str],
) -> Plan:
    """Compare what the source lists with what the dataset and its quarantine know, and place the stages.

    Args:
        workload: the declared job.
        cluster: what can be had.
        listed: batches of schema `row.OBJECT`.
        known: batches of `uri` and `object_id`, one row an object at least.
        modality: names the modality of one reference, for the counts only; bytes decide when they are decoded.
    """
    pools, problems = place(workload, cluster)
    seen = _Seen(known)
    counts: dict[State, dict[str, Count]] = {state: {} for state in STATES}
    todo: list[dict[str, Any]] = []
    replaced: dict[str, tuple[str, ...]] = {}
    for batch in listed:
        for reference in batch.to_pylist():
            identity = object_id(reference["uri"], reference["version"])
            state, old = seen.judge(reference["uri"], identity)
            counts[state].setdefault(modality(reference), Count()).add(reference["size"])
            if state != "done":
                todo.append({**reference, "object_id": identity})
            if old:
                replaced[identity] = tuple(old)
    vanished = seen.unlisted()
    if vanished:
        counts["vanished"]["all"] = Count(objects=len(vanished))
    return Plan(
        workload=workload,
        pools=pools,
        counts=counts,
        todo=pa.Table.from_pylist(todo, TODO),
        replaced=replaced,
        vanished=tuple(vanished),
        problems=tuple(problems),
    )


class _Seen:
    """What is already known, by 16-byte digest of the uri: 10^6 objects take about 300 MB."""

    def __init__(self, known: Iterable[pa.RecordBatch]) -> None:
        self.identities: dict[bytes, set[str]] = {}
        self.listed: set[bytes] = set()
        for batch in known:
            for uri, identity in zip(batch["uri"].to_pylist(), batch["object_id"].to_pylist(), strict=True):
                self.identities.setdefault(_key(uri), set()).add(identity)

    def judge(self, uri: str, identity: str) -> tuple[State, list[str]]:
        """Return an object's state and the older versions of it that must go."""
        key = _key(uri)
        identities = self.identities.get(key)
        if identities is None:
            return "new", []
        self.listed.add(key)
        old = sorted(identities - {identity})
        return ("done", []) if identity in identities else ("changed", old)

    def unlisted(self) -> list[str]:
        """Return the object ids whose uri the source no longer lists."""
        return sorted(one for key, ids in self.identities.items() if key not in self.listed for one in ids)


def _key(uri: str) -> bytes:
    return hashlib.blake2b(uri.encode(), digest_size=16).digest()


def place(workload: Workload, cluster: Cluster) -> tuple[tuple[Pool, ...], list[str]]:
    """Group the stages into pools, size each for the cluster, and say what does not fit."""
    groups: list[list[Any]] = [list(workload.decode)]
    for stage in (*workload.encode, *workload.check.rules):
        alone = stage.needs.gpu > 0 or getattr(stage, "actors", None) is not None
        last = groups[-1]
        if alone or _is_alone(last):
            groups.append([stage])
        else:
            last.append(stage)
    problems: list[str] = []
    fixed = {index: size for index, group in enumerate(groups) if (size := _fixed_size(group, cluster, problems))}
    taken = sum(size * _join(groups[index]).cpu for index, size in fixed.items())
    share = max(0.0, cluster.cpu - taken) / max(1, len(groups) - len(fixed))  # CPUs for each pool that adapts
    pools = tuple(
        Pool(
            stages=tuple(group),
            needs=(needs := _join(group)),
            actors=fixed.get(index) or max(1, min(_room(needs, cluster), floor(share / max(needs.cpu, 0.01) + 1e-9))),
        )
        for index, group in enumerate(groups)
    )
    asked = sum(pool.actors * pool.needs.cpu for pool in pools)
    if asked > cluster.cpu and not problems:
        names = ", ".join(f"{pool.name} {pool.actors} x {pool.needs.cpu:g}" for pool in pools)
        problems.append(f"the pools ask for {asked:g} CPUs ({names}), the cluster has {cluster.cpu:g}")
    return pools, problems


def _is_alone(group: list[Any]) -> bool:
    return any(stage.needs.gpu > 0 or getattr(stage, "actors", None) is not None for stage in group)


def _join(group: list[Any]) -> Resources:
    """Return what a worker of a group occupies: stages run in turn, so the most of each counts."""
    return Resources(
        cpu=max(stage.needs.cpu for stage in group),
        gpu=max(stage.needs.gpu for stage in group),
        memory=max(stage.needs.memory for stage in group),
    )


def _fixed_size(group: list[Any], cluster: Cluster, problems: list[str]) -> int | None:
    """Return the actors of a pool whose size does not depend on the others, and note why it cannot be placed.

    A GPU pool takes all the GPUs there are, a pool with `actors` what it says; the rest share the CPUs left over.
    """
    needs, room = _join(group), _room(_join(group), cluster)
    wanted = max((stage.actors for stage in group if getattr(stage, "actors", None)), default=None)
    names = "+".join(stage.name for stage in group)
    if room == 0:
        problems.append(f"{names} needs {_show(needs)} a worker: no node of this cluster has that ({_nodes(cluster)})")
    elif wanted is not None and wanted > room:
        problems.append(f"{names} wants {wanted} actors of {_show(needs)}: only {room} fit ({_nodes(cluster)})")
    return wanted or (room if needs.gpu else None)


def _room(needs: Resources, cluster: Cluster) -> int:
    """Return how many workers the nodes hold."""
    return sum(_fit(needs, node) for node in cluster.nodes)


def _fit(needs: Resources, node: Resources) -> int:
    limits = [
        floor(have / want + 1e-9)
        for want, have in ((needs.cpu, node.cpu), (needs.gpu, node.gpu), (needs.memory, node.memory))
        if want > 0
    ]
    return min(limits, default=0)


def _show(needs: Resources) -> str:
    parts = [f"{needs.cpu:g} CPU"]
    parts += [f"{needs.gpu:g} GPU"] if needs.gpu else []
    parts += [show_bytes(needs.memory)] if needs.memory else []
    return ", ".join(parts)


def _nodes(cluster: Cluster) -> str:
    return f"{len(cluster.nodes)} node(s): {cluster.cpu:g} CPU, {cluster.gpu:g} GPU"


def shards(plan: Plan, *, sequential: bool) -> Iterator[pa.Table]:
    """Cut the objects to do into shards, each worth one fragment.

    Objects are dealt out in turn, so that a folder of slow objects does not end up in one shard; a `sequential`
    source (rows of a table) is cut in order instead, because neighbours are read together.
    """
    objects = plan.todo.num_rows
    if not objects:
        return
    size = sum(plan.todo["size"].to_pylist())
    workers = plan.pools[0].actors
    number = max(workers * _SHARDS_A_WORKER, ceil(objects / _SHARD_OBJECTS), ceil(size / _SHARD_BYTES))
    number = min(number, objects)
    for index in range(number):
        if sequential:
            start, stop = objects * index // number, objects * (index + 1) // number
            yield plan.todo.slice(start, stop - start)
        else:
            yield plan.todo.take(list(range(index, objects, number)))
