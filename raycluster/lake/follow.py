"""The `live` tag becomes an open dataset that is always at hand: the next version is opened and warmed, then swapped.

A request asks for no tag and opens nothing; one that has begun ends on the version it began with.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from raycluster.errors import RayclusterError
from raycluster.lake.lake import Lake
from raycluster.lake.table import LIVE, Table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Followed(Table):
    """A dataset whose live version is at hand: `open("live")` returns it, everything else is as in a `Table`."""

    at_hand: Any = field(default=None, repr=False, compare=False)

    def open(self, version: int | str | None = None, *, cached: bool = False) -> Any:
        """Return Lance's dataset, as `Table.open`; `live` as it was when this value was made."""
        if version == LIVE and self.at_hand is not None:
            return self.at_hand
        return super().open(version, cached=cached)


class Follower:
    """Keeps the live versions of a lake's datasets at hand, for one process."""

    def __init__(self, lake: Lake, *, every: float = 1.0) -> None:
        self.lake, self.every = lake, every
        self._held: dict[str, Followed] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to look at the tags."""
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def table(self, name: str) -> Table:
        """Return a dataset, its live version at hand.

        Raises:
            NotFound: there is no such dataset.
        """
        if (held := self._held.get(name)) is not None:
            return held
        with self._lock:
            return self._held.get(name) or self._look(name)

    def _follow(self) -> None:
        while not self._stop.wait(self.every):
            for name in list(self._held):
                try:
                    self._look(name)
                except RayclusterError as error:  # what is at hand goes on being served
                    log.warning("cannot look for a new version of %s: %s", name, error)

    def _look(self, name: str) -> Table:
        table = self.lake.existing(name)
        live, held = table.live(), self._held.get(name)
        if live is None:
            return table
        if held is not None and int(held.at_hand.version) == live:
            return held
        followed = Followed(table.name, table.uri, _warmed(table.open(live, cached=True)))
        self._held[name] = followed
        return followed


def _warmed(dataset: Any) -> Any:
    """Return a dataset whose indexes have been read into memory."""
    for index in dataset.describe_indices():
        dataset.prewarm_index(index.name)
    return dataset
