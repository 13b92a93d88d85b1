"""Usage and costs become two tables of the lake, `_usage` and `_costs`, in which no line can stand twice.

A line's id is a digest of what it is about (a node, a window of time, an owner, a stage), so a window that is written
again replaces itself: a node agent that was started anew, or a ledger that is settled twice, bills nothing twice.

Agents do not write to the tables, where a thousand of them would wait for each other's commits: each lays its windows
into the lake's inbox, one file for each time that a window is told: what is told again lies beside what was told
before, so that who removes the one, having read it, cannot remove the other, unread. Whoever settles the ledger moves
them into `_usage` and removes them. A file that outlives its settler is moved once more, to no effect.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from raycluster.errors import LakeError
from raycluster.lake import store
from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register

# Files of the inbox that are read or removed at once. A store takes 30 ms for each: one after the other, 166 nodes lay
# down windows faster than they are taken up.
_AT_ONCE = 32

# What a line is about. `task`: inside calls; `background`: a worker's process between its calls (Ray's own handling of
# arguments and results, threads that a call left behind); `startup`: before its first call; `driver`; `system`: Ray's
# daemons and this accounting; `other`: what else runs on the node; `idle`: capacity that nobody used; `unexplained`:
# what the kernel counted beyond all that was seen; `unattributed`: windows of a node that died before it told.
Kind = Literal["task", "background", "startup", "driver", "system", "other", "idle", "unexplained", "unattributed"]

# ok; failed: the call raised; killed: its process died in it; retried: it went well, but an earlier attempt had not,
# so the same work was paid for before. Null where there is no call.
Outcome = Literal["ok", "failed", "killed", "retried"]

# Who and what: the same columns in both tables.
_WHERE = [
    ("cluster", pa.string()),  # Ray's own id of it
    ("node", pa.string()),  # Ray's node id, hex
    ("node_type", pa.string()),  # as the price file names it
    ("market", pa.string()),  # on_demand | spot
    ("started_at", pa.timestamp("us", "UTC")),  # of the window; windows are cut at whole multiples of their length
    ("ended_at", pa.timestamp("us", "UTC")),
    ("kind", pa.string()),
]
_WHO = [
    ("run_id", pa.string()),
    ("workload", pa.string()),
    ("stage", pa.string()),  # the stage's name; else Ray's name of the task, or the process's
    ("modality", pa.string()),
    ("team", pa.string()),
    ("project", pa.string()),
    ("environment", pa.string()),
    ("dataset", pa.string()),
    ("version", pa.int64()),
    ("outcome", pa.string()),
]
_QUANTITIES = [
    ("calls", pa.int64()),
    ("cpu_seconds", pa.float64()),
    ("wall_seconds", pa.float64()),
    ("gpu_seconds", pa.float64()),  # of whole GPUs: 0.5 for a second with half of one
    ("gpu_memory", pa.int64()),  # bytes, the most that was seen
    ("memory_byte_seconds", pa.float64()),
    ("peak_rss", pa.int64()),  # bytes, the most that was seen
    ("bytes_read", pa.int64()),
    ("bytes_written", pa.int64()),
    ("rows_in", pa.int64()),
    ("rows_out", pa.int64()),
]
_KEY = pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY)

USAGE = pa.schema(
    [
        _KEY,
        *_WHERE,
        *_WHO,
        *_QUANTITIES,
        # The node's whole capacity, on every line of it: prices divide the node among its lines.
        ("node_cpus", pa.float64()),
        ("node_gpus", pa.float64()),
        ("node_gpu_type", pa.string()),
        ("node_memory", pa.int64()),
    ]
)

COSTS = pa.schema(
    [
        _KEY,
        ("usage_id", pa.string()),  # the line of `_usage` that is paid for
        ("prices", pa.string()),  # the price file, as name@version
        *_WHERE,
        *_WHO,
        *_QUANTITIES,  # of direct lines; 0 where a shared line is spread, whose quantities nobody consumed
        ("is_shared", pa.bool_()),  # a part of a shared line (idle, system, ...), borne by this owner by the rule
        ("nanousd", pa.int64()),
    ]
)

NAMES = tuple(name for name, _ in (*_WHERE, *_WHO))
QUANTITIES = tuple(name for name, _ in _QUANTITIES)


def line_id(*parts: Any) -> str:
    """Return the id of a line: a digest of everything that tells it from others."""
    return sha256("\x1f".join("" if part is None else str(part) for part in parts).encode()).hexdigest()[:32]


def _usage_in(path: Path, name: str) -> pa.Table:
    try:
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all().select(USAGE.names).cast(USAGE)
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, ValueError) as error:
        raise LakeError(
            f"{name} holds no usage: {error}", fix="remove it, if no node of this version wrote it"
        ) from error


@dataclass(frozen=True)
class Ledger:
    """The two tables and the inbox of a lake at `uri`."""

    uri: str

    def usage(self, where: str | None = None, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield lines of USAGE for which `where` (SQL) holds; nothing where none were ever written."""
        return self._usage.scan(where, columns=columns)

    def costs(self, where: str | None = None, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield lines of COSTS for which `where` (SQL) holds."""
        return self._costs.scan(where, columns=columns)

    def put_usage(self, lines: pa.Table) -> None:
        """Add lines of usage; those that are there already replace themselves."""
        self._usage.put(lines)

    def put_costs(self, lines: pa.Table) -> None:
        """Add lines of cost; those that are there already replace themselves."""
        self._costs.put(lines)

    def remove_costs(self, ids: Sequence[str]) -> None:
        """Take out lines of cost that pricing their windows again did not bring back."""
        self._costs.remove(ids)

    def version(self) -> int:
        """Return a number that changes when usage does."""
        return store.version(self._usage.uri)

    def drop(self, lines: pa.Table, name: str) -> None:
        """Lay a table of usage into the inbox, under a name that says when, and what is in it."""
        with tempfile.TemporaryDirectory(prefix="raycluster-") as folder:
            path = Path(folder) / "lines.arrow"
            with pa.ipc.new_file(path, lines.schema) as writer:
                writer.write_table(lines)
            with store.explained(self.inbox, "write to"):
                store.upload(self.inbox, path, f"{time.time_ns()}-{name}.arrow")

    def inbox_names(self) -> list[str]:
        """Return what waits in the inbox, what was told first first."""
        return sorted(name for name in store.files(self.inbox) if name.endswith(".arrow"))

    def inbox_lines(self, names: Sequence[str]) -> pa.Table:
        """Return the lines of these files of the inbox, of one that is told several times as it was told last.

        A file that another settler has just removed has none.

        Raises:
            LakeError: a file that holds no usage.
        """
        with tempfile.TemporaryDirectory(prefix="raycluster-") as folder, ThreadPoolExecutor(_AT_ONCE) as pool:

            def lines_in(name: str) -> pa.Table:
                path = Path(folder) / name
                there = store.download(self.inbox, name, path)
                return _usage_in(path, f"{self.inbox}/{name}") if there else USAGE.empty_table()

            lines = pa.concat_tables([USAGE.empty_table(), *pool.map(lines_in, sorted(names))])
        last = {key: place for place, key in enumerate(lines["id"].to_pylist())}
        return lines if len(last) == lines.num_rows else lines.take(pa.array(sorted(last.values()), pa.int64()))

    def clear(self, names: Sequence[str]) -> None:
        """Remove files of the inbox whose lines are in `_usage`."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda name: store.remove_file(self.inbox, name), names))

    @property
    def uris(self) -> tuple[str, str]:
        """Return where the two tables lie."""
        return self._usage.uri, self._costs.uri

    @property
    def inbox(self) -> str:
        """Return where agents lay their windows."""
        return f"{self.uri}/_inbox"

    @property
    def _usage(self) -> Register:
        return Register(f"{self.uri}/_usage.lance", USAGE)

    @property
    def _costs(self) -> Register:
        return Register(f"{self.uri}/_costs.lance", COSTS)
