"""What was posted becomes batches: their bytes lie below `_landed/`, and one row each in `_batches.lance` says of what.

A batch is there once its row is, which is written after all of its bytes: a post that breaks off leaves no part of
itself. The row is the only list of its objects, so that the run that takes it (`engine/intake.py`) reads exactly them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from raycluster.errors import NotFound
from raycluster.lake import store
from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register
from raycluster.lake.sql import quoted

# Of a batch: `landed`: a run is to take it; `done`: one has, and what could not be used is in quarantine.
State = Literal["landed", "done", "failed"]

_YOUNG = timedelta(days=1)  # no post takes longer between its first byte and its row

SCHEMA = pa.schema(
    [
        pa.field("batch_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("dataset", pa.string()),
        ("workload", pa.string()),
        ("by", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("digest", pa.string()),
        ("state", pa.string()),
        ("run_id", pa.string()),
        ("attempts", pa.int32()),
        ("message", pa.string()),
        ("objects", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one request has brought."""

    batch_id: str
    dataset: str
    workload: str  # whose declaration it is worked on by
    by: str  # who posted it
    at: datetime
    digest: str  # of what was posted: the same again, or something else under the same key
    objects: tuple[dict[str, Any], ...]  # `uri`, and `name` and `size` where its bytes came with the request
    state: State = "landed"
    run_id: str = ""  # the last run that was to take it
    attempts: int = 0  # runs that have tried
    message: str = ""  # why it failed


def new_id() -> str:
    """Return an id that sorts by time and was never used."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Batches:
    """What was posted to one lake."""

    lake: str

    @property
    def uri(self) -> str:
        """Return where the rows lie."""
        return f"{self.lake}/_batches.lance"

    def land(self, dataset: str, files: Iterable[tuple[str, IO[bytes]]]) -> list[str]:
        """Write files, each by its name, into a new folder; return their uris. Written all, or none.

        Each lies in a folder of its own, so that two of one name do not meet.
        """
        folder = f"{self._landed(dataset)}/{new_id()}"
        uris: list[str] = []
        try:
            for index, (name, content) in enumerate(files):
                place = f"{folder}/{index}/{name}"
                uris.append(_uri(place))
                store.put(place, content)
        except BaseException:
            self.discard(dataset, uris)
            raise
        return uris

    def discard(self, dataset: str, uris: Iterable[str]) -> int:
        """Delete those of these objects whose bytes landed here; return how many there were.

        A dataset may have been made by a stranger, and its uris lead anywhere: up and out of here, too.
        """
        own = f"{_uri(self._landed(dataset))}/"
        places = (_place(uri) for uri in uris if uri.startswith(own))
        return sum(store.remove(place) for place in places if ".." not in place.split("/"))

    def sweep(self, dataset: str) -> int:
        """Delete bytes that landed and are of no batch, whose post died over it; return how many objects."""
        root = self._landed(dataset)
        young = datetime.now(UTC) - _YOUNG
        found = {_uri(f"{root}/{path}"): at for path, at in store.modified(root).items()}
        old = {uri for uri, at in found.items() if at is not None and at < young}
        return self.discard(dataset, old.difference(self.uris(dataset))) if old else 0

    def claim(self, batch: Batch) -> Batch:
        """Enter a batch, unless there is one with its id; return the one that is there."""
        if self._register.add(_table(batch)):
            return batch
        found = self.get(batch.batch_id)
        assert found is not None  # rows of this list are never removed
        return found

    def put(self, batch: Batch) -> None:
        """Write a batch's present state over its last one."""
        self._register.put(_table(batch))

    def get(self, batch_id: str) -> Batch | None:
        """Return one batch, if there is one."""
        found = self._register.get([batch_id])
        return _batch(found[batch_id]) if batch_id in found else None

    def require(self, batch_id: str) -> Batch:
        """Return one batch.

        Raises:
            NotFound: there is none.
        """
        if (found := self.get(batch_id)) is None:
            raise NotFound(f"there is no batch {batch_id!r}")
        return found

    def landed(self, run_id: str | None = None) -> list[Batch]:
        """Return the batches that a run, or any, is to take: the oldest first."""
        where = "state = 'landed'" + (f" AND run_id = {quoted(run_id)}" if run_id is not None else "")
        found = pa.Table.from_batches(self._register.scan(where), SCHEMA).sort_by([("at", "ascending")])
        return [_batch(row) for row in found.to_pylist()]

    def uris(self, dataset: str, run_id: str = "") -> Iterator[str]:
        """Yield the objects that one run is to take, or all that were ever posted to a dataset; streaming."""
        where = f"dataset = {quoted(dataset)}" + (f" AND run_id = {quoted(run_id)}" if run_id else "")
        for rows in self._register.scan(where, columns=["objects"]):
            for text in rows.column("objects").to_pylist():
                yield from (one["uri"] for one in json.loads(text))

    def _landed(self, dataset: str) -> str:
        return f"{self.lake}/_landed/{dataset}"

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)


def _uri(place: str) -> str:
    """Return a place's uri as sources write it (`read/_store.py`)."""
    return place if "://" in place else Path(place).as_uri()


def _place(uri: str) -> str:
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def _table(batch: Batch) -> pa.Table:
    return pa.Table.from_pylist([asdict(batch) | {"objects": json.dumps(batch.objects)}], SCHEMA)


def _batch(row: dict[str, Any]) -> Batch:
    return Batch(**{one.name: row[one.name] for one in fields(Batch)} | {"objects": tuple(json.loads(row["objects"]))})
