"""A workload, a cluster and what a dataset already holds become a plan: no Ray, no lake, nothing is changed.

Whoever lists the source and reads the dataset hands both in as iterators, which are compared on disk (`compare.py`);
the engine carries the plan out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.compare import UNREAD, compare
from raycluster.declare.workload import Workload
from raycluster.errors import Unplaceable
from raycluster.place import Cluster, Pool, begin
from raycluster.row import OBJECT

if TYPE_CHECKING:
    from raycluster.lake.generation import Generation

State = Literal["new", "changed", "done", "vanished"]
STATES: tuple[State, ...] = get_args(State)

# A shard is what one worker turns into one fragment. Several a worker keep all of them busy to the end; the bounds
# keep a fragment worth opening (one costs about 1 ms a scan) and little to do again when a worker dies.
_SHARDS_A_WORKER = 8
_SHARD_OBJECTS = 2048
_SHARD_BYTES = 1 << 30
# Each worker's first shard is no larger: the first rows are committed when one is done. 32 objects are half a second
# of a model that takes 15 ms, and one fragment more a worker.
_FIRST_OBJECTS = 32
# A driver takes 8 ms for each shard, and every commit names each one's fragment: beyond so many (of 134 million
# objects, or 70 TB), shards grow instead.
_MOST_SHARDS = 1 << 16
# Where rows travel to a later pool, those of a whole shard are held until it is done: 64 photos are 10 MB.
_TRAVELLING_OBJECTS = 64

# Objects dealt out among shards at a time: a slow folder is spread, yet a table on disk is read nearly in order
# (dealing out 3 x 10^6 objects at once took 0.12 s a shard, of which there are 1,465).
_DEALT_OBJECTS = 1 << 17


@dataclass(kw_only=True)
class Count:
    """Objects and their bytes."""

    objects: int = 0
    size: int = 0

    def add(self, objects: int, size: int) -> None:
        """Count more of them."""
        self.objects += objects
        self.size += size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a workload will do on this cluster and this dataset."""

    workload: Workload
    pools: tuple[Pool, ...]
    counts: dict[State, dict[str, Count]]
    todo: pa.Table = field(repr=False)  # schema `compare.TODO`, mapped from disk
    vanished: pa.ChunkedArray = field(repr=False)  # object ids that the source no longer lists, mapped from disk
    stale: pa.ChunkedArray = field(repr=False)  # ids of older versions that a death has left in quarantine, mapped too
    known_bad: int = 0  # objects that earlier runs found bad, and that the source still lists
    outdated: Mapping[str, int] = field(default_factory=dict)  # modality -> objects whose decoder has changed
    problems: tuple[str, ...] = ()
    base: int = 0  # the dataset's version that the source was compared with; 0: it did not exist
    fill: Generation | None = None  # columns that old rows must get before new rows come
    run_id: str = ""  # of the run that carries it out, where somebody was told before; empty: a new one

    @property
    def listed(self) -> int:
        """Return how many objects the source lists."""
        return sum(self.objects(state) for state in ("new", "changed", "done"))

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the objects to do."""
        return int(pc.sum(self.todo["size"]).as_py() or 0)

    def objects(self, state: State) -> int:
        """Return how many objects are in a state."""
        return sum(count.objects for count in self.counts[state].values())

    @property
    def reasons(self) -> list[str]:
        """Return what is done to old rows and why, a line each, for people."""
        again = [
            f"{modality} objects: {count:,} to work on again (another decoder made them)"
            for modality, count in self.outdated.items()
        ]
        return [*again, *(self.fill.reasons if self.fill else ())]

    def require_placeable(self) -> None:
        """Raise Unplaceable when the cluster cannot hold a stage."""
        if self.problems:
            raise Unplaceable("\n".join(self.problems), fix="change `needs`/`actors`, or run on a larger cluster")

    def looked_into(self, modalities: Iterable[str]) -> Plan:
        """Return the plan with its first objects to do counted as of these modalities; bytes decide when decoded."""
        counts = {state: {name: replace(count) for name, count in of.items()} for state, of in self.counts.items()}
        first = (row for batch in self.todo.select(["size", "is_change"]).to_batches() for row in batch.to_pylist())
        for modality, row in zip(modalities, first, strict=False):
            of = counts["changed" if row["is_change"] else "new"]
            of[UNREAD].add(-1, -row["size"])
            of.setdefault(modality, Count()).add(1, row["size"])
        left = {state: {name: count for name, count in of.items() if count.objects} for state, of in counts.items()}
        return replace(self, counts=left)


def make_plan(
    workload: Workload,
    cluster: Cluster,
    *,
    listed: Iterable[pa.RecordBatch],
    known: Iterable[pa.RecordBatch],
    replay: bool = False,
) -> Plan:
    """Compare what the source lists with what the dataset and its quarantine know, and place the stages.

    Args:
        workload: the declared job.
        cluster: what can be had.
        listed: batches of schema `row.OBJECT`.
        known: batches of schema `compare.KNOWN`.
        replay: do what is `bad` again, settled or not, and leave everything else out of the plan.

    Raises:
        RayclusterError: the disk for temporary files is full.
    """
    pools, problems = begin(workload, cluster)
    compared = compare(listed, known, workload=workload.name, replay=replay)
    counts = {
        state: {modality: Count(objects=n, size=size) for of, modality, n, size in compared.counts if of == state}
        for state in STATES
    }
    return Plan(
        workload=workload,
        pools=pools,
        counts=counts,
        todo=compared.todo,
        vanished=compared.vanished,
        stale=compared.stale,
        known_bad=compared.known_bad,
        outdated=compared.outdated,
        problems=tuple(problems),
    )


def shards(plan: Plan, *, sequential: bool) -> Iterator[pa.Table]:
    """Cut the objects to do into shards, each worth one fragment: tables of `row.OBJECT` and `object_id`.

    Objects are dealt out in turn, so that a folder of slow objects does not end up in one shard; a `sequential`
    source (rows of a table) is cut in order instead, because neighbours are read together.
    """
    todo = plan.todo.select([*OBJECT.names, "object_id"])
    workers = plan.pools[0].actors
    number = min(todo.num_rows, max(workers * _SHARDS_A_WORKER, _fragments(plan, todo.num_rows)))
    first = workers if todo.num_rows > 4 * _FIRST_OBJECTS * number else 0
    yield from _dealt(todo.slice(0, first * _FIRST_OBJECTS), first, sequential=sequential)
    yield from _dealt(todo.slice(first * _FIRST_OBJECTS), number, sequential=sequential)


def _dealt(todo: pa.Table, number: int, *, sequential: bool) -> Iterator[pa.Table]:
    """Cut objects into a number of shards whose sizes differ by one at most."""
    objects = todo.num_rows
    if not number:
        return
    rounds = number if sequential else min(number, ceil(objects / _DEALT_OBJECTS))
    for first, last in pairwise(number * index // rounds for index in range(rounds + 1)):
        start, stop = objects * first // number, objects * last // number
        dealt = todo.slice(start, stop - start)
        for index in range(last - first):
            yield dealt if sequential else dealt.take(pa.array(range(index, dealt.num_rows, last - first)))


def _fragments(plan: Plan, objects: int) -> int:
    """Return how many shards hold the objects to do, if none is too large."""
    by_bytes = ceil(plan.size_bytes / _SHARD_BYTES)
    if len(plan.pools) > 1:  # whole shards are in memory: they cannot grow
        return max(ceil(objects / _TRAVELLING_OBJECTS), by_bytes)
    return min(_MOST_SHARDS, max(ceil(objects / _SHARD_OBJECTS), by_bytes))
