"""Stages and a cluster become pools of workers, or the reasons why they cannot: the half of a plan about where.

Pure. `plan.py` asks; the engine starts as many actors as a pool says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import Any

from raycluster.declare.workload import Workload
from raycluster.units import Resources, show_bytes

_LEAST_CPU = 0.01  # of a worker that says it needs none
_MOST_A_NODE = 64  # workers of a pool that needs nothing


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What can be had: the free-standing capacity of every node, since a worker must fit on one."""

    nodes: tuple[Resources, ...]
    largest: tuple[Resources, ...] = ()  # the nodes once an autoscaler has started all that it may; empty: it has none

    @property
    def grown(self) -> Cluster:
        """Return the cluster as it may become."""
        most = Cluster(nodes=self.largest)
        return most if most.cpu > self.cpu or most.gpu > self.gpu else Cluster(nodes=self.nodes)

    @property
    def cpu(self) -> float:
        """Return the cores of all nodes."""
        return sum(node.cpu for node in self.nodes)

    @property
    def gpu(self) -> float:
        """Return the GPUs of all nodes."""
        return sum(node.gpu for node in self.nodes)


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


def begin(workload: Workload, cluster: Cluster) -> tuple[tuple[Pool, ...], list[str]]:
    """Return pools for the nodes that are there, or why the cluster cannot hold them, however large it grows.

    What fits only once more nodes have come waits for them with a worker at least: that is how an autoscaler learns
    of it.
    """
    pools, problems = place(workload, cluster)
    if problems and cluster.largest:
        pools, problems = place(workload, cluster.grown)
        pools = tuple(replace(pool, actors=max(1, min(pool.actors, room(pool.needs, cluster)))) for pool in pools)
    return pools, problems


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
    sizes = [_declared_size(group, cluster, problems) for group in groups]
    for index in sorted(range(len(groups)), key=lambda index: not _join(groups[index]).gpu):  # GPU pools come first
        if sizes[index] is None:
            sizes[index] = _share(_join(groups[index]), groups, sizes, cluster)
    pools = tuple(
        Pool(stages=tuple(group), needs=_join(group), actors=size or 1)
        for group, size in zip(groups, sizes, strict=True)
    )
    return pools, problems or _shortages(pools, cluster)


def _share(needs: Resources, groups: list[list[Any]], sizes: list[int | None], cluster: Cluster) -> int:
    """Return how many workers a pool gets of what the pools sized before it have left.

    Pools that need a GPU share the GPUs, and leave one CPU to each pool that does not; those share what is left.
    """
    joined = [_join(group) for group in groups]
    taken = [(size, other) for size, other in zip(sizes, joined, strict=True) if size is not None]
    later = [other for size, other in zip(sizes, joined, strict=True) if size is None]
    alike = sum(1 for other in later if bool(other.gpu) == bool(needs.gpu))
    cpu = cluster.cpu - sum(size * other.cpu for size, other in taken) - (len(later) - alike)
    limits = [room(needs, cluster), floor(cpu / alike / max(needs.cpu, _LEAST_CPU) + 1e-9)]
    if needs.gpu:
        gpu = cluster.gpu - sum(size * other.gpu for size, other in taken)
        limits.append(floor(gpu / alike / needs.gpu + 1e-9))
    return max(1, min(limits))


def _shortages(pools: tuple[Pool, ...], cluster: Cluster) -> list[str]:
    """Say of what the pools, running side by side, ask more than there is."""
    found = []
    for what, have in (("cpu", cluster.cpu), ("gpu", cluster.gpu)):
        asked = sum(pool.actors * float(getattr(pool.needs, what)) for pool in pools)
        if asked > have + 1e-9:
            names = ", ".join(f"{pool.name} {pool.actors} x {getattr(pool.needs, what):g}" for pool in pools)
            found.append(f"the pools ask for {asked:g} {what.upper()}s ({names}), the cluster has {have:g}")
    return found


def _is_alone(group: list[Any]) -> bool:
    return any(stage.needs.gpu > 0 or getattr(stage, "actors", None) is not None for stage in group)


def _join(group: list[Any]) -> Resources:
    """Return what a worker of a group occupies: stages run in turn, so the most of each counts."""
    return Resources(
        cpu=max(stage.needs.cpu for stage in group),
        gpu=max(stage.needs.gpu for stage in group),
        memory=max(stage.needs.memory for stage in group),
    )


def _declared_size(group: list[Any], cluster: Cluster, problems: list[str]) -> int | None:
    """Return the actors of a pool whose size does not depend on the others, and note why it cannot be placed.

    A pool with `actors` has as many; GPU pools share the GPUs, the rest the CPUs that are left over.
    """
    needs = _join(group)
    most = room(needs, cluster)
    wanted = max((stage.actors for stage in group if getattr(stage, "actors", None)), default=None)
    names = "+".join(stage.name for stage in group)
    if most == 0:
        problems.append(f"{names} needs {show(needs)} a worker: no node of this cluster has that ({_nodes(cluster)})")
    elif wanted is not None and wanted > most:
        problems.append(f"{names} wants {wanted} actors of {show(needs)}: only {most} fit ({_nodes(cluster)})")
    return wanted


def room(needs: Resources, cluster: Cluster) -> int:
    """Return how many workers the nodes hold."""
    return sum(_fit(needs, node) for node in cluster.nodes)


def _fit(needs: Resources, node: Resources) -> int:
    limits = [
        floor(have / want + 1e-9)
        for want, have in ((needs.cpu, node.cpu), (needs.gpu, node.gpu), (needs.memory, node.memory))
        if want > 0
    ]
    return min(limits, default=_MOST_A_NODE)


def show(needs: Resources) -> str:
    """Write for people what a worker needs, or a node has."""
    parts = [f"{needs.cpu:g} CPU"]
    parts += [f"{needs.gpu:g} GPU"] if needs.gpu else []
    parts += [show_bytes(needs.memory)] if needs.memory else []
    return ", ".join(parts)


def _nodes(cluster: Cluster) -> str:
    return f"{len(cluster.nodes)} node(s): {cluster.cpu:g} CPU, {cluster.gpu:g} GPU"
