"""One dataset: its columns, its versions, what it knows, and the `live` tag that readers follow.

A `Table` is a name and a URI, picklable, opened anew for each use: what it says is true at that moment. The driver
creates and commits (`commit.py`), workers write (`write.py`), readers ask (`query.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.errors import InvalidUse, NotFound
from raycluster.lake import store
from raycluster.lake.columns import inside, outside, require_fit, unmeasured
from raycluster.lake.expression import condition, wrong
from raycluster.lake.write import Sink, sink
from raycluster.stage import unknown

LIVE = "live"
LEASE = "lease."  # how the tags of `lease.py` begin
PREVIOUS = "previous"  # the version that was live before: what `rollback --last` goes to
Move = Literal["forward", "back", "same"]
# Facts about a dataset lie in its schema's metadata: every commit carries them on, and a version keeps its own.
ENCODERS = b"raycluster:encoders"
COMMIT = b"raycluster:commit"
FENCE = b"raycluster:fence:"  # + a workload's name: the run of it that may commit; empty when it has proven its work
RAN = b"raycluster:ran:"  # + a workload's name: its last run here, and what it declared

_SCAN_ROWS = 65_536  # rows a batch when only ids are read: 8 MB


@dataclass(frozen=True)
class Table:
    """A dataset by name, where it lies."""

    name: str
    uri: str

    def open(self, version: int | str | None = None, *, cached: bool = False) -> Any:
        """Return Lance's dataset at a version, a tag, or None for the latest committed one.

        Raises:
            NotFound: no such dataset, or no such version of it.
        """
        if version == "latest":
            version = None
        if isinstance(version, str) and version.isdigit():
            version = int(version)
        try:
            return store.open_dataset(self.uri, version, cached=cached)
        except NotFound as error:
            raise self._absent(version) from error

    def _absent(self, version: int | str | None) -> NotFound:
        if version is None or not self.exists():
            return NotFound(f"there is no dataset {self.name!r}", fix="list them: raycluster datasets")
        if version == LIVE:
            return NotFound(
                f"dataset {self.name!r} has no live version yet: no run has finished",
                fix="finish a run, or ask for version 'latest'",
            )
        return NotFound(
            f"dataset {self.name!r} has no version {version!r}", fix=f"list them: raycluster datasets {self.name}"
        )

    def columns_of(self, dataset: Any) -> pa.Schema:
        """Return the columns of a version that is open, as Lance has them."""
        return dataset.schema

    def hot(self, version: int | str | None) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the indexes (`hot.py`) that this process holds of a version, by column; none but in `follow.py`."""
        return {}

    def exists(self) -> bool:
        """Tell whether the dataset has been created."""
        return store.exists(self.uri)

    def create_or_check(self, schema: pa.Schema, encoders: Sequence[Mapping[str, Any]] = ()) -> Sink:
        """Create the empty dataset, or check that `schema` fits the one that exists; return where workers write.

        Args:
            schema: of `columns.dataset_schema`.
            encoders: the workload's encoder declarations, remembered so that search can embed a question.

        Raises:
            Mismatch: the dataset lacks a column or has it with another type.
        """
        if not self.exists():
            facts = {ENCODERS: json.dumps(list(encoders)).encode()}
            store.create(self.uri, inside(schema.with_metadata(facts)))
        dataset = self.open()
        found = outside(dataset.schema)
        require_fit(self.name, schema, found)
        if new := unmeasured(schema, found):
            with store.explained(self.uri, "add columns to"):
                dataset.add_columns(pa.schema([pa.field("features", pa.struct(new))]))  # no row is rewritten
        return sink(self.uri, dataset)

    def require_fit(self, schema: pa.Schema) -> None:
        """Check that `schema` fits, creating nothing; a dataset that does not exist yet fits.

        Raises:
            Mismatch: as `create_or_check`.
        """
        if self.exists():
            require_fit(self.name, schema, self.schema())

    def version(self) -> int:
        """Return the latest version; 0 where the dataset does not exist."""
        return int(self.open().version) if self.exists() else 0

    def schema(self, version: int | str | None = None) -> pa.Schema:
        """Return the columns, blobs as binary."""
        return outside(self.open(version).schema)

    def encoders(self, version: int | str | None = None) -> list[dict[str, Any]]:
        """Return the encoder declarations that made the columns, as YAML writes them.

        With digests and revisions, workload by workload: `generation.makers`.
        """
        text = (self.open(version).schema.metadata or {}).get(ENCODERS, b"[]")
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def count_rows(self, *, filter: str | None = None, version: int | str | None = None) -> int:  # noqa: A002
        """Count rows; `filter` is SQL.

        Raises:
            InvalidUse: the filter is wrong.
        """
        dataset = self.open(version)
        if filter is None:
            return int(dataset.count_rows())
        try:
            return int(dataset.count_rows(condition(filter, dataset.schema).sql))
        except (ValueError, OSError, RuntimeError) as error:
            raise wrong(filter, store.plain(error)) from error

    def known(self, version: int | None = None, *, outdated: str = "false") -> Iterator[pa.RecordBatch]:
        """Yield every object, streaming, one row each at least: `uri`, `object_id`, `modality`, `workload`, `outdated`.

        Repeats next to each other are dropped.

        Args:
            version: None: the latest.
            outdated: an SQL condition, the same for all rows of an object and a modality.
        """
        if not self.exists():
            return
        columns = {name: name for name in ("uri", "object_id", "modality")}
        columns |= {"workload": "provenance.workload", "outdated": outdated}
        with store.explained(self.uri):
            for batch in self.open(version).to_batches(columns=columns, batch_size=_SCAN_ROWS):
                ids, modalities = batch.column("object_id"), batch.column("modality")
                if batch.num_rows > 1:
                    fresh = pc.or_(_differs(ids), _differs(modalities))
                    batch = batch.filter(pa.concat_arrays([pa.array([True]), fresh]))
                yield batch

    def last_runs(self, version: int | None = None) -> dict[str, dict[str, str]]:
        """Return each workload's last run here: `run_id`, and what it declared as `digest` and `yaml`."""
        facts = self.open(version).schema.metadata or {}
        return {key.removeprefix(RAN).decode(): json.loads(ran) for key, ran in facts.items() if key.startswith(RAN)}

    def open_runs(self, version: int | None = None) -> dict[str, str]:
        """Return the runs that write here and have not proven their work, by workload."""
        facts = self.open(version).schema.metadata or {}
        found = {key.decode(): run.decode() for key, run in facts.items() if key.startswith(FENCE)}
        return {key.removeprefix(FENCE.decode()): run for key, run in found.items() if run}

    def tags(self) -> dict[str, int]:
        """Return the version behind each tag; leases are tags too, and not shown."""
        tags = self.open().tags.list()
        return {name: int(tag["version"]) for name, tag in tags.items() if not name.startswith(LEASE)}

    def live(self) -> int | None:
        """Return the version that readers see; None before the first run has finished."""
        return self.tags().get(LIVE) if self.exists() else None

    def set_live(self, version: int, move: Move = "forward") -> int:
        """Let readers see `version` from now on; return what they see.

        Args:
            version: a committed one.
            move: "forward" unless another run has shown them a later one (later versions hold all that earlier ones
                do: of two runs that end together, the last to come here must not hide what the other has shown);
                "back" wherever it is; "same" as forward, but its rows are those of the present one, so that the
                `previous` tag stays at what readers saw before those rows.

        Raises:
            LakeError: there is no such version, or the store refused.
        """
        live = self.live()
        if live == version or (live is not None and version < live and move != "back"):
            return live
        store.require_room(self.uri)
        with store.explained(self.uri, "tag"):
            tags = self.open().tags
            try:
                tags.create(LIVE, version)
            except (OSError, ValueError):
                if live is None and self.live() is None:
                    raise
                if live is None:  # another run was the first, just now
                    return self.set_live(version, move)
                tags.update(LIVE, version)
        if live is not None and move != "same":
            self.tag(PREVIOUS, live)
        return version

    def tag(self, name: str, version: int) -> None:
        """Name a version, or give the name to another one; a version with a name is never removed."""
        store.require_room(self.uri)
        with store.explained(self.uri, "tag"):
            tags = self.open().tags
            if name in tags.list():
                tags.update(name, version)
            else:
                tags.create(name, version)

    def history(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the last versions, newest first: version, at, rows, tags, and the commit that its rows come from."""
        dataset = self.open()
        tags: dict[int, list[str]] = {}
        for name, version in self.tags().items():
            tags.setdefault(version, []).append(name)
        return [self._describe(entry, tags) for entry in sorted(dataset.versions(), key=_by_version)[: -limit - 1 : -1]]

    def _describe(self, entry: dict[str, Any], tags: dict[int, list[str]]) -> dict[str, Any]:
        version = int(entry["version"])
        made = json.loads((self.open(version).schema.metadata or {}).get(COMMIT, b"{}"))
        return {
            "version": version,
            "at": entry["timestamp"].astimezone().isoformat(timespec="seconds"),
            "rows": int(entry["metadata"].get("total_rows", 0)),
            "tags": tags.get(version, []),
            **made,
        }


def _differs(column: pa.Array) -> pa.Array:
    """Tell of each value but the first whether it differs from the one before."""
    return pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))


def _by_version(entry: dict[str, Any]) -> int:
    return int(entry["version"])


def require_column(dataset: Any, name: str, where: str) -> pa.Field:
    """Return a column's field; `name` may lead into structs, as in `features.width`.

    Raises:
        InvalidUse: no such column; says the nearest.
    """
    schema = dataset.schema
    inside = schema
    for part in name.split("."):
        at = -1 if inside is None else inside.get_field_index(part)
        if at < 0:
            near = [one.name for one in inside] if inside is not None else schema.names
            raise InvalidUse(f"there is no column {name!r}", where=where, fix=unknown("column", part, near).fix)
        found = inside.field(at)
        inside = found.type if pa.types.is_struct(found.type) else None
    return found
