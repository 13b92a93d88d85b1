"""A version of a dataset and an access become a view: the one way in which rows leave a dataset for a reader.

The access's filters apply inside each scan, before anything is ranked or counted; what a reader asks is worked out for
the rows that they leave. What stands in place of a masked
value is worked out by Lance's own SQL engine, from the rows that were found; the value itself is not even read.
Nobody may filter on, rank by or count by a masked column: the answers would tell what the mask hides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.errors import Forbidden, InvalidUse, LakeError, RayclusterError
from raycluster.lake import store
from raycluster.lake.access import Access
from raycluster.lake.columns import is_blob
from raycluster.lake.expression import Condition, condition, wrong
from raycluster.lake.hot import ROW, Hot, Near
from raycluster.lake.pile import Among
from raycluster.lake.sql import enclosed
from raycluster.lake.table import Table, require_column

log = logging.getLogger(__name__)
_REFUSED = (ValueError, OSError, RuntimeError)  # what Lance raises


@dataclass(frozen=True)
class View:
    """What one reader may see of one version of a dataset."""

    name: str
    dataset: Any
    access: Access
    schema: pa.Schema  # as Lance has it
    hot: Mapping[str, Hot] = field(default_factory=dict, repr=False, compare=False)  # by column

    @classmethod
    def open(cls, table: Table, version: int | str, access: Access) -> View:
        """Open a version of a dataset for a reader.

        Raises:
            NotFound: no such dataset or version.
        """
        dataset = table.open(version, cached=True)
        return cls(table.name, dataset, access, table.columns_of(dataset), table.hot(version))

    @property
    def version(self) -> int:
        """Return the number of the version."""
        return int(self.dataset.version)

    @cached_property
    def readable(self) -> list[str]:
        """Return the columns that an answer can hold: all but pictures."""
        return [one.name for one in self.schema if not is_blob(one)]

    @cached_property
    def masks(self) -> dict[str, str]:
        """Return the masks by the names of the columns: in a policy, upper and lower case are the same, as in SQL."""
        return {_spelt(name, list(self.schema)): mask for name, mask in self.access.masks.items()}

    def require_readable(self, names: Sequence[str]) -> None:
        """Check that an answer can hold these columns.

        Raises:
            InvalidUse: there is no such column, or it holds pictures.
        """
        if any(hot.names.issuperset(names) for hot in self.hot.values()):
            return  # no picture is kept in memory
        for name in names:
            if is_blob(require_column(self, name, "columns")):
                raise InvalidUse(
                    f"column {name!r} holds pictures", where="columns", fix="ask for them one by one, by id"
                )

    def hides(self, name: str) -> bool:
        """Tell whether a column is masked, or something in it is."""
        return any(_leads(mask, name) or _leads(name, mask) for mask in self.masks)

    def require_open(self, name: str, where: str) -> None:
        """Check that a reader may choose rows by a column.

        Raises:
            Forbidden: it is masked, or something in it is.
        """
        if self.hides(name):
            raise Forbidden(
                f"column {name!r} is masked for you: rows cannot be chosen by it",
                where=where,
                fix="leave it out, or ask whoever writes the policy",
            )

    def condition(self, text: str | None) -> Condition | None:
        """Return what a reader's filter means here.

        Raises:
            InvalidUse: it is no condition on the columns.
            Forbidden: it is on a masked column.
        """
        if text is None:
            return None
        found = condition(text, self.schema)
        for name in found.columns:
            self.require_open(name, "filter")
        return found

    def scan(
        self, columns: Sequence[str], asked: Condition | None = None, *, more: Sequence[str] = (), **options: Any
    ) -> pa.Table:
        """Read rows as the reader may see them, with `_rowid`.

        Args:
            columns: of the dataset.
            asked: the reader's condition.
            more: what the scan computes, such as `_distance`; and conditions of our own are in `options["filter"]`.
            options: of Lance's scanner.

        Raises:
            LakeError: the lake cannot be read, or the policy's SQL does not work here: then nothing is shown.
        """
        covers = {name: self._covers(name) for name in columns}
        plain = [name for name, masks in covers.items() if not any(_leads(mask, name) for mask in masks)]
        options |= {"columns": [*plain, *more], "filter": self.where(asked, options.pop("filter", None))}
        try:
            found = self.dataset.to_table(prefilter=True, with_row_id=True, **options)
        except _REFUSED as error:
            raise self._blamed(asked, error) from error
        if not any(covers.values()):
            return found
        shown = self._shown(found[ROW].to_pylist(), {mask for masks in covers.values() for mask in masks})
        taken = {name: self._covered(name, found, shown) if covers[name] else found[name] for name in columns}
        return pa.table(taken | {name: found[name] for name in (*more, ROW)})

    def among(self, hot: Hot, asked: Condition | None, own: str | None = None) -> tuple[Among, Among] | None:
        """Return which places of an index in memory count, by the whole filter; None for all.

        Raises:
            LakeError: as `scan`.
        """
        where = self.where(asked, own)
        if where is None:
            return None
        return hot.among(where, lambda: self.scan([], asked, filter=own)[ROW].to_numpy().astype(np.int64))

    def chooses_at_hand(self, hot: Hot) -> bool:
        """Tell whether `among` reads nothing for a reader without a condition of their own."""
        where = self.where(None)
        return where is None or hot.remembers(where)

    def shows_at_hand(self, columns: Sequence[str], hot: Hot) -> bool:
        """Tell whether `shown` reads nothing."""
        return hot.names.issuperset(columns) and not (self.masks and any(self.hides(name) for name in columns))

    def shown(self, found: Sequence[Near], columns: Sequence[str], hot: Hot) -> list[dict[str, Any]]:
        """Return columns of rows that were found in memory: from there where they lie there, and nothing is masked.

        Raises:
            LakeError: as `scan`.
        """
        if self.shows_at_hand(columns, hot):
            return hot.told([one.seat for one in found], columns)
        if not found:
            return []
        ids = [one.row for one in found]
        rows = self.scan(columns, filter=f"{ROW} IN ({','.join(map(str, ids))})").to_pylist()
        by_row = {row.pop(ROW): row for row in rows}
        return [by_row[one] for one in ids]

    def batches(self, columns: Sequence[str], asked: Condition | None, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Stream columns that are not masked, in no order.

        Raises:
            LakeError: as `scan`.
        """
        try:
            yield from self.dataset.to_batches(columns=list(columns), filter=self.where(asked), batch_size=batch_size)
        except _REFUSED as error:
            raise self._blamed(asked, error) from error

    def count(self, asked: Condition | None) -> int:
        """Count the rows that the reader may see.

        Raises:
            LakeError: as `scan`.
        """
        try:
            return int(self.dataset.count_rows(self.where(asked)))
        except _REFUSED as error:
            raise self._blamed(asked, error) from error

    def where(self, asked: Condition | None, own: str | None = None) -> str | None:
        """Return the whole filter: the policy's, the reader's, and one of our own."""
        wanted = list(self._policy())
        if asked is not None:
            wanted.append(asked.sql if asked.is_sure or not wanted else _apart(wanted, asked.sql))
        wanted += [] if own is None else [own]
        return " AND ".join(wanted) or None

    def _policy(self) -> Iterator[str]:
        for one in self.access.filters:
            try:
                yield enclosed(one)
            except InvalidUse as error:
                raise self._broken(f"filter {one!r}", error) from error

    def _blamed(self, asked: Condition | None, error: Exception) -> RayclusterError:
        """Say whose fault it is that a scan failed: the policy's, the reader's condition, or the lake's."""
        policy = list(self._policy())
        for one in policy:
            if (reason := self._fails(one)) is not None:
                return self._broken(f"filter {one}", reason)
        if asked is not None and (reason := self._unplanned(asked.sql)) is not None:
            return wrong(asked.text, store.plain(reason))
        if asked is not None and (reason := self._fails(self.where(asked))) is not None:
            # The reason quotes the policy, and perhaps values.
            return wrong(asked.text, "it fails on a row" if policy else store.plain(reason))
        return LakeError(f"cannot search {self.dataset.uri}: {store.plain(error)}", fix=store.fix_for(self.dataset.uri))

    def _unplanned(self, where: str) -> Exception | None:
        """Return what is wrong with a condition whatever the rows are: none is looked at."""
        try:
            self.dataset.scanner(filter=where).explain_plan()
        except _REFUSED as reason:
            return reason
        return None

    def _fails(self, where: str | None) -> Exception | None:
        try:
            self.dataset.count_rows(where)
        except _REFUSED as reason:
            return reason
        return None

    def _broken(self, what: str, reason: Exception) -> LakeError:
        """Say that the policy does not work, and to the log why: what a policy says is not for its readers."""
        log.error("the policy's %s cannot be applied to dataset %s: %s", what, self.name, store.plain(reason))
        return LakeError(
            f"the policy in force cannot be applied to dataset {self.name!r}, so nothing of it is shown",
            fix="tell whoever writes the policy; the server's log says what is wrong with it",
        )

    def _covers(self, name: str) -> list[str]:
        """Return the masks that hide a column, the outermost first, or parts of it."""
        outer = sorted((mask for mask in self.masks if _leads(mask, name)), key=len)
        return outer[:1] or [mask for mask in self.masks if _leads(name, mask)]

    def _shown(self, row_ids: list[int], masks: set[str]) -> dict[str, pa.Array]:
        """Return what is shown in place of masked values, in the order of the rows."""
        names = sorted(masks)
        if not row_ids:
            return {name: pa.nulls(0) for name in names}
        values = "".join(f", ({self.masks[name]}\n) AS m{at}" for at, name in enumerate(names))
        sql = f"SELECT {ROW}{values} FROM dataset WHERE {ROW} IN ({','.join(map(str, row_ids))})"
        try:
            batches = self.dataset.sql(sql).with_row_id(True).build().to_batch_records()
            found = pa.Table.from_batches(batches)
            places = pc.index_in(pa.array(row_ids, found[ROW].type), found[ROW].combine_chunks())
            if places.null_count:
                raise ValueError("rows are missing from its answer")
        except (*_REFUSED, pa.ArrowException) as error:
            raise self._broken(f"mask of {', '.join(names)}", error) from error
        return {name: _flat(found.column(f"m{at}")).take(places) for at, name in enumerate(names)}

    def _covered(self, name: str, found: pa.Table, shown: dict[str, pa.Array]) -> pa.Array:
        kind = require_column(self, name, "columns").type
        masks = self._covers(name)
        if _leads(masks[0], name):
            rest = name.removeprefix(masks[0]).split(".")[1:]
            return _as(kind, _inner(shown[masks[0]], rest))
        column = found[name].combine_chunks()
        for mask in masks:
            column = _replaced(column, mask.removeprefix(name).split(".")[1:], shown[mask])
        return column


def _apart(policy: Sequence[str], asked: str) -> str:
    """Return a reader's condition as one that is looked at for the policy's rows only.

    Between the sides of an AND, Lance looks at all rows (pylance 14.0.2): what fails on a hidden one tells of it. It
    takes no CASE; its `coalesce` works out a second argument only where the first is null, if they are no booleans.
    """
    may = f"coalesce(TRY_CAST(({' AND '.join(policy)}) AS INT), 0)"
    return f"(coalesce(nullif({may}, 1), TRY_CAST({asked} AS INT)) = 1)"


def _spelt(name: str, fields: Sequence[pa.Field]) -> str:
    """Return a column's name as the dataset spells it, as far as it leads to one."""
    first, dot, rest = name.partition(".")
    alike = (one for one in fields if one.name.lower() == first.lower())
    found = min(alike, key=lambda one: one.name != first, default=None)
    if found is None:
        return name
    inner = list(found.type) if pa.types.is_struct(found.type) else []
    return f"{found.name}.{_spelt(rest, inner)}" if dot else str(found.name)


def _leads(outer: str, inner: str) -> bool:
    """Tell whether a column is another one, or has it inside."""
    return inner == outer or inner.startswith(f"{outer}.")


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; Arrow does little with the views of strings that SQL functions return."""
    whole = column.combine_chunks()
    return whole.cast(pa.string()) if whole.type == pa.string_view() else whole


def _as(kind: pa.DataType, column: pa.Array) -> pa.Array:
    """Return values in a column's own type where they fit it."""
    if column.null_count == len(column):
        return pa.nulls(len(column), kind)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column


def _inner(column: pa.Array, path: Sequence[str]) -> pa.Array:
    """Return what lies at a path in a struct; nulls where nothing does."""
    for part in path:
        if not (pa.types.is_struct(column.type) and column.type.get_field_index(part) >= 0):
            return pa.nulls(len(column))
        column = pc.struct_field(column, part)
    return column


def _replaced(column: pa.Array, path: Sequence[str], value: pa.Array) -> pa.Array:
    """Return a struct with another value at a path; nothing is left of a list that it leads into."""
    if not path:
        return _as(column.type, value)
    if not pa.types.is_struct(column.type):
        return pa.nulls(len(column), column.type)
    fields = [column.type.field(at) for at in range(column.type.num_fields)]
    children = {one.name: pc.struct_field(column, one.name) for one in fields}
    if path[0] in children:
        children[path[0]] = _replaced(children[path[0]], path[1:], value)
    types = [pa.field(name, child.type) for name, child in children.items()]
    return pa.StructArray.from_arrays(list(children.values()), fields=types, mask=column.is_null())
