"""A workload, a cluster and what a dataset already holds become a plan: pure, no Ray, no I/O of its own.

Whoever lists the source and reads the dataset hands both in as iterators; the engine carries the plan out.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, get_args

import pyarrow as pa

from raycluster.declare.workload import Workload
from raycluster.errors import Unplaceable
from raycluster.place import Cluster, Pool, place
from raycluster.row import OBJECT, object_id

State = Literal["new", "changed", "done", "vanished"]
STATES: tuple[State, ...] = get_args(State)

# A shard is what one worker turns into one fragment. Several a worker keep all of them busy to the end; the bounds
# keep a fragment worth opening (one costs about 1 ms a scan) and little to do again when a worker dies.
_SHARDS_A_WORKER = 8
_SHARD_OBJECTS = 2048
_SHARD_BYTES = 1 << 30
# Where rows travel to a later pool, those of a whole shard are held until it is done: 64 photos are 10 MB.
_TRAVELLING_OBJECTS = 64

TODO = OBJECT.append(pa.field("object_id", pa.string(), nullable=False))

# What a dataset and its quarantine know of an object, one row at least. `settled`: it is done, under this very
# declaration; `bad`: some row of it is in quarantine.
KNOWN = pa.schema(
    [
        ("uri", pa.string()),
        ("object_id", pa.string()),
        ("modality", pa.string()),
        ("workload", pa.string()),
        ("settled", pa.bool_()),
        ("bad", pa.bool_()),
    ]
)
UNREAD = "unread"  # the modality of what nobody has looked at


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
class Plan:
    """What a workload will do on this cluster and this dataset."""

    workload: Workload
    pools: tuple[Pool, ...]
    counts: dict[State, dict[str, Count]]
    todo: pa.Table = field(repr=False)  # schema TODO
    # what this run replaces: a changed object's id -> the ids of its older versions
    replaced: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    vanished: tuple[str, ...] = field(default=(), repr=False)  # object ids that the source no longer lists
    known_bad: int = 0  # objects that earlier runs found bad, and that the source still lists
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
    modalities: Callable[[pa.RecordBatch], Iterable[str]] = lambda batch: [UNREAD] * batch.num_rows,
) -> Plan:
    """Compare what the source lists with what the dataset and its quarantine know, and place the stages.

    Args:
        workload: the declared job.
        cluster: what can be had.
        listed: batches of schema `row.OBJECT`.
        known: batches of schema KNOWN.
        modalities: names the modality of each reference of a batch, for the counts only; bytes decide when they are
            decoded.
    """
    pools, problems = place(workload, cluster)
    compared = _Comparison(known, workload.name)
    todo = [wanted for batch in listed if (wanted := compared.judge(batch, modalities)).num_rows]
    compared.count_vanished()
    return Plan(
        workload=workload,
        pools=pools,
        counts=compared.counts,
        todo=pa.Table.from_batches(todo, TODO),
        replaced=compared.replaced,
        vanished=tuple(identity for known in compared.unlisted() for identity in known.identities),
        known_bad=compared.known_bad,
        problems=tuple(problems),
    )


@dataclass(slots=True)
class _Known:
    """What is known of one uri."""

    modality: str
    identities: tuple[str, ...] = ()  # settled: an object with one of these ids is done
    bad: tuple[str, ...] = ()  # ids that have rows in quarantine
    is_own: bool = False  # this workload put it there


class _Comparison:
    """The source against what is known, by 16-byte digest of the uri: 10^6 objects take about 500 MB."""

    def __init__(self, known: Iterable[pa.RecordBatch], workload: str) -> None:
        self.known: dict[bytes, _Known] = {}
        self.listed: set[bytes] = set()
        self.counts: dict[State, dict[str, Count]] = {state: {} for state in STATES}
        self.replaced: dict[str, tuple[str, ...]] = {}
        self.known_bad = 0
        for batch in known:
            for row in batch.to_pylist():
                self._learn(row, workload)

    def _learn(self, row: dict[str, Any], workload: str) -> None:
        one = self.known.setdefault(_key(row["uri"]), _Known(modality=sys.intern(row["modality"] or UNREAD)))
        if row["settled"] and row["object_id"] not in one.identities:
            one.identities += (row["object_id"],)
        if row["bad"] and row["object_id"] not in one.bad:
            one.bad += (row["object_id"],)
        if row["modality"] == "video":  # its sound track is known by it
            one.modality = "video"
        one.is_own |= row["workload"] == workload

    def judge(self, batch: pa.RecordBatch, modalities: Callable[[pa.RecordBatch], Iterable[str]]) -> pa.RecordBatch:
        """Count each listed object, and return those to be done; one listed twice is done once."""
        identities: list[str] = []
        states: list[State | None] = []
        for uri, version, size in zip(*(batch.column(n).to_pylist() for n in ("uri", "version", "size")), strict=True):
            identities.append(object_id(uri, version))
            states.append(self._state(uri, identities[-1], size))
        wanted = [(index, state) for index, state in enumerate(states) if state == "new" or state == "changed"]
        todo = batch.take(pa.array([index for index, _ in wanted], pa.int64()))
        for (index, state), modality in zip(wanted, modalities(todo), strict=True):
            self.counts[state].setdefault(modality, Count()).add(batch.column("size")[index].as_py())
        ids = pa.array([identities[index] for index, _ in wanted], pa.string())
        return pa.RecordBatch.from_arrays([*todo.columns, ids], schema=TODO)

    def _state(self, uri: str, identity: str, size: int) -> State | None:
        """Return the state of an object; None for one that was listed before."""
        key = _key(uri)
        if key in self.listed:
            return None
        self.listed.add(key)
        known = self.known.get(key)
        if known is None:
            return "new"
        if identity in known.identities:
            self.counts["done"].setdefault(known.modality, Count()).add(size)
            self.known_bad += identity in known.bad
            return "done"
        if older := tuple(sorted({*known.identities, *known.bad} - {identity})):
            self.replaced[identity] = older
        return "changed" if known.identities else "new"

    def unlisted(self) -> list[_Known]:
        """Return what this workload knows and the source no longer lists."""
        return [known for key, known in self.known.items() if known.is_own and key not in self.listed]

    def count_vanished(self) -> None:
        """Count the objects that the source no longer lists."""
        for known in self.unlisted():
            self.counts["vanished"].setdefault(known.modality, Count()).add(0)


def _key(uri: str) -> bytes:
    return hashlib.blake2b(uri.encode(), digest_size=16).digest()


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
    most = _SHARD_OBJECTS if len(plan.pools) == 1 else _TRAVELLING_OBJECTS
    number = max(workers * _SHARDS_A_WORKER, ceil(objects / most), ceil(size / _SHARD_BYTES))
    number = min(number, objects)
    for index in range(number):
        if sequential:
            start, stop = objects * index // number, objects * (index + 1) // number
            yield plan.todo.slice(start, stop - start)
        else:
            yield plan.todo.take(list(range(index, objects, number)))
