"""A workload and the sizes of nodes become what does not fit, and what fits only once nodes have come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raycluster.cluster.look import Finding
from raycluster.cluster.shape import NodeType, Shape
from raycluster.declare.document import At, Document
from raycluster.declare.workload import Workload
from raycluster.place import Cluster, Pool, place, room, show
from raycluster.units import Resources

UNTOLD = 1 << 60  # bytes: of memory that nobody tells, a stage's need is not judged
_MANY = 1_000  # nodes of a type: what does not fit on these, more of them will not help
Sizes = Sequence[tuple[NodeType, Resources | None]]


@dataclass(frozen=True)
class Job:
    """A workload, and the document it stands in."""

    document: Document
    workload: Workload


def misfits(shape: Shape, sizes: Sizes, job: Job) -> Iterator[Finding]:
    """Say which stages no node holds, and which only nodes hold that come later."""
    if any(has is None for one, has in sizes if one.most):
        names = ", ".join(one.name for one, has in sizes if has is None and one.most)
        what = f"what {names} has is told neither here nor by the price list: whether stages fit is not known"
        yield Finding("note", what, shape.where(shape.head.at), "`ray start --num-cpus=N --num-gpus=N --memory=BYTES`")
        return
    largest = _cluster((has, one.most) for one, has in sizes)
    pools, problems = place(job.workload, largest)
    misplaced = list(_misplaced(shape, sizes, job, (pools, largest)))
    yield from misplaced
    if misplaced:
        return
    for problem in problems:
        what = f"on the whole of {shape.name}: {problem}"
        yield Finding("problem", what, _where(job, pools, problem), "change `needs` or `actors`")
    smallest = _cluster((has, one.least) for one, has in sizes)
    later = [] if problems else place(job.workload, smallest)[1]
    for problem in later:
        what = f"only once {shape.name} has grown: {problem}"
        fix = "runs wait where RAYCLUSTER_AUTOSCALER names the autoscaler's file; elsewhere raise min_workers"
        yield Finding("note", what, _where(job, pools, problem), fix)


def _where(job: Job, pools: tuple[Pool, ...], problem: str) -> str:
    """Return where the first stage of the pool stands that a problem of `place` begins with."""
    pool = next((one for one in pools if problem.startswith(f"{one.name} ")), None)
    return job.document.where(_places(job)[id(pool.stages[0])] if pool else ("spec",))


def _cluster(counts: Iterable[tuple[Resources | None, int]]) -> Cluster:
    return Cluster(nodes=tuple(has for has, count in counts if has for _ in range(min(count, _MANY))))


def _misplaced(shape: Shape, sizes: Sizes, job: Job, placed: tuple[tuple[Pool, ...], Cluster]) -> Iterator[Finding]:
    pools, cluster = placed
    told = [(one.name, size) for one, size in sizes if size and one.most]
    has = "; ".join(f"{name}: {show(replace(size, memory=size.memory % UNTOLD))}" for name, size in told)
    for pool in pools:
        if room(pool.needs, cluster):
            continue
        alone = [stage for stage in pool.stages if not room(stage.needs, cluster)]
        for stage in alone or pool.stages:  # none too large alone: they are together, in the same worker
            needs = stage.needs if alone else pool.needs
            what = f"{stage.name} needs {show(needs)} a worker: no node type of {shape.name} has that"
            yield Finding("problem", what, job.document.where(_places(job)[id(stage)]), f"there is {has}")


def _places(job: Job) -> dict[int, At]:
    """Return where each stage stands in its file; an encoder that a decoder brought along stands where decoders do."""
    spec = job.document.value["spec"]
    found: dict[int, At] = {}
    for name, member in zip(spec["decode"], job.workload.decode, strict=True):
        found[id(member)] = ("spec", "decode", name, "needs")
    brought = len(job.workload.encode) - len(spec.get("encode") or [])
    for index, member in enumerate(job.workload.encode):
        at: tuple[Any, ...] = ("encode", index - brought, "needs") if index >= brought else ("decode",)
        found[id(member)] = ("spec", *at)
    for index, member in enumerate(job.workload.check.rules):
        found[id(member)] = ("spec", "check", "rules", index, "needs")
    return found
