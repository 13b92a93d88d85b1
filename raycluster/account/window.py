"""What processes did, tick by tick, becomes the lines of a window of time, which add up to the node's whole capacity.

A window is kept for a while after it is closed, because the truth about it can come later: a call that goes on is
taken to go well, and when it fails after all, or its process dies, what its windows say of it is changed. Each change
lays the window into the ledger's inbox again, where it replaces itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raycluster.account.owners import NOBODY, Owner
from raycluster.lake.ledger import USAGE, Kind, line_id

_KEPT = 360  # windows: an hour of ten seconds each

Amounts = dict[str, int]  # quantity -> how much; times in nanoseconds
PEAKS = ("gpu_memory", "peak_rss")  # of these the largest counts, of all others the sum
_TIMES = {"cpu": "cpu_seconds", "wall": "wall_seconds", "gpu": "gpu_seconds", "memory": "memory_byte_seconds"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a line is about, apart from node and window."""

    kind: Kind
    owner: Owner = NOBODY
    stage: str | None = None
    modality: str | None = None
    outcome: str | None = None


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node's name and capacity."""

    cluster: str
    node: str
    node_type: str = "local"
    market: str = "on_demand"
    node_cpus: float = 1.0
    node_gpus: float = 0.0
    node_gpu_type: str | None = None
    node_memory: int = 0


@dataclass(kw_only=True)
class Window:
    """A stretch of time on one node. Moments in nanoseconds since 1970."""

    started: int
    ended: int
    lines: dict[Line, Amounts] = field(default_factory=dict)
    is_new: bool = True  # not laid into the inbox since it last changed
    is_told: bool = False  # laid into it before: a line that has come to nothing must replace what was said of it

    def add(self, line: Line, amounts: Amounts) -> None:
        """Add to a line."""
        sums = self.lines.setdefault(line, {})
        for name, amount in amounts.items():
            sums[name] = max(sums.get(name, 0), amount) if name in PEAKS else sums.get(name, 0) + amount
        self.is_new = True


class Book:
    """The windows of one node: the one that is open, and those that may still be corrected."""

    def __init__(self, node: Node, *, started: int) -> None:
        self.node = node
        self.open = Window(started=started, ended=started)
        self.closed: deque[Window] = deque(maxlen=_KEPT)

    def take(self, look: Window, close: int | None = None) -> None:
        """Take what one look has found, and end the open window at a moment within it, if that is due.

        What was found is divided between the two windows by time, as if it had come evenly.
        """
        if close is None:
            self._take(look, 1, 1)
            return
        close = min(max(close, look.started), look.ended)
        length = max(1, look.ended - look.started)
        rest = Window(started=close, ended=look.ended)
        for line, amounts in look.lines.items():
            after = {n: a if n in PEAKS else a - a * (close - look.started) // length for n, a in amounts.items()}
            rest.add(line, after)
        self._take(look, close - look.started, length)
        self._close(close)
        self._take(rest, 1, 1)

    def _take(self, look: Window, part: int, whole: int) -> None:
        for line, amounts in look.lines.items():
            share = {n: a if n in PEAKS else a * part // whole for n, a in amounts.items()}
            self.open.add(line, share)

    def _close(self, at: int) -> None:
        """End the open window and begin the next; what is negative in it belongs to earlier ones."""
        window = self.open
        window.ended = at
        self.closed.append(window)
        for line in [line for line, sums in window.lines.items() if sums.get("cpu", 0) < 0 or sums.get("calls", 0) < 0]:
            self._correct(window, line)
        self.open = Window(started=at, ended=at)

    def _correct(self, window: Window, line: Line) -> None:
        """Move a negative line's debt to earlier windows, and as much of what stands for it now along with it.

        A call of a minute that fails was "ok" for six windows; now "ok" goes down by a minute, and "failed" up by one.
        """
        heirs = _heirs(window, line)
        for earlier in reversed(list(self.closed)[:-1]):
            debt = {name: -amount for name, amount in window.lines[line].items() if name not in PEAKS and amount < 0}
            if not debt:
                break
            for name, amount in debt.items():
                moved = max(0, min(amount, earlier.lines.get(line, {}).get(name, 0)))
                for heir in heirs:
                    part = min(moved, max(0, window.lines[heir].get(name, 0)))
                    if part:
                        earlier.add(line, {name: -part})
                        earlier.add(heir, {name: part})
                        window.add(line, {name: part})
                        window.add(heir, {name: -part})
                        moved -= part

    def news(self) -> list[Window]:
        """Return the closed windows that are new or have changed since they were last taken."""
        found = [window for window in self.closed if window.is_new]
        for window in found:
            window.is_new = False
        return found

    def table(self, window: Window) -> pa.Table:
        """Return a window's lines in schema USAGE. With `idle` they add up to the whole node, to the nanosecond."""
        used = sum(sums.get("cpu", 0) for sums in window.lines.values())
        held = sum(sums.get("gpu", 0) for sums in window.lines.values())
        memory = sum(sums.get("memory", 0) for sums in window.lines.values())
        length = window.ended - window.started
        idle = {
            "cpu": max(0, round(self.node.node_cpus * length) - used),
            "gpu": max(0, round(self.node.node_gpus * length) - held),
            "memory": max(0, self.node.node_memory * length - memory),
            "wall": length,
        }
        lines = [(line, sums) for line, sums in window.lines.items() if window.is_told or any(sums.values())]
        lines.append((Line(kind="idle"), idle))
        return pa.Table.from_pylist([self._row(window, line, sums) for line, sums in lines], USAGE)

    def _row(self, window: Window, line: Line, sums: Amounts) -> dict[str, Any]:
        times = {column: sums.get(name, 0) / 1e9 for name, column in _TIMES.items()}
        counts = {name: sums.get(name, 0) for name in USAGE.names if name in _COUNTS}
        owner = vars(line.owner)
        about = {"kind": line.kind, "stage": line.stage, "modality": line.modality or None, "outcome": line.outcome}
        identity = line_id(self.node.cluster, self.node.node, window.started, *about.values(), *owner.values())
        moments = {"started_at": _moment(window.started), "ended_at": _moment(window.ended)}
        return {"id": identity, **vars(self.node), **moments, **about, **owner, **times, **counts}


_COUNTS = {"calls", "gpu_memory", "peak_rss", "bytes_read", "bytes_written", "rows_in", "rows_out"}


def _heirs(window: Window, line: Line) -> list[Line]:
    """Return what may take over from a line: the same work, known better by now."""
    others = [other for other in window.lines if other != line and line.owner in (NOBODY, other.owner)]
    same = [other for other in others if (other.stage, other.modality) == (line.stage, line.modality)]
    return same if line.kind == "task" else [*same, *(other for other in others if other.kind == "task")]


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)


def difference(now: Amounts, before: Amounts) -> Amounts:
    """Return what has come since."""
    return {name: now.get(name, 0) - before.get(name, 0) for name in {**now, **before}}
