"""A node that died becomes a line: the time that it was paid for and could tell nobody about, `unattributed`."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.window import Book, Line, Node, Window
from raycluster.lake.ledger import USAGE, Ledger
from raycluster.lake.sql import quoted


def lost(ledger: Ledger, node: Node, *, until: datetime) -> bool:
    """Enter the time from a node's last window to `until` as unattributed; tell whether there is any.

    A node that never wrote a window was never known to have begun, and is not charged for.
    """
    where = f"cluster = {quoted(node.cluster)} AND node = {quoted(node.node)}"
    told = [pa.Table.from_batches(ledger.usage(where, columns=["ended_at"]), pa.schema([USAGE.field("ended_at")]))]
    names = [name for name in ledger.inbox_names() if node.node[:16] in name]
    waiting = ledger.inbox_lines(names)
    told.append(waiting.filter(pc.equal(waiting["node"], node.node)).select(["ended_at"]))
    last: datetime | None = pc.max(pa.concat_tables(told)["ended_at"]).as_py()
    if last is None or last >= until:
        return False
    book = Book(node, started=_nanoseconds(last))
    window = Window(started=_nanoseconds(last), ended=_nanoseconds(until))
    length = window.ended - window.started
    whole = {"cpu": round(node.node_cpus * length), "gpu": round(node.node_gpus * length)}
    window.add(Line(kind="unattributed"), {**whole, "memory": node.node_memory * length, "wall": length})
    ledger.drop(book.table(window), f"{window.started}-{node.node[:16]}-lost")
    return True


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
