"""A workload and a lake become a plan: everything is listed, read and checked here, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from raycluster.declare.workload import Workload
from raycluster.engine.cluster import connect, here, joins_cluster
from raycluster.lake.columns import dataset_schema
from raycluster.lake.index import require_indexable
from raycluster.lake.lake import Lake
from raycluster.plan import KNOWN, UNREAD, Plan, make_plan
from raycluster.read import Reference

_PEEKED_OBJECTS = 10_000  # a plan looks into so many objects for their modality; the rest it calls `unread`


def prepare(workload: Workload, lake: Lake, *, address: str | None = None, peeks: bool = False) -> Plan:
    """List the source, read what is known, and plan for the cluster at `address`, or this machine.

    `peeks`: look into what is new or changed for its modality; a run does without, it will see.

    Raises:
        InvalidUse: the source cannot be listed, or an index is declared on what cannot have it.
        Mismatch: the dataset's columns do not fit.
    """
    table = lake.table(workload.sink.dataset)
    schema = schema_of(workload)
    table.require_fit(schema)
    for index in workload.sink.index:
        require_indexable(SimpleNamespace(schema=schema), index)
    listed = workload.source.objects()
    first = next(listed, None)  # a wrong path is said before Ray starts, which takes seconds
    cluster = connect(address) if joins_cluster(address) else here()  # starting Ray here can wait for `execute`
    base = table.version()  # before what it holds is read: what others commit from here on is theirs
    in_dataset = (_known(batch, settled=True) for batch in table.known(base or None))
    in_quarantine = (_known(batch) for batch in lake.quarantine(table.name).known(declaration_digest(workload)))
    modalities = {"modalities": _peeker(workload.source)} if peeks else {}
    plan = make_plan(
        workload,
        cluster,
        listed=_chain([] if first is None else [first], listed),
        known=_chain(in_dataset, in_quarantine),
        **modalities,
    )
    return replace(plan, base=base)


def _chain(*parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from part


def _known(batch: pa.RecordBatch, *, settled: bool = False) -> pa.RecordBatch:
    """Return a batch of schema `plan.KNOWN`: of the dataset (all of it settled), or of the quarantine (all bad)."""
    if settled:
        batch = batch.append_column("settled", pa.array([True] * batch.num_rows))
    bad = pa.array([not settled] * batch.num_rows)
    return batch.append_column("bad", bad).select(KNOWN.names)


def _peeker(source: Any) -> Callable[[pa.RecordBatch], Iterable[str]]:
    left = [_PEEKED_OBJECTS]

    def modalities(batch: pa.RecordBatch) -> Iterator[str]:
        references = [Reference(**row) for row in batch.slice(0, max(0, left[0])).to_pylist()]
        left[0] -= batch.num_rows
        yield from source.modalities(references)
        yield from islice(iter(lambda: UNREAD, None), batch.num_rows - len(references))

    return modalities


def declaration_digest(workload: Workload) -> str:
    """Return what changes when any of a workload's stages does: under it, what is in quarantine stays there."""
    stages = (*workload.decode, *workload.encode, *workload.check.rules)
    return sha256(" ".join([workload.name, *(stage.digest for stage in stages)]).encode()).hexdigest()[:16]


def schema_of(workload: Workload) -> pa.Schema:
    """Return the columns that a workload's dataset has."""
    fields = {f.name: f for stage in workload.encode for f in stage.writes}
    vector = fields.pop("vector", None)
    width = vector.type.list_size if vector is not None else 384
    return dataset_schema(pa.schema(list(fields.values())), width)
