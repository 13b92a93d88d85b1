"""Encoders that are new or changed work on the rows that are there: their columns are computed, nothing else.

Comes before the first new object of a run: what is declared is compared with what made the dataset's columns (`due`),
each fragment that lacks its file is a unit of work (`filler.py`), and one commit shows all of them
(`lake/generation.py`). A driver that dies loses the units it was at; the next run finds the others finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.compare import LOCATED, located
from raycluster.declare.columns import SHARED
from raycluster.declare.workload import Workload, stage_name
from raycluster.engine.filler import UNIT, Filler, Rules
from raycluster.engine.line import Job
from raycluster.engine.pipeline import from_units
from raycluster.errors import CommitConflict, Mismatch
from raycluster.lake.generation import Filled, Generation, Maker, Part, finished, keys, makers, rows
from raycluster.lake.lake import Lake
from raycluster.lake.quarantine import Quarantine
from raycluster.lake.sql import any_of, quoted
from raycluster.lake.table import Table
from raycluster.place import Pool
from raycluster.plan import Plan
from raycluster.units import Resources

_ALL = 1 << 31  # rows
_ROUNDS = 8  # others may add rows while columns are computed; each round has only theirs to do


def made_by(workload: Workload) -> tuple[Maker, ...]:
    """Return what the dataset is to remember of a workload's encoders."""
    return tuple(
        Maker(name=stage_name("encode", one), digest=one.digest, revision=one.revision, columns=tuple(one.writes.names))
        for one in workload.encode
    )


def adopted(workload: Workload) -> Filled:
    """Return the step that only notes by what a workload's columns are made."""
    nothing = Generation(workload=workload.name, columns=pa.schema([]), makers=made_by(workload))
    return Filled(generation=nothing, parts={})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What computing columns says of old rows: which are bad, and which that were bad no longer are."""

    bad: list[dict[str, Any]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)  # ids of rows in quarantine
    objects: int = 0  # that are bad now and were not before, less those of which nothing is bad any more


def judge(plan: Plan, filled: Filled, quarantine: Quarantine) -> Verdict:
    """Compare what could not be computed with what is in quarantine; objects about to be replaced are not bad."""
    bad = [row for part in filled.parts.values() for row in part.bad]
    replaced = pc.list_flatten(plan.todo["replaces"])
    gone = set(
        replaced.filter(pc.is_in(replaced, pa.array([row["object_id"] for row in bad], pa.string()))).to_pylist()
    )
    bad = [row for row in bad if row["object_id"] not in gone]
    mended = [one for part in filled.parts.values() for one in part.mended]
    touched = {row["object_id"] for row in bad}
    for part in any_of("id", mended):
        touched.update(row["object_id"] for row in quarantine.rows(where=part, limit=_ALL))
    left, known = Counter[str](), set[str]()
    for part in any_of("object_id", sorted(touched)):
        for row in quarantine.rows(where=part, limit=_ALL):
            known.add(row["object_id"])
            left[row["object_id"]] += row["id"] not in mended
    now = {row["object_id"] for row in bad} | {one for one, rows in left.items() if rows}
    return Verdict(bad=bad, mended=mended, objects=len(now - known) - len(known - now))


def _bad_before(workload: Workload, encoders: list[Any], table: Table, quarantine: Quarantine) -> Iterator[str]:
    """Yield the ids of old rows that an earlier run could not compute: they are in quarantine and in the dataset."""
    tried = {one.name for one in encoders}
    if any(one.reads != ("text",) for one in encoders):
        tried |= {"read", *(one.name for one in workload.decode)}
    where = f"workload = {quoted(workload.name)} AND stage IN ({', '.join(map(quoted, sorted(tried)))})"
    for part in any_of("id", (row["id"] for row in quarantine.rows(where=where, limit=_ALL))):
        for batch in table.open().scanner(columns=["id"], filter=part).to_batches():
            yield from batch.column("id").to_pylist()


def due(workload: Workload, lake: Lake) -> Generation | None:
    """Return the columns that a workload's old rows must get before new ones come; None when they have all.

    Raises:
        Mismatch: a column would change its type, and others have values in it.
    """
    table = lake.table(workload.sink.dataset)
    if not table.exists():
        return None
    known, schema = makers(table).get(workload.name), table.schema()
    fresh = [at for at, one in enumerate(workload.encode) if _is_fresh(one, known, schema)]
    own = f"provenance.workload = {quoted(workload.name)}"
    present = table.count_rows(filter=own) if fresh else 0
    fields: dict[str, pa.Field] = {}
    stages: list[int] = []
    for at, one in enumerate(workload.encode):
        if at in fresh or fields.keys() & set(one.reads):
            stages.append(at)
            fields |= {written.name: written for written in one.writes}
    for name, written in fields.items():
        if name in schema.names and schema.field(name).type != written.type:
            _require_unused(table, written, f"{name} IS NOT NULL AND NOT ({own})")
    if not present:
        fields = {name: written for name, written in fields.items() if name not in schema.names}
    if not fields:
        return None
    digests = [one.digest for one in (*workload.decode, *workload.encode)]
    had = {maker.name for maker in known or ()}
    return Generation(
        workload=workload.name,
        columns=pa.schema(list(fields.values())),
        makers=made_by(workload),
        due=tuple(stages),
        fresh=tuple(fresh),
        first=tuple(at for at in fresh if stage_name("encode", workload.encode[at]) not in had),
        digest=sha256(json.dumps([workload.name, digests]).encode()).hexdigest()[:16],
        rows=present,
        again=frozenset(
            _bad_before(workload, [workload.encode[at] for at in stages], table, lake.quarantine(table.name))
        ),
        reasons=tuple(_reason(workload.encode[at], known, present, is_fresh=at in fresh) for at in stages),
    )


def others(schema: pa.Schema, generation: Generation | None) -> pa.Schema:
    """Return the columns of `schema` that a generation does not bring."""
    brought = generation.columns.names if generation else []
    return pa.schema([one for one in schema if one.name not in brought])


def _is_fresh(encoder: Any, known: Sequence[Maker] | None, schema: pa.Schema) -> bool:
    types = {one.name: one.type for one in schema}
    if any(types.get(one.name) != one.type for one in encoder.writes):
        return True
    # None: a dataset that does not say what made it; what it holds is taken for made as declared
    return known is not None and encoder.digest not in {maker.digest for maker in known}


def _require_unused(table: Table, written: pa.Field, used: str) -> None:
    if count := table.count_rows(filter=used):
        raise Mismatch(
            f"column {written.name!r} of {table.name!r} would become {written.type}, and {count:,} rows of other "
            "workloads have values in it",
            fix="write to another dataset (sink.dataset), or change the encoder back",
        )


def _reason(encoder: Any, known: Sequence[Maker] | None, count: int, *, is_fresh: bool) -> str:
    before = next((one for one in known or () if one.name == stage_name("encode", encoder)), None)
    if not is_fresh:
        why = "it reads a column that changes"
    elif before is None:
        why = "new encoder"
    elif before.revision != encoder.revision:
        why = f"revision changed from {before.revision or 'none'} to {encoder.revision or 'none'}"
    else:
        why = "its options changed"
    names = [name for name in encoder.writes.names if name not in SHARED] or encoder.writes.names
    return f"column {', '.join(names)}: {count:,} rows to compute ({why})"


def backfill(plan: Plan, job: Job, table: Table, *, progress: Any, settle: Callable[[Filled], None]) -> None:
    """Compute what is due, and hand it to `settle`, which commits it.

    Raises:
        CommitConflict: others brought new rows faster than columns could be computed for them.
    """
    assert plan.fill is not None
    parts: dict[str, Part] = {}
    for remaining in reversed(range(_ROUNDS)):
        version, wanted = keys(table, plan.fill)
        parts |= finished(table, set(wanted.values()) - parts.keys())
        left = {fragment: key for fragment, key in wanted.items() if key not in parts}
        if left and plan.fill.rows:
            units = list(_units(plan, table, version, left))
            parts |= dict(_computed(plan, job, units, progress))
        try:
            return settle(
                Filled(generation=plan.fill, parts={key: parts[key] for key in wanted.values() if key in parts})
            )
        except CommitConflict:
            if not remaining:
                raise
    return None


def _units(plan: Plan, table: Table, version: int, left: Mapping[int, str]) -> Iterator[pa.Table]:
    """Yield one unit a fragment: its key, and where its objects lie if they must be decoded again."""
    assert plan.fill is not None
    references = LOCATED.empty_table()
    if Rules(plan.workload, plan.fill, table.schema(version)).again:
        references = located(plan.workload.source.whole().objects(), _held(table, version, left))
    for fragment, key in left.items():
        own = references.filter(pc.equal(references["fragment"], fragment)).drop_columns(["fragment"])
        unit = {"key": key, "version": version, "fragment": fragment, "references": own.to_pylist()}
        yield pa.Table.from_pylist([unit], UNIT)


def _held(table: Table, version: int, fragments: Iterable[int]) -> Iterator[pa.RecordBatch]:
    """Yield which objects fragments hold."""
    for fragment in fragments:
        for batch in rows(table.uri, version, fragment, {"object_id": "object_id"}):
            ids = batch.column("object_id").unique()
            yield pa.record_batch({"fragment": pa.array([fragment] * len(ids), pa.int64()), "object_id": ids})


def _computed(plan: Plan, job: Job, units: list[pa.Table], progress: Any) -> Iterator[tuple[str, Part]]:
    from ray.data import ActorPoolStrategy

    assert plan.fill is not None
    stages = _due(plan)
    pools = [pool for pool in plan.pools if any(one in pool.stages for one in stages)]
    needs = _most([pool.needs for pool in pools])
    actors = min(len(units), *(pool.actors for pool in pools))
    line = tuple(Pool(stages=some, needs=needs, actors=actors) for some in (plan.workload.decode, stages))
    dataset = from_units(units).map_batches(
        Filler,
        fn_constructor_kwargs={"job": replace(job, pools=line), "generation": plan.fill, "progress": progress},
        batch_size=None,  # one block, one unit
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=needs.cpu,
        num_gpus=needs.gpu or None,
        memory=needs.memory or None,
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in block.to_pylist():
            yield row["key"], Part(**json.loads(row["part"]))


def _due(plan: Plan) -> tuple[Any, ...]:
    return tuple(plan.workload.encode[at] for at in plan.fill.due) if plan.fill else ()


def _most(needs: list[Resources]) -> Resources:
    """Return what a worker occupies that runs stages of several pools in turn."""
    return Resources(
        cpu=max(one.cpu for one in needs), gpu=max(one.gpu for one in needs), memory=max(one.memory for one in needs)
    )
