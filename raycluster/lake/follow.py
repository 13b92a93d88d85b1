"""The `live` tag becomes an open dataset that is always at hand: the next version is opened and warmed, then swapped.

A request asks for no tag and opens nothing; one that has begun ends on the version that it began with. That needs no
lease: `live` keeps the present version from being removed, `previous` the one before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from raycluster.errors import NotFound, RayclusterError
from raycluster.lake import store
from raycluster.lake.columns import outside
from raycluster.lake.heat import VECTOR, Heat
from raycluster.lake.hot import Hot
from raycluster.lake.lake import Lake
from raycluster.lake.table import LIVE, Table

log = logging.getLogger(__name__)

# A dataset that nobody has asked for so long is let go, so that a lake of thousands costs looks at those in use only.
_IDLE_SECONDS = 600.0


@dataclass(frozen=True)
class Followed(Table):
    """A dataset whose live version is at hand: `open("live")` returns it, everything else is as in a `Table`."""

    at_hand: Any = field(repr=False, compare=False)
    heated: Mapping[str, Hot] = field(default_factory=dict, repr=False, compare=False)  # by column

    def open(self, version: int | str | None = None, *, cached: bool = False) -> Any:
        """Return Lance's dataset, as `Table.open`; `live` as it was when this value was made."""
        return self.at_hand if version == LIVE else super().open(version, cached=cached)

    @cached_property
    def _inner(self) -> pa.Schema:
        return self.at_hand.schema  # Lance makes it anew each time: 0.1 ms

    @cached_property
    def _outer(self) -> pa.Schema:
        return outside(self._inner)

    def columns_of(self, dataset: Any) -> pa.Schema:
        """Return the columns of a version, as `Table.columns_of`."""
        return self._inner if dataset is self.at_hand else super().columns_of(dataset)

    def schema(self, version: int | str | None = None) -> pa.Schema:
        """Return the columns, as `Table.schema`."""
        return self._outer if version == LIVE else super().schema(version)

    def hot(self, version: int | str | None) -> Mapping[str, Hot]:
        """Return the indexes in memory, as `Table.hot`."""
        return self.heated if version == LIVE else super().hot(version)


class Follower:
    """Keeps the live versions of a lake's datasets at hand, for one process."""

    def __init__(self, lake: Lake, *, every: float = 1.0, heat: Heat | None = None) -> None:
        """Follow a lake, looking for new versions every so many seconds; `heat` keeps their vectors in memory."""
        self.lake, self.every, self.heat = lake, every, heat
        self.looked = time.monotonic()  # when it last was round
        self._held: dict[str, Followed] = {}
        self._asked: dict[str, float] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()  # one opens and warms, the others wait for it

    def start(self) -> None:
        """Begin to look at the tags."""
        if self.heat:
            self.heat.start()
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self.heat:
            self.heat.stop()

    def table(self, name: str) -> Table:
        """Return a dataset, its live version at hand if it has one.

        Raises:
            NotFound: there is no such dataset.
        """
        held = self._held.get(name)
        found = held if held is not None else self._look(name)
        self._asked[name] = time.monotonic()  # only names of datasets: others are anybody's, and without end
        return found

    def holds(self, name: str) -> bool:
        """Tell whether a dataset's live version is at hand: then `table` touches no store."""
        return name in self._held

    def versions(self) -> dict[str, int]:
        """Return the version at hand of each dataset in use."""
        return {name: int(one.at_hand.version) for name, one in list(self._held.items())}

    def catch_up(self, name: str) -> None:
        """Look at a dataset now: who has changed it here sees the change at once."""
        self._look(name)
        self._asked[name] = time.monotonic()

    def _follow(self) -> None:
        while not self._stop.wait(self.every):
            for name in list(self._held):
                if time.monotonic() - self._asked[name] > _IDLE_SECONDS:
                    self._let_go(name)
                    continue
                try:
                    self._look(name)
                except NotFound:  # removed: the next who asks is told so
                    continue
                except RayclusterError as error:  # what is at hand goes on being served
                    log.warning("cannot look for a new version of %s: %s", name, error)
            self.looked = time.monotonic()

    def _look(self, name: str) -> Table:
        with self._lock:
            table, held = self.lake.table(name), self._held.get(name)
            with store.explained(table.uri):
                live = table.live()
            if live is None:
                self._let_go(name)
                return self.lake.existing(name)  # says so where there is none
            if held is not None and int(held.at_hand.version) == live:
                return held
            self._asked.setdefault(name, time.monotonic())
            dataset = _warmed(table.open(live, cached=True))
            hot = self.heat.follow(name, dataset) if self.heat else None
            self._held[name] = Followed(table.name, table.uri, dataset, {} if hot is None else {VECTOR: hot})
            if self.heat:
                self.heat.ask(name, dataset, self._heated)
            return self._held[name]

    def _heated(self, name: str, dataset: Any, hot: Hot) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.at_hand is dataset:  # else the index of the next version comes
                self._held[name] = replace(held, heated={VECTOR: hot})

    def _let_go(self, name: str) -> None:
        self._held.pop(name, None)
        if self.heat:
            self.heat.drop(name)


def _warmed(dataset: Any) -> Any:
    """Return a dataset whose indexes have been read into memory."""
    with store.explained(dataset.uri):
        for index in dataset.describe_indices():
            dataset.prewarm_index(index.name)
    return dataset
