"""A workload and a lake become a plan: everything is listed, read and checked here, and nothing is changed."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from itertools import chain
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.compare import KNOWN
from raycluster.declare.workload import Workload
from raycluster.engine.backfill import due, others
from raycluster.engine.cluster import connect, here, joins_cluster
from raycluster.errors import QUARANTINE_CODES
from raycluster.lake.columns import dataset_schema
from raycluster.lake.index import require_indexable
from raycluster.lake.lake import Lake
from raycluster.lake.sql import quoted
from raycluster.plan import Plan, make_plan
from raycluster.read import Reference
from raycluster.row import OBJECT
from raycluster.stage import unknown

_PEEKED_OBJECTS = 10_000  # a plan looks into so many objects for their modality; the rest it calls `unread`


def prepare(
    workload: Workload,
    lake: Lake,
    *,
    address: str | None = None,
    peeks: bool = False,
    replay: bool | str = False,
) -> Plan:
    """List the source, read what is known, and plan for the cluster at `address`, or this machine.

    Args:
        workload: the declared job.
        lake: where its dataset lies or will lie.
        address: of a running cluster; None: RAY_ADDRESS, or this machine.
        peeks: look into what is new or changed for its modality; a run does without, it will see.
        replay: plan only for objects that have rows in quarantine, under any code (True) or under this one.

    Raises:
        InvalidUse: the source cannot be listed, or an index is declared on what cannot have it.
        Mismatch: the dataset's columns do not fit.
        NotFound: no such code.
    """
    if isinstance(replay, str) and replay not in QUARANTINE_CODES:
        raise unknown("quarantine code", replay, list(QUARANTINE_CODES))
    table = lake.table(workload.sink.dataset)
    schema = schema_of(workload)
    fill = due(workload, lake)
    table.require_fit(others(schema, fill))
    for index in workload.sink.index:
        require_indexable(SimpleNamespace(schema=schema), index)
    listed = workload.source.objects()
    first = next(listed, None)  # a wrong path is said before Ray starts, which takes seconds
    cluster = connect(address) if joins_cluster(address) else here()  # starting Ray here can wait for `execute`
    base = table.version()  # before what it holds is read: what others commit from here on is theirs
    in_dataset = map(_settled, table.known(base or None, outdated=_outdated(workload)))
    quarantined = lake.quarantine(table.name).known(declaration_digest(workload))
    in_quarantine = (_quarantined(batch, replay if isinstance(replay, str) else None) for batch in quarantined)
    deleted = map(_settled, lake.deletions(table.name).known())
    plan = make_plan(
        workload,
        cluster,
        listed=chain([] if first is None else [first], listed),
        known=chain(in_dataset, in_quarantine, deleted),
        replay=bool(replay),
    )
    return replace(_looked_into(plan) if peeks else plan, base=base, fill=fill)


def _outdated(workload: Workload) -> str:
    """Return in SQL whether another decoder has made a row than the one that the workload declares now.

    Other options are another decoder. Encoders are compared column by column (`backfill.py`), and what other workloads
    brought is theirs.
    """
    made = (
        f"(modality = {quoted(one.modality)} AND NOT array_has(provenance.stages, {quoted(one.label)}))"
        for one in workload.decode
    )
    return f"coalesce(provenance.workload = {quoted(workload.name)} AND ({' OR '.join(made) or 'false'}), false)"


def _settled(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch of the dataset in schema KNOWN."""
    return _known(batch, settled=True, bad=False, again=False)


def _quarantined(batch: pa.RecordBatch, code: str | None) -> pa.RecordBatch:
    """Return a batch of the quarantine in schema KNOWN; a replay tries all of it `again`, or those with this code."""
    return _known(batch, bad=True, outdated=False, again=True if code is None else pc.equal(batch.column("code"), code))


def _known(batch: pa.RecordBatch, **facts: bool | pa.Array) -> pa.RecordBatch:
    for name, fact in facts.items():
        batch = batch.append_column(name, pa.array([fact] * batch.num_rows) if isinstance(fact, bool) else fact)
    return batch.select(KNOWN.names)


def _looked_into(plan: Plan) -> Plan:
    first = plan.todo.select(OBJECT.names).slice(0, _PEEKED_OBJECTS).to_pylist()
    return plan.looked_into(plan.workload.source.modalities([Reference(**row) for row in first]))


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
