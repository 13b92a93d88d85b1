"""What was posted to a lake over HTTP becomes objects: uploads that landed there, and what URIs name.

The source of the runs that `engine/intake.py` starts. Which URIs may be posted is asked before they land
(`serve/sources.py`); here they are read as they were named: a redirect is not followed, since it would lead to where
nobody allowed to read, and what a store refuses goes to quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from raycluster.lake.lake import Lake
from raycluster.read import Reference
from raycluster.read._listing import batches, reference
from raycluster.read._load import Loading
from raycluster.read._named import Once, look_up
from raycluster.read._store import Found, Store
from raycluster.read._stores import store_of
from raycluster.row import Media


@dataclass(frozen=True, kw_only=True)
class Posted(Loading):
    """Objects that were posted to a dataset: of the batches that one run takes, or all of them ever."""

    lake: str
    dataset: str
    run: str = ""  # the run's id; empty: all

    def objects(self) -> Iterator[pa.RecordBatch]:
        """List the objects of the batches, each once."""
        uris = Lake(self.lake).batches().uris(self.dataset, self.run)
        return batches(map(reference, look_up(uris, once=Once(), timeout=self.timeout, posted=True)))

    def whole(self) -> Self:
        """Return the source of all that was ever posted to the dataset."""
        return replace(self, run="")

    def store(self, uri: str) -> Store:
        """Return the store that a uri lies in, which may not send on to another address."""
        return store_of(uri, timeout=self.timeout, redirects=False)

    def get(self, reference: Reference) -> Media:
        """Return one object with its bytes."""
        return self.load(reference, Found(reference.uri, reference.version, reference.size))

    def peek(self, reference: Reference, size: int = 4096) -> bytes:
        """Return the first bytes of an object."""
        return self.head(reference.uri, size)
