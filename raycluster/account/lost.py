"""A node that died becomes a line: the time that it was paid for and could tell nobody about, `unattributed`."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.window import Book, Line, Node, Window
from raycluster.lake.ledger import Ledger
from raycluster.lake.sql import instant, quoted

_SAID = ["ended_at", *(field.name for field in fields(Node))]


def lost(ledger: Ledger, node: Node, *, until: datetime, since: datetime | None = None) -> bool:
    """Enter the time from a node's last window to `until` as unattributed; tell whether there is any.

    A node that died before its first window is charged for from `since`, when it was asked for windows, if that is
    known. What it was is what it said last: whoever finds it dead may never have seen it alive. Two who enter it until
    the same moment enter it once.
    """
    where = f"cluster = {quoted(node.cluster)} AND node = {quoted(node.node)}"
    names = [name for name in ledger.inbox_names() if node.node[:16] in name]
    waiting = ledger.inbox_lines(names)
    waiting = waiting.filter(pc.equal(waiting["node"], node.node)).select(_SAID)
    ends = [*ledger.usage(where, columns=["ended_at"]), *waiting.select(["ended_at"]).to_batches()]
    told = [end for batch in ends if (end := pc.max(batch["ended_at"]).as_py())]
    last: datetime | None = max(told, default=None)
    if last is not None:
        node = _as_said(ledger, where, last, waiting)
    begun = last or since
    if begun is None or begun >= until:
        return False
    book = Book(node, started=_nanoseconds(begun))
    window = Window(started=_nanoseconds(begun), ended=_nanoseconds(until))
    length = window.ended - window.started
    whole = {"cpu": round(node.node_cpus * length), "gpu": round(node.node_gpus * length)}
    window.add(Line(kind="unattributed"), {**whole, "memory": node.node_memory * length, "wall": length})
    ledger.drop(book.table(window), f"{window.started}-{node.node[:16]}-lost")
    return True


def _as_said(ledger: Ledger, where: str, last: datetime, waiting: pa.Table) -> Node:
    """Return a node as its last window describes it."""
    lines = [*ledger.usage(f"{where} AND ended_at = {instant(last)}", columns=_SAID), *waiting.to_batches()]
    (said,) = [line for batch in lines for line in batch.to_pylist() if line.pop("ended_at") == last][-1:]
    return Node(**said)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
