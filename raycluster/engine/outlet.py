"""Worked rows become rows of the dataset, rows of the quarantine, and a message about both to the driver."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raycluster.account import meter
from raycluster.engine.line import Job, modalities
from raycluster.errors import RunFailed
from raycluster.row import row_id

# What a worker tells the driver about one unit: fragments that wait for the commit, what became of each object,
# and the bad rows.
MESSAGE = pa.schema(
    [
        ("fragments", pa.list_(pa.string())),
        (
            "objects",
            pa.list_(
                pa.struct([("object_id", pa.string()), ("pieces", pa.int32()), ("ok", pa.int32()), ("bad", pa.int32())])
            ),
        ),
        (
            "bad",
            pa.list_(
                pa.struct(
                    [(name, pa.string()) for name in ("object_id", "uri", "modality", "stage", "code", "message")]
                    + [("position", pa.int32()), ("passes", pa.bool_())]
                )
            ),
        ),
    ]
)


class Outlet:
    """Sorts the rows of one unit into good and bad, and counts them by object."""

    def __init__(self, job: Job, missing: Collection[str] = ()) -> None:
        self.job = job
        self.missing = missing  # stages whose package is not installed here: what they refuse may pass elsewhere
        self.schema: pa.Schema = job.sink.schema
        self.objects: dict[str, list[int]] = {}  # object_id -> pieces, ok, bad
        self.bad: list[dict[str, Any]] = []
        self._provenance = provenance(job)

    def good(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the dataset's batches; keep the verdicts of bad rows and the counts."""
        for rows in batches:
            is_bad = rows.column("error").is_valid().to_numpy(False)
            self._count(rows, is_bad)
            if is_bad.any():
                self._keep(rows.filter(pa.array(is_bad)))
                rows = rows.filter(pa.array(~is_bad))
            meter.lap("write", modalities(rows))
            meter.count(rows_in=rows.num_rows, rows_out=rows.num_rows)
            if rows.num_rows:
                yield self._shape(rows)

    def message(self, fragments: list[str]) -> pa.Table:
        """Return what the driver needs to know, one row of schema MESSAGE."""
        objects = [
            {"object_id": one, "pieces": pieces, "ok": ok, "bad": bad}
            for one, (pieces, ok, bad) in self.objects.items()
        ]
        return pa.Table.from_pylist([{"fragments": fragments, "objects": objects, "bad": self.bad}], MESSAGE)

    def _count(self, rows: pa.RecordBatch, is_bad: Any) -> None:
        identities = rows.column("object_id").to_pylist()
        for identity, pieces, bad in zip(identities, rows.column("pieces").to_pylist(), is_bad, strict=True):
            sums = self.objects.setdefault(identity, [pieces, 0, 0])
            sums[2 if bad else 1] += 1

    def _keep(self, rows: pa.RecordBatch) -> None:
        if self.job.workload.check.on_bad == "fail":
            first = rows.slice(0, 1).to_pylist()[0]
            error = first["error"]
            raise RunFailed(
                f"{first['uri']}: {error['code']}: {error['message']}",
                fix="mend or exclude the object, or set check.on_bad to quarantine",
            )
        for row in rows.select(["object_id", "uri", "modality", "position", "stage", "error"]).to_pylist():
            error = row.pop("error")
            passes = error["code"] == "unreadable" or row["stage"] in self.missing
            self.bad.append({**row, **error, "passes": passes})

    def _shape(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows with exactly the dataset's columns, in its order."""
        now = datetime.now(UTC)
        made = {
            "id": pa.array(map(row_id, *(rows.column(n).to_pylist() for n in ("object_id", "modality", "position")))),
            "provenance": pa.array([self._provenance] * rows.num_rows, self.schema.field("provenance").type),
            "ingested_at": pa.array([now] * rows.num_rows, self.schema.field("ingested_at").type),
        }
        columns = []
        for field in self.schema:
            if field.name in made:
                columns.append(made[field.name])
            elif field.name in rows.schema.names:
                columns.append(rows.column(field.name))
            else:
                columns.append(pa.nulls(rows.num_rows, field.type))
        return pa.RecordBatch.from_arrays(columns, names=self.schema.names)


def provenance(job: Job) -> dict[str, Any]:
    """Return what is said of every row's origin: run, workload, stages with digests, models with revisions."""
    stages = [stage for pool in job.pools for stage in pool.stages]
    return {
        "run_id": job.run_id,
        "workload": job.workload.name,
        "stages": [stage.label for stage in stages],
        "models": [stage.revision for stage in stages if stage.revision],
    }
