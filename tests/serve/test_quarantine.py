"""The quarantine over HTTP: rows by pages, reasons counted, and closed to whoever does not see the whole dataset."""

from __future__ import annotations

import pytest

from raycluster.read._stores import store_of
from raycluster.row import object_id


def bad(number, code="corrupt", stage="image"):
    uri = f"file:///more/{number}.jpg"
    known = {"object_id": object_id(uri, "1"), "uri": uri, "modality": "image", "position": 0}
    return known | {"stage": stage, "code": code, "message": f"it's {code}"}


@pytest.fixture
def more(lake):
    rows = [bad(number, "empty" if number % 2 else "corrupt", "text" if number < 3 else "image") for number in range(9)]
    lake.quarantine("gallery").add(rows, run_id="it's run2", workload="w")


def test_rows_and_counts(client):
    found = client.get("/v1/quarantine/gallery").json()
    assert (found["dataset"], found["counts"], found["next"]) == ("gallery", {"corrupt": 1, "unsupported": 1}, None)
    first = found["rows"][0]
    assert first["uri"] == "file:///broken/a.jpg"
    assert (first["code"], first["stage"], first["attempts"], first["run_id"]) == ("corrupt", "decode", 1, "run1")
    assert first["message"] == "broken/a.jpg is corrupt"
    assert first["at"].endswith(("Z", "+00:00"))


def test_pages_follow_each_other_and_hold_all(client, more):
    whole = client.get("/v1/quarantine/gallery").json()
    assert len(whole["rows"]) == 11
    found, after = [], None
    for _ in range(10):
        asked = {"limit": 3} | ({"after": after} if after else {})
        page = client.get("/v1/quarantine/gallery", params=asked).json()
        assert page["counts"] == whole["counts"]
        found += page["rows"]
        if (after := page["next"]) is None:
            break
    assert found == whole["rows"]


def test_filters(client, more):
    def uris(**asked):
        return [row["uri"] for row in client.get("/v1/quarantine/gallery", params=asked).json()["rows"]]

    assert uris(code="empty") == [f"file:///more/{number}.jpg" for number in (1, 3, 5, 7)]
    assert uris(code="empty", stage="text") == ["file:///more/1.jpg"]
    assert uris(run="it's run2", stage="text") == [f"file:///more/{number}.jpg" for number in (0, 1, 2)]
    assert uris(run="run1") == ["file:///broken/a.jpg", "file:///broken/b.xyz"]
    assert uris(stage="x' OR 'a' = 'a") == []


@pytest.mark.parametrize(
    ("asked", "field"), [("code=corupt", "code"), ("limit=0", "limit"), ("after=x", "after"), ("limit=10000", "limit")]
)
def test_what_is_wrong_is_named(client, asked, field):
    answer = client.get(f"/v1/quarantine/gallery?{asked}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_a_dataset_without_quarantine_and_one_that_is_not_there(client):
    assert client.get("/v1/quarantine/other").json() == {"dataset": "other", "counts": {}, "rows": [], "next": None}
    assert client.get("/v1/quarantine/galery").status_code == 404


def test_a_dataset_whose_first_run_failed_has_a_quarantine(client, lake):
    lake.table("fresh").create_or_check(lake.table("other").schema())
    assert lake.table("fresh").live() is None
    lake.quarantine("fresh").add([bad(1)], run_id="run9", workload="w")
    assert client.get("/v1/quarantine/fresh").json()["counts"] == {"corrupt": 1}


def test_only_who_sees_the_whole_dataset_sees_what_is_bad_in_it(ask):
    assert ask("ann", "/v1/quarantine/gallery").json()["counts"] == {"corrupt": 1, "unsupported": 1}
    for subject in ("bob", "cid", "dan"):  # filtered rows, masked columns, another dataset
        answer = ask(subject, "/v1/quarantine/gallery")
        assert answer.status_code == 403
        assert "broken" not in answer.text
    assert ask("eve", "/v1/quarantine/gallery").status_code == 401


@pytest.fixture
def half(lake, tmp_path):
    """A picture that is cut off, in quarantine; returns its bytes and where they are served."""
    file = tmp_path / "half.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n<script>")
    uri = file.as_uri()
    version = store_of(uri, timeout=5).find(uri).version
    lake.quarantine("gallery").add(
        [bad(1) | {"uri": uri, "object_id": object_id(uri, version)}], run_id="r", workload="w"
    )
    row = next(row for row in lake.quarantine("gallery").rows() if row["uri"] == uri)
    return file, f"/v1/quarantine/gallery/{row['id']}/media"


def test_the_bytes_of_what_is_bad_can_be_looked_at_but_never_run(client, half):
    file, url = half
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]
    part = client.get(url, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"\x89PNG")


def test_bytes_that_are_not_those_that_were_bad_are_not_shown(client, half):
    file, url = half
    file.write_bytes(b"another one by now")
    assert client.get(url).status_code == 410
    file.unlink()
    assert client.get(url).status_code == 410
    assert client.get("/v1/quarantine/gallery/none/media").status_code == 404


def test_only_who_sees_the_whole_dataset_sees_bad_bytes(ask, half):
    _, url = half
    assert ask("ann", url).status_code == 200
    assert [ask(one, url).status_code for one in ("bob", "cid", "dan", "eve")] == [403, 403, 403, 401]
