"""What a ledger says is held against what a node is paid for: prices times time, by arithmetic of its own."""

from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pyarrow as pa

from raycluster.declare.prices import LOCAL
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS, USAGE

Lines = list[dict[str, Any]]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = 3600 * 10**9  # nanoseconds


def usage(lake: Lake, **wanted: Any) -> Lines:
    """Return the lines of usage that have these values."""
    return having(pa.Table.from_batches(lake.ledger().usage(), USAGE).to_pylist(), **wanted)


def costs(lake: Lake, **wanted: Any) -> Lines:
    """Return the lines of cost that have these values."""
    return having(pa.Table.from_batches(lake.ledger().costs(), COSTS).to_pylist(), **wanted)


def having(lines: Lines, **wanted: Any) -> Lines:
    """Return the lines that have these values."""
    return [line for line in lines if all(line[name] == value for name, value in wanted.items())]


def total(lines: Lines, name: str = "cpu_seconds") -> float:
    return sum(line[name] for line in lines)


def windows(lines: Lines) -> list[tuple[datetime, datetime]]:
    """Return the windows that lines are in, in order."""
    return sorted({(line["started_at"], line["ended_at"]) for line in lines})


def due(lines: Lines) -> int:
    """Return what the windows of one node that these lines are in cost together, in nano-dollars."""
    return sum(_until(lines[0], end) - _until(lines[0], start) for start, end in windows(lines))


def require_law(lake: Lake, *, with_gaps: bool = False) -> None:
    """Prove that every node is billed for all of its time, each moment once, and that its lines fill its cores.

    Args:
        lake: of this machine's prices.
        with_gaps: there were times when nobody worked for this lake.
    """
    told, paid = usage(lake), costs(lake)
    assert told
    assert len({line["id"] for line in told}) == len(told)
    assert {line["usage_id"] for line in paid} <= {line["id"] for line in told}
    for node in {line["node"] for line in told}:
        mine = having(told, node=node)
        for (_, end), (start, _) in pairwise(windows(mine)):
            assert end == start or (with_gaps and end < start)
        for start, _ in windows(mine):
            window = having(mine, started_at=start)
            assert total(having(paid, node=node, started_at=start), "nanousd") == due(window)
            _require_full(window)


def _require_full(window: Lines) -> None:
    """Prove that a window's lines fill the node.

    One without idle time may hold what was seen a moment too late: 2 %, and of processes that are none of Ray's, which
    are looked at every other second, what they did in two seconds.
    """
    start, end = windows(window)[0]
    cpus = window[0]["node_cpus"]
    capacity = (end - start).total_seconds() * cpus
    late = 0.1 + 0.02 * capacity + min(2 * cpus, total(having(window, kind="other")))
    assert min(line["cpu_seconds"] for line in window) >= 0
    assert -1e-6 < total(window) - capacity < (late if total(having(window, kind="idle")) == 0 else 1e-6)


def _until(node: dict[str, Any], moment: datetime) -> int:
    """Return the whole nano-dollars that a node has cost up to a moment."""
    since = moment - _EPOCH
    nanoseconds = (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
    cores = Fraction(node["node_cpus"]) * (LOCAL.cpu_hour or 0)
    memory = Fraction(node["node_memory"], 2**30) * (LOCAL.gib_hour or 0)
    return int((cores + memory) * nanoseconds / _HOUR)
