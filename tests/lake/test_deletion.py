"""Objects are deleted: whole, by those who may see them, for good, and before anything else sees half of it."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from raycluster.errors import Forbidden, InvalidUse, NotFound, TooLarge
from raycluster.lake import deletion, query
from raycluster.lake.access import Access
from raycluster.lake.commit import Change, commit
from raycluster.lake.deletion import Deleted, Wanted, delete
from raycluster.lake.deletions import Deletion
from raycluster.lake.lake import Lake
from raycluster.lake.query import Page, Question
from raycluster.lake.rollback import roll_back
from raycluster.row import object_id


def uris(lake: Lake, version: int | str = "live") -> set[str]:
    return set(lake.table("d").open(version).to_table(columns=["uri"])["uri"].to_pylist())


def shown(anywhere: Any, *names: str) -> None:
    """Put objects and let readers see them."""
    landed = anywhere.put(names)
    anywhere.table.set_live(landed.version)


def go(lake: Lake, **wanted: Any) -> Deleted:
    return delete(lake, "d", Wanted(by="ann", **wanted))


def bad(uri: str) -> dict[str, Any]:
    fields = {"modality": "image", "position": 0, "stage": "decode", "code": "corrupt", "message": "it is"}
    return {"object_id": object_id(uri, "1"), "uri": uri, **fields}


def test_an_object_goes_whole_by_the_id_of_any_of_its_rows(place: Lake, anywhere: Any) -> None:
    shown(anywhere, "a", "b", "c")
    row = anywhere.rows(["a"])["id"].to_pylist()[1]
    gone = go(place, ids=[row, object_id("b", "1"), "f" * 64], why="they asked")
    assert (gone.objects, gone.rows, gone.live, gone.missing, gone.message) == (2, 4, True, ["f" * 64], "")
    assert gone.version == anywhere.table.live() == anywhere.table.version()
    assert uris(place) == {"c"}
    entry = place.deletions("d").get([object_id("a", "1")])[object_id("a", "1")]
    assert (entry.uri, entry.by, entry.why) == ("a", "ann", "they asked")
    assert "previous" not in anywhere.table.tags()  # `rollback` without a version undoes runs, not deletions
    page = query.rows(anywhere.table, Page(columns=("uri",)))
    assert set(page["uri"].to_pylist()) == {"c"}


def test_search_finds_nothing_of_it_through_its_indexes(lake: Lake, writer: Any) -> None:
    from raycluster.declare.workload import Index
    from raycluster.lake.index import build

    shown(writer, *(f"s3://b/{number}" for number in range(300)))
    built = build(lake.table("d"), (Index(column="vector", kind="ivf_flat"), Index(column="text", kind="fts")))
    writer.table.set_live(max(one.version for one in built))
    before = {hit["uri"] for hit in query.search(writer.table, Question(mode="text", text="piano", k=300)).hits}
    gone = go(lake, filter="text LIKE '%piano%'")
    assert gone.live
    assert gone.objects >= len(before) > 20
    assert query.search(writer.table, Question(mode="text", text="piano", k=300)).hits == []
    vector = [1.0] * writer.width
    found = {hit["uri"] for hit in query.search(writer.table, Question(vector=vector, k=600)).hits}
    assert found
    assert not found & before


def test_again_it_finds_nothing_and_changes_nothing(lake: Lake, writer: Any) -> None:
    shown(writer, "a", "b")
    first = go(lake, filter="uri = 'a'")
    again = go(lake, filter="uri = 'a'")
    assert (again.objects, again.rows, again.live, again.version) == (0, 0, True, first.version)
    assert go(lake, ids=[object_id("a", "1")]).missing == [object_id("a", "1")]


@pytest.mark.parametrize(
    ("wanted", "field", "reason"),
    [
        ({}, "ids", "names ids or a filter"),
        ({"ids": ["a"], "filter": "true"}, "ids", "names ids or a filter"),
        ({"filter": "urr = 'a'"}, "filter", "no column 'urr'"),
        ({"filter": "true; DROP TABLE d"}, "filter", "no condition"),
        ({"filter": ""}, "filter", "empty"),
    ],
)
def test_wrong_wishes_delete_nothing(lake: Lake, writer: Any, wanted: Any, field: str, reason: str) -> None:
    shown(writer, "a")
    with pytest.raises(InvalidUse, match=reason) as caught:
        go(lake, **wanted)
    assert caught.value.where == field
    assert uris(lake) == {"a"}
    assert list(lake.deletions("d").known()) == []


def test_of_nothing_there_is_nothing_to_delete(lake: Lake) -> None:
    with pytest.raises(NotFound, match="'d'"):
        go(lake, filter="true")


def test_too_many_at_once(lake: Lake, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown(writer, *"abcdef")
    monkeypatch.setattr(deletion, "MOST_OBJECTS", 5)
    with pytest.raises(TooLarge, match="more than 5 objects"):
        go(lake, filter="true")
    assert uris(lake) == set("abcdef")
    monkeypatch.setattr(deletion, "MOST_OBJECTS", 6)
    monkeypatch.setattr(deletion, "_A_COMMIT", 4)
    gone = go(lake, filter="true")
    assert (gone.objects, gone.rows) == (6, 12)
    assert uris(lake) == set()


def test_who_sees_some_rows_deletes_those_and_whole_objects_only(lake: Lake, writer: Any) -> None:
    shown(writer, *"abcdef")
    kinds = {one["uri"]: one["modality"] for one in writer.table.open().to_table().to_pylist()}
    kind = kinds["a"]
    gone = go(lake, filter="true", access=Access(filters=(f"modality = '{kind}'",)))
    assert uris(lake) == {uri for uri, own in kinds.items() if own != kind}
    assert gone.objects == list(kinds.values()).count(kind)
    other = next(iter(uris(lake)))
    hidden = go(lake, ids=[object_id(other, "1")], access=Access(filters=(f"modality = '{kind}'",)))
    assert (hidden.objects, hidden.missing) == (0, [object_id(other, "1")])
    for filters in (("position = 0",), ("position = 0 OR start_seconds > 1e9",), ("start_seconds < 1e9",)):
        with pytest.raises(Forbidden, match="rows that you may not see"):
            go(lake, ids=[object_id(other, "1")], access=Access(filters=filters))
    assert other in uris(lake)


def test_who_sees_masks_does_not_choose_by_them(lake: Lake, writer: Any) -> None:
    shown(writer, *"ab")
    with pytest.raises(Forbidden, match="'text' is masked"):
        go(lake, filter="text LIKE '%piano%'", access=Access(masks={"text": "NULL"}))
    with pytest.raises(Forbidden, match="'object_id' is masked"):
        go(lake, ids=["x"], access=Access(masks={"object_id": "NULL"}))
    assert uris(lake) == {"a", "b"}
    assert go(lake, filter="uri = 'a'", access=Access(masks={"text": "NULL"})).objects == 1


def test_what_is_in_quarantine_goes_too(lake: Lake, writer: Any) -> None:
    shown(writer, "a", "b")
    quarantine = lake.quarantine("d")
    quarantine.add([bad("a") | {"position": 7}, bad("only bad"), bad("other")], run_id="r", workload="w")
    seen = Access(filters=("true",))
    assert go(lake, ids=[object_id("only bad", "1")], access=seen).missing == [object_id("only bad", "1")]
    gone = go(lake, ids=[object_id("only bad", "1"), object_id("a", "1")])
    assert (gone.objects, gone.rows, gone.live, gone.missing) == (2, 2, True, [])
    assert {row["uri"] for row in quarantine.rows()} == {"other"}
    assert set(lake.deletions("d").get([object_id("only bad", "1")])) == {object_id("only bad", "1")}


def test_what_was_posted_loses_its_bytes(lake: Lake, writer: Any) -> None:
    import io
    from pathlib import Path

    posted = lake.batches().land("d", [("a.txt", io.BytesIO(b"a")), ("b.txt", io.BytesIO(b"b"))])
    shown(writer, *posted)
    go(lake, filter=f"uri = '{posted[0]}'")
    left = [one.name for one in Path(lake.uri, "_landed").rglob("*") if one.is_file()]
    assert left == ["b.txt"]


def test_readers_see_it_while_a_run_is_unfinished(lake: Lake, writer: Any) -> None:
    shown(writer, "a", "b")
    commit(writer.table, Change(run_id="r9", workload="nightly", fence="take", declaration={"digest": "1", "yaml": ""}))
    live = writer.table.live()
    gone = go(lake, filter="uri = 'a'")
    assert (gone.live, gone.rows) == (False, 2)
    assert "run r9 of 'nightly'" in gone.message
    assert writer.table.live() == live
    assert uris(lake, "latest") == {"b"}
    # what readers see can be named again, and the run shows them what is left
    assert go(lake, filter="uri = 'a'").objects == 1
    landed = commit(writer.table, Change(run_id="r9", workload="nightly", fence="release"))
    writer.table.set_live(landed.version)
    assert uris(lake) == {"b"}


def test_before_anything_is_live_there_are_no_readers(lake: Lake, writer: Any) -> None:
    writer.put(["a", "b"])
    gone = go(lake, filter="uri = 'a'")
    assert (gone.objects, gone.live, writer.table.live()) == (1, True, None)


def test_a_death_after_the_entry_leaves_the_rest_to_the_same_request(
    lake: Lake, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(writer, "a", "b")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deletion, "commit", die)
    with pytest.raises(KeyboardInterrupt):
        go(lake, filter="uri = 'a'")
    assert lake.deletions("d").among([pa.array([object_id("a", "1"), object_id("b", "1")])]) == [object_id("a", "1")]
    monkeypatch.undo()
    assert go(lake, filter="uri = 'a'").rows == 2
    assert uris(lake) == {"b"}


def test_a_rollback_brings_nothing_back_that_was_deleted(lake: Lake, writer: Any) -> None:
    shown(writer, "a", "b")
    before = writer.table.live()
    shown(writer, "c")
    go(lake, filter="uri = 'a'")
    done = roll_back(lake, "d", to=str(before), by="ben")
    assert uris(lake) == uris(lake, "latest") == {"b"}
    assert done.version == done.restored == writer.table.live()
    plain = roll_back(lake, "d", to=str(done.version), by="ben")
    assert (plain.version, writer.table.live()) == (done.version, done.version)


def test_what_was_deleted_can_be_let_in_again(place: Lake) -> None:
    register = place.deletions("d")
    assert register.restore(["a"]) == 0
    at = datetime(2026, 1, 1, tzinfo=UTC)
    register.put([Deletion(object_id=one, uri=f"s3://b/{one}", by="ann", why="", at=at) for one in "xyz"])
    (known,) = register.known()
    assert sorted(known.column("object_id").to_pylist()) == ["x", "y", "z"]
    assert register.restore(["s3://b/x", "s3://b/none"]) == 1
    assert register.among([pa.array(["x", "y"]), pa.array(["z", "q"])]) == ["y", "z"]
