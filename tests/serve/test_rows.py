"""Rows, one or page after page, as JSON and as Arrow, and their pictures, to who may see them."""

import base64
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from gallery import SCHEMA, Piece, Raw, picture, put, rows_of, save
from PIL import Image
from starlette.testclient import TestClient

from raycluster.lake.access import Access
from raycluster.lake.lake import Lake
from raycluster.serve.reply import plain
from raycluster.serve.rows import ARROW


def row(client: TestClient, key: str, **asked: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/datasets/gallery/rows/{key}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pages(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    """Return all rows, page after page."""
    found, after = [], None
    while True:
        answer = client.get("/v1/data/gallery", params={**asked, **({"after": after} if after else {})}).json()
        found += answer["rows"]
        if (after := answer["next"]) is None:
            return found


def test_one_row(client: TestClient, ids: dict[str, str]) -> None:
    found = row(client, ids["tone.wav"])
    assert (found["dataset"], found["version"]) == ("gallery", 2)
    assert set(found["row"]) == set(SCHEMA.names) - {"thumbnail"}
    assert found["row"]["text"] == "a piano plays"
    assert len(found["row"]["vector"]) == 16
    assert found["row"]["label_score"] is None, "JSON has no NaN"
    assert datetime.fromisoformat(found["row"]["ingested_at"]).tzinfo == UTC


def test_some_columns_of_a_row(client: TestClient, ids: dict[str, str]) -> None:
    found = row(client, ids["red.png"], columns="label,features.width")["row"]
    assert found == {"id": ids["red.png"], "label": "red", "features.width": 320}
    wrong = client.get(f"/v1/datasets/gallery/rows/{ids['red.png']}?columns=lable")
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "columns")
    assert "label" in wrong.json()["error"]["fix"]


def test_a_row_of_an_older_version(client: TestClient, lake: Lake, ids: dict[str, str], tmp_path: Any) -> None:
    new = {"new.txt": Raw(b"snow", "text", "text/plain", (Piece("snow"),))}
    rows = rows_of(save(tmp_path, new), new)
    assert put(lake, "gallery", rows, run="run2") == 3
    key = rows["id"][0].as_py()
    url = f"/v1/datasets/gallery/rows/{key}"
    assert client.get(f"{url}?version=latest").json()["version"] == 3
    assert client.get(f"{url}?version=2").status_code == 404
    assert client.get("/v1/data/gallery?version=2&limit=1").json()["version"] == 2
    assert client.get(f"{url}?version=9").status_code == 404
    for absent in ("previous", "a.", "a..b", "a.lock"):  # some cannot be the name of a tag
        assert client.get(f"{url}?version={absent}").status_code == 404
    assert client.get(f"/v1/datasets/gallery/rows/{ids['red.png']}?version=previous").json()["version"] == 2


@pytest.mark.parametrize("version", ["99999999999999999999", "-1", "a b", "²", "../2", "x" * 100, "1%00"])
def test_versions_that_are_none(client: TestClient, ids: dict[str, str], version: str) -> None:
    answer = client.get(f"/v1/datasets/gallery/rows/{ids['red.png']}?version={version}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "version")


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("0" * 64, 404),
        ("a' OR 'a' = 'a", 400),
        ("..%2f..%2fetc%2fpasswd", 404),
        ("%2e%2e", 404),
        ("a%00b", 400),
        ("f" * 5000, 400),
        ("a%0d%0aX-Evil:%201", 400),
    ],
)
@pytest.mark.parametrize("part", ["", "/thumbnail", "/media"])
def test_ids_that_name_no_row(client: TestClient, key: str, status: int, part: str) -> None:
    answer = client.get(f"/v1/datasets/gallery/rows/{key}{part}")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in ("not_found", "invalid")
    assert "X-Evil" not in answer.headers


def test_a_picture(client: TestClient, ids: dict[str, str]) -> None:
    url = f"/v1/datasets/gallery/rows/{ids['red.png']}/thumbnail"
    answer = client.get(url)
    assert answer.content == picture("red", (32, 24))
    assert Image.open(io.BytesIO(answer.content)).size == (32, 24)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["ETag"] == f'"{ids["red.png"]}-2"'
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] == "Authorization"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = client.get(url, headers={"If-None-Match": f'"x", W/{answer.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]
    assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200


def test_a_row_without_a_picture(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.get(f"/v1/datasets/gallery/rows/{ids['river.txt']}/thumbnail")
    assert (answer.status_code, "no picture" in answer.json()["error"]["message"]) == (404, True)


def test_a_picture_that_is_none(client: TestClient, lake: Lake, tmp_path: Any) -> None:
    """A stranger may have written anything where a picture should be."""
    page = {"a.txt": Raw(b"a", "text", "text/plain", (Piece("a", thumbnail=b"<script>alert(1)</script>"),))}
    rows = rows_of(save(tmp_path, page), page)
    put(lake, "strange", rows)
    answer = client.get(f"/v1/datasets/strange/rows/{rows['id'][0].as_py()}/thumbnail")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("limit", [1, 4, 15, 100])
def test_pages_show_each_row_once(client: TestClient, ids: dict[str, str], limit: int) -> None:
    found = pages(client, limit=limit, columns="id,text")
    assert [one["id"] for one in found] == sorted(ids.values())


def test_a_page_of_a_filter(client: TestClient) -> None:
    found = pages(client, limit=2, filter="modality = 'image' AND label <> 'red'")
    assert sorted(one["label"] for one in found) == ["blue", "gold", "gray", "green", "pink", "skyblue"]
    assert set(found[0]) == set(SCHEMA.names) - {"thumbnail"}
    assert client.get("/v1/data/gallery?filter=modality='nothing'").json()["rows"] == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("limit=0", "limit"),
        ("limit=100000", "limit"),
        ("limit=x", "limit"),
        ("filter=nothing = 1", "filter"),
        ("filter=true) OR (true", "filter"),
        ("filter=", "filter"),
        ("columns=thumbnail", "columns"),
        ("columns=nothing", "columns"),
        ("columns=", "columns"),
        ("after=a' OR true --", "after"),
        ("version=no tag", "version"),
    ],
)
def test_what_cannot_be_asked(client: TestClient, asked: str, field: str) -> None:
    answer = client.get(f"/v1/data/gallery?{asked}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_an_arrow_stream(client: TestClient) -> None:
    answer = client.get("/v1/data/gallery?limit=10", headers={"Accept": f"{ARROW}, */*"})
    assert answer.headers["Content-Type"] == ARROW
    assert answer.headers["Vary"] == "Accept, Authorization"
    found = pa.ipc.open_stream(answer.content).read_all()
    last = found["id"][-1].as_py()
    assert found.schema.metadata == {b"dataset": b"gallery", b"version": b"2", b"next": last.encode()}
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 16)
    rest = client.get(f"/v1/data/gallery?after={last}", headers={"Accept": ARROW})
    more = pa.ipc.open_stream(rest.content).read_all()
    assert (found.num_rows, more.num_rows, more.schema.metadata[b"next"]) == (10, 5, b"")
    none = client.get("/v1/data/gallery?filter=false", headers={"Accept": ARROW})
    assert pa.ipc.open_stream(none.content).read_all().num_rows == 0


def test_a_long_page_comes_in_pieces(client: TestClient, lake: Lake, tmp_path: Any) -> None:
    """A page is longer than a piece of an answer, JSON and Arrow."""
    words = Raw(b"words", "text", "text/plain", tuple(Piece(f"word {at}") for at in range(700)))
    put(lake, "long", rows_of(save(tmp_path, {"w.txt": words}), {"w.txt": words}))
    found = client.get("/v1/data/long?limit=1000&columns=text").json()["rows"]
    answer = client.get("/v1/data/long?limit=1000&columns=text", headers={"Accept": ARROW})
    assert pa.ipc.open_stream(answer.content).read_all().to_pylist() == found
    assert sorted(one["text"] for one in found) == sorted(f"word {at}" for at in range(700))


def test_rows_are_those_that_one_may_see(ask: Callable[..., Any], ids: dict[str, str]) -> None:
    mine = ask("bob", "/v1/data/gallery").json()["rows"]
    assert {one["modality"] for one in mine} == {"image"}
    assert ask("bob", "/v1/data/gallery?filter=modality = 'audio'").json()["rows"] == []
    for part in ("", "/thumbnail"):
        hidden = ask("bob", f"/v1/datasets/gallery/rows/{ids['clip.mp4']}{part}")
        absent = ask("bob", f"/v1/datasets/gallery/rows/{'0' * 64}{part}")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace(ids["clip.mp4"], "") == absent.text.replace("0" * 64, "")
        assert ask("bob", f"/v1/datasets/gallery/rows/{ids['red.png']}{part}").status_code == 200
        assert ask("dan", f"/v1/datasets/gallery/rows/{ids['red.png']}{part}").status_code == 403
    tag = ask("ann", f"/v1/datasets/gallery/rows/{ids['clip.mp4']}/thumbnail").headers["ETag"]
    known = ask("bob", f"/v1/datasets/gallery/rows/{ids['clip.mp4']}/thumbnail", headers={"If-None-Match": tag})
    assert known.status_code == 404, "to know a tag is not to may see"


def test_values_that_a_policy_masks(ask: Callable[..., Any], ids: dict[str, str], told: Any) -> None:
    url = f"/v1/datasets/gallery/rows/{ids['tone.wav']}"
    assert ask("cid", url).json()["row"]["text"] is None
    assert ask("cid", f"{url}?columns=text").json()["row"]["text"] is None
    assert ask("ann", url).json()["row"]["text"] == "a piano plays"
    assert ask("cid", "/v1/data/gallery?filter=text = 'a piano plays'").status_code == 403
    assert {one["text"] for one in ask("cid", "/v1/data/gallery").json()["rows"]} == {None}
    shown = f"/v1/datasets/gallery/rows/{ids['red.png']}/thumbnail"
    assert ask("cid", shown).status_code == 200
    told.allowed["cid"]["gallery"] = Access(masks={"thumbnail": "NULL"})
    assert ask("cid", shown).status_code == 403


def test_values_as_json() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    value = {"a": [1.5, float("nan"), float("inf")], "b": b"\xff", "c": moment, "d": None, "e": True, "f": {1: "x"}}
    written = {
        "a": [1.5, None, None],
        "b": base64.b64encode(b"\xff").decode(),
        "c": "2026-01-02T00:00:00+00:00",
        "d": None,
        "e": True,
        "f": {"1": "x"},
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == written
    assert plain(moment - datetime(2026, 1, 1, tzinfo=UTC)) == "1 day, 0:00:00"
