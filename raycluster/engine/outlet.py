"""Worked rows become rows of the dataset, rows of the quarantine, and the sums that prove none was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raycluster.engine.line import Job
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
                    + [("position", pa.int32())]
                )
            ),
        ),
    ]
)


class Outlet:
    """Sorts the rows of one unit into good and bad, and counts them by object."""

    def __init__(self, job: Job) -> None:
        self.job = job
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
            self.bad.append({**row, **row.pop("error")})

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
        "stages": [f"{stage.name}@{stage.digest}" for stage in stages],
        "models": [stage.revision for stage in stages if stage.revision],
    }


class Tally:
    """The driver's books: messages come in, sums and the proof of conservation come out."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[int]] = {}  # objects whose rows came in part: object_id -> pieces, ok, bad
        self.objects = Counter[str]()  # "ok": in the dataset, "bad": wholly in quarantine
        self.touched = 0  # objects with any bad row
        self.rows = Counter[str]()  # "ok", "bad"
        self.codes = Counter[str]()

    def add(self, message: dict[str, Any]) -> None:
        """Enter one message of schema MESSAGE."""
        for one in message["objects"]:
            sums = self.waiting.setdefault(one["object_id"], [one["pieces"], 0, 0])
            sums[1] += one["ok"]
            sums[2] += one["bad"]
            if sums[1] + sums[2] >= sums[0]:
                self._close(one["object_id"])
        for bad in message["bad"]:
            self.codes[bad["code"]] += 1

    def _close(self, identity: str) -> None:
        pieces, ok, bad = self.waiting.pop(identity)
        if ok + bad != pieces:
            raise RunFailed(f"object {identity} was decoded into {pieces} rows, but {ok + bad} came out")
        self.objects["ok" if ok else "bad"] += 1
        self.touched += bad > 0
        self.rows["ok"] += ok
        self.rows["bad"] += bad

    def require_conservation(self, *, objects: int, committed: int) -> None:
        """Prove that nothing was lost or doubled.

        Args:
            objects: how many the plan wanted done.
            committed: how many rows the fragments of this run hold, by their own count.

        Raises:
            RunFailed: the sums do not add up; `live` must not move.
        """
        if self.waiting:
            raise RunFailed(f"{len(self.waiting)} objects came out in part only", fix="run it again")
        accounted = self.objects.total()
        if accounted != objects:
            raise RunFailed(f"{objects} objects went in, {accounted} came out", fix="run it again")
        if committed != self.rows["ok"]:
            raise RunFailed(f"{self.rows['ok']} good rows came out, {committed} were written", fix="run it again")
