"""A lake and what a replica serves of it become figures for Prometheus: runs, quarantine, versions, recall.

They are looked up beside the requests, at most every fifteen seconds, and only while somebody asks; a lake that does
not answer leaves the last ones, and `raycluster_lake_up` at 0.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args

from prometheus_client.metrics_core import Metric

from raycluster.errors import RayclusterError
from raycluster.lake.follow import Follower
from raycluster.lake.lake import Lake
from raycluster.lake.probe import recall, unindexed
from raycluster.lake.progress import is_stale
from raycluster.lake.runs import Run, Status
from raycluster.serve import spent
from raycluster.serve.seldom import Seldom
from raycluster.serve.spent import gauge

_LOOK_SECONDS = 15.0
_PROBE_SECONDS = 600.0  # of each dataset in use; some seconds of a core
_PATIENCE_SECONDS = 2.0  # Prometheus gives up after ten by default
_FRESH_SECONDS = 60.0  # figures as young as this are told at once, and newer ones the next time

_log = logging.getLogger(__name__)


class Figures:
    """What the lake holds and how well this replica searches it: a collector of Prometheus's client."""

    def __init__(self, lake: Lake, follower: Follower) -> None:
        self.lake, self.follower = lake, follower
        self.look = Seldom(self._look, every=_LOOK_SECONDS)
        self.probe = Seldom(self._probe, every=_PROBE_SECONDS)
        self.bill = Seldom(self._bill, every=spent.SETTLE_SECONDS)
        self._families: list[Metric] = []
        self._costs: list[Metric] = []
        self._recalls: dict[str, float] = {}

    def collect(self) -> Iterable[Metric]:
        """Return the figures; a look at the lake is begun where one is due, and not waited for for long."""
        if self.follower.versions():  # else the first datasets in use would wait for the second round
            self.probe.nudge()
        self.bill.nudge()
        is_fresh = time.monotonic() - self.look.succeeded < _FRESH_SECONDS
        is_done = self.look.nudge(0.0 if is_fresh else _PATIENCE_SECONDS)
        up = gauge("lake_up", "1 where the last look at the lake went well.")
        up.add_metric([], float(is_done or (is_fresh and not self.look.trouble)))
        behind = gauge("follower_seconds", "Since this replica last looked for new versions.")
        behind.add_metric([], time.monotonic() - self.follower.looked)
        return [up, behind, *self._served(), *self._families, *self._costs]

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry need not look into the lake to know names."""
        return []

    def _look(self) -> None:
        self._families = [*self._runs(), *self._datasets()]

    def _bill(self) -> None:
        settler = spent.settler(self.lake)
        settler.nudge(wait=spent.SETTLE_SECONDS)  # what goes wrong there is logged; the figures are then older ones
        self._costs = spent.figures(self.lake)

    def _served(self) -> list[Metric]:
        version = gauge("search_version", "The version that this replica searches.", "dataset")
        recalls = gauge("search_recall", "Recall at 10 of searches, against brute force.", "dataset")
        served = self.follower.versions()
        for name, number in served.items():
            version.add_metric([name], number)
            if name in self._recalls:
                recalls.add_metric([name], self._recalls[name])
        return [version, recalls, *self._hot()]

    def _hot(self) -> list[Metric]:
        state = gauge("hot_state", "1 for how a dataset's vectors are held in memory.", "dataset", "state")
        rows = gauge("hot_rows", "Rows that are searched in memory.", "dataset")
        size = gauge("hot_bytes", "What they take, about, shared by this machine's replicas.", "dataset")
        for name, told in (self.follower.heat.told() if self.follower.heat else {}).items():
            state.add_metric([name, told.state], 1)
            rows.add_metric([name], told.rows)
            size.add_metric([name], told.bytes)
        return [state, rows, size]

    def _probe(self) -> None:
        for name in self.follower.versions():
            if (found := recall(self.lake.table(name))) is not None:
                self._recalls[name] = found

    def _runs(self) -> list[Metric]:
        runs = self.lake.runs().recent(limit=None)
        states = Counter(one.status for one in runs)
        count = gauge("runs", "Runs by how they stand; `stale` ones say that they run, and are silent.", "status")
        ended = gauge("run_ended_timestamp_seconds", "When one last ended so.", "workload", "dataset", "status")
        latest: dict[tuple[str, ...], float] = {}
        for one in runs:
            if one.finished_at is not None:
                key = (one.workload, one.dataset, one.status)
                latest[key] = max(latest.get(key, 0.0), one.finished_at.timestamp())
        for labels, moment in latest.items():
            ended.add_metric(labels, moment)
        live, stale = self._live([one for one in runs if one.status == "running"])
        for status in get_args(Status):
            count.add_metric([status], states[status])
        count.add_metric(["stale"], stale)
        return [count, ended, *live]

    def _live(self, runs: list[Run]) -> tuple[list[Metric], int]:
        """Return how far live runs have come, and how many of them are silent."""
        says = {
            "rows": "Rows that live runs have made.",
            "left_seconds": "Until live runs are done, at their rate.",
            "cost_usd": "What live runs have cost so far, as far as it is settled.",
        }
        sums: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in says}
        stale = 0
        for one in runs:
            told = self.lake.progress().get(one.run_id)
            stale += is_stale(one, told)
            for name in says:
                if told and told.get(name) is not None:
                    sums[name][one.workload, one.dataset] += told[name]
        families: list[Metric] = []
        for name, said in says.items():
            family = gauge(f"run_{name}", said, "workload", "dataset")
            for labels, value in sums[name].items():
                family.add_metric(labels, value)
            families.append(family)
        return families, stale

    def _datasets(self) -> list[Metric]:
        families = {
            "dataset_up": gauge("dataset_up", "1 where a dataset can be read.", "dataset"),
            "live": gauge("dataset_live_version", "The version that readers are to see.", "dataset"),
            "rows": gauge("dataset_rows", "Rows of that version.", "dataset"),
            "missed": gauge("search_unindexed_rows", "Rows that an index does not cover.", "dataset", "index"),
            "bad": gauge("quarantined_rows", "Rows in quarantine.", "dataset", "code"),
        }
        for name in self.lake.datasets():
            try:
                self._dataset(name, families)
                families["dataset_up"].add_metric([name], 1)
            except RayclusterError as error:  # the others are still told of
                _log.warning("nothing is told of dataset %s: %s", name, error)
                families["dataset_up"].add_metric([name], 0)
        return list(families.values())

    def _dataset(self, name: str, families: dict[str, Any]) -> None:
        table = self.lake.table(name)
        version = table.live()
        for code, number in self.lake.quarantine(name).counts().items():
            families["bad"].add_metric([name, code], number)
        if version is None:
            return
        families["live"].add_metric([name], version)
        families["rows"].add_metric([name], table.count_rows(version=version))
        for index, number in unindexed(table, version).items():
            families["missed"].add_metric([name, index], number)
