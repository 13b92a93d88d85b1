"""A place becomes its datasets, their quarantines, the list of runs and the ledger. Nothing is created by looking."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raycluster.errors import InvalidUse
from raycluster.lake import store
from raycluster.lake.batches import Batches
from raycluster.lake.decisions import Decisions
from raycluster.lake.deletions import Deletions
from raycluster.lake.events import Events
from raycluster.lake.ledger import Ledger
from raycluster.lake.progress import Told
from raycluster.lake.quarantine import Quarantine
from raycluster.lake.rollbacks import Rollbacks
from raycluster.lake.runs import Runs
from raycluster.lake.table import Table
from raycluster.stage import unknown

DEFAULT = ".raycluster"
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")  # as `sink.dataset` of a workload


@dataclass(frozen=True)
class Lake:
    """Where everything lies: a folder or an object store's prefix, as `--lake` or RAYCLUSTER_LAKE name it."""

    uri: str = DEFAULT

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", store.normal(self.uri))

    def datasets(self) -> list[str]:
        """Return the names of all datasets.

        Raises:
            LakeError: the place cannot be listed.
        """
        found = (name.removesuffix(".lance") for name in store.folders(self.uri) if name.endswith(".lance"))
        return [name for name in found if _NAME.fullmatch(name)]

    def table(self, name: str) -> Table:
        """Return the dataset called `name`, which need not exist yet."""
        return Table(_valid(name), f"{self.uri}/{name}.lance")

    def existing(self, name: str) -> Table:
        """Return the dataset called `name`.

        Raises:
            NotFound: there is none; says the nearest name.
        """
        table = self.table(name)
        if not table.exists():
            raise unknown("dataset", name, self.datasets())
        return table

    def quarantine(self, name: str) -> Quarantine:
        """Return what could not be used of the dataset called `name`."""
        return Quarantine(f"{self.uri}/_quarantine/{_valid(name)}.lance")

    def batches(self) -> Batches:
        """Return what was posted here, object by object."""
        return Batches(self.uri)

    def deletions(self, name: str) -> Deletions:
        """Return what was deleted from the dataset called `name`."""
        return Deletions(f"{self.uri}/_deleted/{_valid(name)}.lance")

    def decisions(self) -> Decisions:
        """Return who was let in here, and who was not."""
        return Decisions(f"{self.uri}/_decisions.lance")

    def runs(self) -> Runs:
        """Return past and present runs."""
        return Runs(f"{self.uri}/_runs.lance")

    def progress(self) -> Told:
        """Return how far runs have come."""
        return Told(f"{self.uri}/_progress")

    def ledger(self) -> Ledger:
        """Return what was consumed here, and what it cost."""
        return Ledger(self.uri)

    def events(self) -> Events:
        """Return what happened that somebody should know: budgets reached, time without an owner."""
        return Events(f"{self.uri}/_events.lance")

    def rollbacks(self) -> Rollbacks:
        """Return past rollbacks, and those that were not finished."""
        return Rollbacks(f"{self.uri}/_rollbacks.lance")


def _valid(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidUse(
            f"{name!r} is not a dataset name",
            fix="use lower-case letters, digits, - and _, 63 at most, with a letter or digit first and last",
        )
    return name
