"""Messages of workers become the driver's books: what may be committed, what is bad, the proof that nothing is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.errors import RunFailed

_READ_ROWS = 65_536  # ids turned into keys at once: 10 MB


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What may be committed now: fragments that hold whole objects only, with their objects and bad rows."""

    fragments: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)  # ids of objects with rows in the fragments
    lost: list[str] = field(default_factory=list)  # ids of objects of which nothing could be used
    bad: list[dict[str, Any]] = field(default_factory=list)  # rows of both
    replaced: list[str] = field(default_factory=list)  # ids whose earlier rows both replace: older versions, and own
    is_committed: bool = False  # the fragments are in the dataset, and what they replace is not


class Tally:
    """The driver's books.

    Memory holds 17 bytes an object, the ids that changed objects replace, and the messages that wait for a commit.

    Args:
        todo: every object that is to come, once: columns `object_id` and `replaces` of `compare.TODO`.
    """

    def __init__(self, todo: pa.Table) -> None:
        self.expected = _Places(todo["object_id"])
        self.is_due = np.ones(len(self.expected.keys), bool)  # by place: objects that have not ended yet
        changed = todo.select(["object_id", "replaces"]).filter(pc.greater(pc.list_value_length(todo["replaces"]), 0))
        self.replaces = dict(zip(changed["object_id"].to_pylist(), changed["replaces"].to_pylist(), strict=True))
        self.waiting: dict[str, list[int]] = {}  # objects whose rows came in part: object_id -> pieces, ok, bad
        self.pending: list[dict[str, Any]] = []  # messages not yet taken
        self.ended: dict[str, bool] = {}  # objects of pending messages that are complete -> whether wholly bad
        self.objects = Counter[str]()  # "ok": in the dataset, "bad": wholly in quarantine
        self.touched = 0  # objects with any bad row
        self.rows = Counter[str]()  # "ok", "bad"
        self.codes = Counter[str]()

    def add(self, message: dict[str, Any]) -> None:
        """Enter one message of schema `outlet.MESSAGE`.

        Raises:
            RunFailed: an object came that was not asked for, or came again, or in more rows than it has. Nothing of
                the message will be committed.
        """
        for one in message["objects"]:
            place = self.expected.find(one["object_id"])
            if place is None or not self.is_due[place]:
                raise RunFailed(f"object {one['object_id']} came out twice, or was never asked for", fix="run it again")
            sums = self.waiting.setdefault(one["object_id"], [one["pieces"], 0, 0])
            sums[1] += one["ok"]
            sums[2] += one["bad"]
            if sums[1] + sums[2] >= sums[0]:
                self._close(one["object_id"])
                self.is_due[place] = False
        self.codes.update(bad["code"] for bad in message["bad"])
        self.pending.append(message)

    def _close(self, identity: str) -> None:
        pieces, ok, bad = self.waiting[identity]
        if ok + bad != pieces:
            raise RunFailed(f"object {identity} was decoded into {pieces} rows, but {ok + bad} came out")
        del self.waiting[identity]
        self.ended[identity] = not ok
        self.objects["ok" if ok else "bad"] += 1
        self.touched += bad > 0
        self.rows["ok"] += ok
        self.rows["bad"] += bad

    def take(self) -> Ready:
        """Hand out the messages whose objects are all complete, and so are those of every message they share one with.

        Where rows travel between pools, an object's rows may lie in several fragments: those go together.
        """
        held = set(self.waiting)
        ready, later = self.pending, list[dict[str, Any]]()
        while True:
            kept = [message for message in ready if not any(one["object_id"] in held for one in message["objects"])]
            if len(kept) == len(ready):
                break
            taken = {id(message) for message in kept}
            dropped = [message for message in ready if id(message) not in taken]
            held.update(one["object_id"] for message in dropped for one in message["objects"])
            later += dropped
            ready = kept
        self.pending = later
        ids = {one["object_id"] for message in ready for one in message["objects"]}
        whole = {identity: self.ended.pop(identity) for identity in ids}
        return Ready(
            fragments=[fragment for message in ready for fragment in message["fragments"]],
            good=[identity for identity, is_bad in whole.items() if not is_bad],
            lost=[identity for identity, is_bad in whole.items() if is_bad],
            bad=[bad for message in ready for bad in message["bad"]],
            replaced=[old for identity in whole for old in self.replaces.get(identity, ())],
        )

    def require_conservation(self, *, committed: int) -> None:
        """Prove that every object that was asked for came out once, whole, and that its good rows were committed.

        Raises:
            RunFailed: the sums do not add up; `live` must not move.
        """
        if self.waiting:
            raise RunFailed(f"{len(self.waiting)} objects came out in part only", fix="run it again")
        if missing := int(self.is_due.sum()):
            raise RunFailed(f"{missing} objects never came out", fix="run it again")
        if committed != self.rows["ok"]:
            raise RunFailed(f"{self.rows['ok']} good rows came out, {committed} were committed", fix="run it again")


class _Places:
    """A set of ids in the memory of their first 16 bytes, each with a place."""

    def __init__(self, identities: pa.ChunkedArray) -> None:
        # keys: (object,) of 16 bytes, sorted. numpy takes zeros at the end for padding, which all keys have alike.
        parts = [_keys(batch["id"].to_pylist()) for batch in pa.table({"id": identities}).to_batches(_READ_ROWS)]
        self.keys = np.sort(np.concatenate([np.empty(0, "S16"), *parts]))

    def find(self, identity: str) -> int | None:
        """Return the place of an id, or None."""
        (key,) = _keys([identity])
        place = int(np.searchsorted(self.keys, key))
        return place if place < len(self.keys) and self.keys[place] == key else None


def _keys(identities: list[str]) -> np.ndarray:
    # digests: (object, 32 bytes) uint8, of which the first half is kept
    digests = np.frombuffer(bytes.fromhex("".join(identities)), np.uint8).reshape(-1, 32)
    return np.ascontiguousarray(digests[:, :16]).view("S16")[:, 0]
