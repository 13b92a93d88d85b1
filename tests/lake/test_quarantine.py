from __future__ import annotations

import threading

import pytest

from raycluster.errors import InvalidUse, NotFound
from raycluster.lake.quarantine import place_of


def bad(number: int, code: str = "corrupt", **more):
    entry = {
        "object_id": f"o{number}",
        "uri": f"u{number}",
        "modality": "image",
        "position": 0,
        "stage": "image",
        "code": code,
        "message": f"it's {code}",
    }
    return entry | more


def test_adding_again_counts_runs_not_rows(place):
    quarantine = place.quarantine("d")
    rows = [bad(1), bad(2, "empty", modality=None, position=None)]
    for run_id in ("r1", "r1", "r2"):
        quarantine.add(rows, run_id=run_id, workload="w")
    found = {row["object_id"]: row for row in quarantine.rows()}
    assert len(found) == 2
    assert {row["attempts"] for row in found.values()} == {2}
    assert found["o1"]["run_id"] == "r2"
    assert found["o1"]["message"] == "it's corrupt"
    assert found["o1"]["at"].tzinfo is not None
    assert (found["o2"]["modality"], found["o2"]["position"]) == (None, None)


def test_the_newest_reason_stays(place):
    quarantine = place.quarantine("d")
    quarantine.add([bad(1, "timeout")], run_id="r1", workload="w")
    first = quarantine.rows()[0]["at"]
    quarantine.add([bad(1, "corrupt"), bad(1, "truncated")], run_id="r2", workload="w2")
    (row,) = quarantine.rows()
    assert (row["code"], row["workload"], row["attempts"]) == ("truncated", "w2", 2)
    assert row["at"] > first


def test_an_object_is_settled_only_under_the_declaration_that_settled_it(place):
    quarantine = place.quarantine("d")
    quarantine.add([bad(1), bad(2) | {"settled_by": "old"}, bad(3) | {"settled_by": "new"}], run_id="r", workload="w")
    found = [row for batch in quarantine.known("new") for row in batch.to_pylist()]
    assert {row["object_id"]: row["settled"] for row in found} == {"o1": False, "o2": False, "o3": True}
    assert {row["workload"] for row in found} == {"w"}


def test_pieces_of_an_object_are_apart(place):
    quarantine = place.quarantine("d")
    pieces = [bad(1, position=0), bad(1, position=1), bad(1, position=1, modality="audio"), bad(2)]
    quarantine.add(pieces, run_id="r", workload="w")
    assert quarantine.counts() == {"corrupt": 4}
    assert {row["object_id"] for batch in quarantine.known("digest") for row in batch.to_pylist()} == {"o1", "o2"}
    assert quarantine.remove(["o1", "o9"]) == 3
    assert [row["object_id"] for row in quarantine.rows()] == ["o2"]
    assert quarantine.remove(["o1"]) == 0
    assert quarantine.remove([]) == 0


def test_what_a_run_has_put_stays_when_it_removes_what_others_have(place):
    quarantine = place.quarantine("d")
    quarantine.add([bad(1), bad(1, position=1), bad(2), bad(3)], run_id="r1", workload="w")
    quarantine.add([bad(1, "empty", position=1), bad(2)], run_id="it's r2", workload="w")
    assert quarantine.remove(["o1", "o2"], except_run="it's r2") == 1
    found = sorted((row["object_id"], row["position"], row["run_id"]) for row in quarantine.rows())
    assert found == [("o1", 1, "it's r2"), ("o2", 0, "it's r2"), ("o3", 0, "r1")]
    assert quarantine.remove(["o1", "o2"], except_run="r3") == 2


def test_listing_by_code_and_condition(lake):
    quarantine = lake.quarantine("d")
    quarantine.add([bad(n, "corrupt" if n % 3 else "empty") for n in range(30)], run_id="r", workload="w")
    assert quarantine.counts() == {"corrupt": 20, "empty": 10}
    assert {row["object_id"] for row in quarantine.rows("empty")} == {f"o{n}" for n in range(0, 30, 3)}
    assert [row["object_id"] for row in quarantine.rows("corrupt", where="uri = 'u4' OR uri = 'u3'")] == ["o4"]
    assert len(quarantine.rows(limit=7)) == 7
    with pytest.raises(NotFound, match="did you mean 'corrupt'"):
        quarantine.rows("corupt")
    with pytest.raises(InvalidUse, match="'nope = 1' is no condition"):
        quarantine.rows(where="nope = 1")
    with pytest.raises(InvalidUse, match="closes nothing"):
        quarantine.rows("empty", where="1 = 1) OR (1 = 1")


def test_newest_first(lake):
    quarantine = lake.quarantine("d")
    for number in range(4):
        quarantine.add([bad(number)], run_id="r", workload="w")
    assert [row["object_id"] for row in quarantine.rows()] == ["o3", "o2", "o1", "o0"]


def test_more_than_one_merge(lake, monkeypatch):
    monkeypatch.setattr("raycluster.lake.quarantine._ADDED_AT_ONCE", 10)
    monkeypatch.setattr("raycluster.lake.sql._VALUES_A_FILTER", 7)
    quarantine = lake.quarantine("d")
    for run_id in ("r1", "r2"):
        quarantine.add([bad(number) for number in range(35)], run_id=run_id, workload="w")
    assert quarantine.counts() == {"corrupt": 35}
    assert {row["attempts"] for row in quarantine.rows()} == {2}
    assert quarantine.remove([f"o{number}" for number in range(30)]) == 30


def test_drivers_at_once_do_not_double(lake):
    errors = []

    def add(number):
        try:
            for turn in range(5):
                lake.quarantine("d").add(
                    [bad(one) for one in range(turn, turn + 10)], run_id=f"r{number}", workload="w"
                )
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert sorted(row["object_id"] for row in lake.quarantine("d").rows()) == sorted(f"o{n}" for n in range(14))


def test_pages_hold_every_row_once_whatever_else_happens(place):
    quarantine = place.quarantine("d")
    odd = [f"u|{n} it's" for n in range(5)]
    quarantine.add([bad(n, uri=uri) for n, uri in enumerate(odd)], run_id="r1", workload="w")
    quarantine.add([bad(n, "empty") for n in range(5, 12)], run_id="r2", workload="w")
    whole = quarantine.rows()
    assert [row["object_id"] for row in whole[7:]] == [f"o{n}" for n in range(5)]  # those of one moment, by uri
    found, after = [], None
    while page := quarantine.rows(limit=5, after=after):
        found += page
        after = place_of(page[-1])
        quarantine.remove([page[-1]["object_id"]])  # as a replay does
        quarantine.add([bad(100 + len(found))], run_id="r3", workload="w")  # newer: before all pages
    assert found == whole
    some = quarantine.rows("empty", where="uri > 'u7'", after=place_of(whole[5]))
    assert [row["object_id"] for row in some] == ["o9"]


@pytest.mark.parametrize("after", ["x", "2026-01-01|u", "yesterday|u|i", "|", "2026-01-01T00:00:00"])
def test_a_place_that_is_none_is_refused(lake, after):
    with pytest.raises(InvalidUse, match="no place in a quarantine") as caught:
        lake.quarantine("d").rows(after=after)
    assert caught.value.where == "after"
