"""The books close only when every object came out once, whole, and its good rows were committed."""

from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycluster.compare import TODO
from raycluster.engine.tally import Tally
from raycluster.errors import RunFailed


def name(index: int) -> str:
    return sha256(str(index).encode()).hexdigest()


def message(fragment: str, *objects: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return what a worker says: for each object its number, pieces, good and bad rows in this fragment."""
    bad = [{"object_id": name(one), "code": "corrupt"} for one, _, _, count in objects for _ in range(count)]
    listed = [{"object_id": name(one), "pieces": of, "ok": ok, "bad": count} for one, of, ok, count in objects]
    return {"fragments": [fragment], "objects": listed, "bad": bad}


def tally(count: int, replaces: dict[int, list[str]] | None = None) -> Tally:
    rows = [{"object_id": name(index), "replaces": (replaces or {}).get(index, [])} for index in range(count)]
    return Tally(pa.Table.from_pylist(rows, pa.schema([TODO.field("object_id"), TODO.field("replaces")])))


def test_sums_of_a_run_that_conserves() -> None:
    books = tally(4)
    books.add(message("a", (0, 1, 1, 0), (1, 3, 2, 1)))
    books.add(message("b", (2, 1, 0, 1), (3, 2, 0, 2)))
    assert (books.objects["ok"], books.objects["bad"], books.touched) == (2, 2, 3)
    assert (books.rows["ok"], books.rows["bad"], books.codes["corrupt"]) == (3, 4, 4)
    ready = books.take()
    assert ready.fragments == ["a", "b"]
    assert (sorted(ready.good), sorted(ready.lost)) == (sorted(map(name, (0, 1))), sorted(map(name, (2, 3))))
    assert len(ready.bad) == 4
    books.require_conservation(committed=3)


def test_a_lost_object_is_noticed() -> None:
    books = tally(3)
    books.add(message("a", (0, 1, 1, 0), (2, 1, 1, 0)))
    with pytest.raises(RunFailed, match="1 objects never came out"):
        books.require_conservation(committed=2)


def test_a_lost_row_is_noticed() -> None:
    books = tally(1)
    books.add(message("a", (0, 3, 1, 1)))
    with pytest.raises(RunFailed, match="1 objects came out in part only"):
        books.require_conservation(committed=1)


def test_rows_that_were_not_committed_are_noticed() -> None:
    books = tally(1)
    books.add(message("a", (0, 3, 3, 0)))
    for committed in (2, 4):
        with pytest.raises(RunFailed, match=f"3 good rows came out, {committed} were committed"):
            books.require_conservation(committed=committed)


def test_a_doubled_row_is_noticed() -> None:
    books = tally(1)
    with pytest.raises(RunFailed, match="decoded into 2 rows, but 3 came out"):
        books.add(message("a", (0, 2, 3, 0)))
    assert books.take().fragments == []


def test_a_doubled_object_is_noticed() -> None:
    books = tally(2)
    books.add(message("a", (0, 1, 1, 0)))
    with pytest.raises(RunFailed, match="came out twice"):
        books.add(message("b", (0, 1, 1, 0)))
    assert books.take().fragments == ["a"]


def test_an_object_nobody_asked_for_is_noticed() -> None:
    with pytest.raises(RunFailed, match="never asked for"):
        tally(1).add(message("a", (7, 1, 1, 0)))


def test_ids_of_many_batches_are_told_apart_and_take_17_bytes_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster.engine.tally._READ_ROWS", 64)
    books = tally(1000)
    assert (books.expected.keys.nbytes + books.is_due.nbytes) == 17 * 1000
    for index in range(1000):
        books.add(message(f"f{index}", (index, 1, 1, 0)))
        with pytest.raises(RunFailed, match="came out twice"):
            books.add(message("again", (index, 1, 1, 0)))
        with pytest.raises(RunFailed, match="never asked for"):
            books.add(message("other", (1000 + index, 1, 1, 0)))
    assert len(books.take().good) == 1000
    books.require_conservation(committed=1000)


def test_ids_that_end_in_zeros_are_told_apart() -> None:
    # numpy takes zeros at the end of bytes for padding
    ids = ["ab" * 8 + "00" * 24, "ab" * 9 + "00" * 23, "00" * 32]
    books = Tally(
        pa.table({"object_id": pa.chunked_array([ids]), "replaces": pa.array([[]] * 3, pa.list_(pa.string()))})
    )
    assert len({books.expected.find(one) for one in ids}) == 3
    assert None not in {books.expected.find(one) for one in ids}
    assert books.expected.find("ab" * 10 + "00" * 22) is None
    assert np.all(books.is_due)


def test_what_an_object_replaces_is_handed_out_with_it() -> None:
    books = tally(4, {0: ["old"], 1: ["older", name(1)], 2: ["kept"]})
    books.add(message("a", (0, 1, 1, 0), (1, 1, 0, 1), (3, 1, 1, 0)))
    books.add(message("b", (2, 2, 1, 0)))
    assert sorted(books.take().replaced) == sorted(["old", "older", name(1)])
    books.add(message("c", (2, 2, 1, 0)))
    assert books.take().replaced == ["kept"]


def test_objects_in_part_wait_and_so_does_what_shares_their_fragments() -> None:
    books = tally(5)
    books.add(message("a", (0, 2, 1, 0), (1, 1, 1, 0)))  # 0 is here in half
    books.add(message("b", (2, 2, 1, 0), (3, 1, 1, 0)))
    assert books.take().fragments == []
    books.add(message("c", (2, 2, 1, 0)))  # completes 2
    assert books.take().fragments == ["b", "c"]
    books.add(message("d", (0, 2, 0, 1), (4, 2, 1, 0)))  # completes 0, but shares its fragment with half of 4
    assert books.take().fragments == []
    books.add(message("e", (4, 2, 1, 0)))
    ready = books.take()
    assert sorted(ready.fragments) == ["a", "d", "e"]
    assert sorted(ready.good) == sorted(map(name, (0, 1, 4)))
    books.require_conservation(committed=7)
    assert books.take().fragments == []  # nothing is handed out twice


@given(st.data())
def test_however_rows_are_cut_each_fragment_is_taken_once_and_only_with_whole_objects(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rows = [one for one, count in enumerate(pieces) for _ in range(count)]
    order = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1)))))
    books, seen, taken = tally(len(pieces)), dict.fromkeys(range(len(pieces)), 0), []
    holds: dict[str, set[int]] = {}
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        part = order[start:stop]
        holds[f"f{start}"] = set(part)
        books.add(message(f"f{start}", *((one, pieces[one], part.count(one), 0) for one in sorted(set(part)))))
        for one in part:
            seen[one] += 1
        fragments = books.take().fragments
        assert all(seen[one] == pieces[one] for fragment in fragments for one in holds[fragment])
        taken += fragments
    assert sorted(taken) == sorted(holds)
    books.require_conservation(committed=len(rows))
