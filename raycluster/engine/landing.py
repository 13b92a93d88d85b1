"""What workers have made becomes part of the lake: good rows in commits, bad ones in quarantine, in the right order.

Within a landing: first the bad rows of objects whose other rows are good, then the good rows, then the objects of which
nothing could be used. An object counts as done only by the last of these, so a death in between makes it to be done
again, never lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from raycluster.declare.workload import declaration, dump
from raycluster.engine.summary import Summary
from raycluster.engine.tally import Ready, Tally
from raycluster.lake.commit import Change, Landed, commit
from raycluster.lake.generation import Filled
from raycluster.lake.lake import Lake
from raycluster.lake.write import files
from raycluster.plan import Plan

# At most so much work is done again when everything dies. A commit takes milliseconds (57 at 1,000 fragments), more on
# a slow store or a very large table: there the pause grows, so commits never take more than this share of its time.
_COMMIT_EVERY_SECONDS = 5.0
_COMMIT_SHARE = 0.05


class Landing:
    """One run's way into the lake. What it commits is counted in the run's summary."""

    def __init__(self, plan: Plan, lake: Lake, summary: Summary) -> None:
        self.workload, self.summary = plan.workload, summary
        self.table = lake.table(plan.workload.sink.dataset)
        self.quarantine = lake.quarantine(self.table.name)
        self.tally = Tally(plan.todo)
        self.declared = [declaration("encode", stage) for stage in self.workload.encode]
        self.declared += [declaration("decode", stage) | {"family": "decode"} for stage in self.workload.decode]
        self.base = plan.base or 1  # version 1 of a dataset is empty
        self.own: set[str] = set()  # files that this run committed
        self.spans: dict[str, tuple[str, str]] = {}  # of others' files
        self.ready: Ready | None = None  # taken from the tally, not yet landed for certain
        self.next = 0.0  # when to land; monotonic seconds

    @property
    def is_due(self) -> bool:
        """Tell whether enough time has passed since the last one."""
        return time.monotonic() > self.next

    def land_all(self) -> None:
        """Finish a landing that was interrupted, then land the rest."""
        if self.ready is not None:
            self.land()
        self.land()

    def land(self) -> None:
        """Commit what is whole, and record the bad rows. Tried again after an interruption, it lands nothing twice."""
        started = time.monotonic()
        self.ready = self.ready or self.tally.take()
        ready = self.ready
        lost = set(ready.lost)
        self.record([row for row in ready.bad if row["object_id"] not in lost])
        if not ready.is_committed and (ready.fragments or ready.replaced):
            landed = self.commit(fragments=ready.fragments, removed=ready.replaced)
            self.summary.rows += landed.added
            self.summary.replaced += landed.removed
            self.ready = replace(ready, is_committed=True)  # once more, and what it replaces would be itself
        self.record([row for row in ready.bad if row["object_id"] in lost], settled_by=self.summary.declaration)
        self.quarantine.remove(ready.replaced, except_run=self.summary.run_id)
        self.ready, now = None, time.monotonic()
        self.next = now + max(_COMMIT_EVERY_SECONDS, (now - started) / _COMMIT_SHARE)

    def record(self, bad: list[dict[str, Any]], settled_by: str | None = None) -> None:
        """Put bad rows into quarantine, where the workload wants that."""
        if self.workload.check.on_bad != "quarantine":
            return
        rows = [row | {"settled_by": None if row["passes"] else settled_by} for row in bad]
        for row in rows:
            del row["passes"]
        self.quarantine.add(rows, run_id=self.summary.run_id, workload=self.workload.name)

    def commit(
        self,
        *,
        fragments: Sequence[str] = (),
        removed: Sequence[str] = (),
        fence: Literal["take", "hold", "release"] = "hold",
        filled: Filled | None = None,
    ) -> Landed:
        """Commit one change, under the run's fence; see `lake/commit.py`."""
        change = Change(
            run_id=self.summary.run_id,
            workload=self.workload.name,
            fragments=fragments,
            removed=removed,
            base=self.base,
            encoders=self.declared if fence == "take" else None,
            declaration={"digest": self.summary.declaration, "yaml": dump(self.workload)} if fence == "take" else {},
            fence=fence,
            own=self.own,
            spans=self.spans,
            filled=filled,
        )
        landed = commit(self.table, change)
        self.own.update(name for fragment in fragments for name in files(fragment))
        self.summary.version = landed.version
        return landed
