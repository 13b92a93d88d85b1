"""A node that died becomes a line: the time that it was paid for and could tell nobody about, `unattributed`."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

import pyarrow.compute as pc

from raycluster.account.window import Book, Line, Node, Window
from raycluster.lake.ledger import Ledger
from raycluster.lake.sql import instant, quoted

_SAID = ["ended_at", *(field.name for field in fields(Node))]


def lost(ledger: Ledger, node: Node, *, until: datetime) -> bool:
    """Enter the time from a node's last window to `until` as unattributed; tell whether there is any.

    A node that never wrote a window was never known to have begun, and is not charged for. What it was is what it said
    last: whoever finds it dead may never have seen it alive. Two who enter it until the same moment enter it once.
    """
    where = f"cluster = {quoted(node.cluster)} AND node = {quoted(node.node)}"
    names = [name for name in ledger.inbox_names() if node.node[:16] in name]
    waiting = ledger.inbox_lines(names)
    waiting = waiting.filter(pc.equal(waiting["node"], node.node)).select(_SAID)
    ends = [*ledger.usage(where, columns=["ended_at"]), *waiting.select(["ended_at"]).to_batches()]
    told = [end for batch in ends if (end := pc.max(batch["ended_at"]).as_py())]
    last: datetime | None = max(told, default=None)
    if last is None or last >= until:
        return False
    lines = [*ledger.usage(f"{where} AND ended_at = {instant(last)}", columns=_SAID), *waiting.to_batches()]
    (said,) = [line for batch in lines for line in batch.to_pylist() if line.pop("ended_at") == last][-1:]
    node = Node(**said)
    book = Book(node, started=_nanoseconds(last))
    window = Window(started=_nanoseconds(last), ended=_nanoseconds(until))
    length = window.ended - window.started
    whole = {"cpu": round(node.node_cpus * length), "gpu": round(node.node_gpus * length)}
    window.add(Line(kind="unattributed"), {**whole, "memory": node.node_memory * length, "wall": length})
    ledger.drop(book.table(window), f"{window.started}-{node.node[:16]}-lost")
    return True


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
