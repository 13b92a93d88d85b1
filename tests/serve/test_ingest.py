"""Objects are posted and deleted over HTTP: landed whole or not at all, once a key, read from where that is allowed."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery import Told, declare, picture
from starlette.testclient import TestClient

from raycluster.lake.lake import Lake
from raycluster.read import Reference
from raycluster.read.posted import Posted
from raycluster.serve.context import Context
from raycluster.serve.ingest import safe
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

JSON = {"content-type": "application/json"}


class Noted:
    """Takes what has landed, and runs nothing."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.taken = lake, list[str]()

    async def submit(self, dataset: str, batch: str) -> str:
        found = self.lake.batches().require(batch)
        assert found.dataset == dataset
        self.taken.append(batch)
        return f"run-of-{batch}"


@pytest.fixture
def noted(lake: Lake) -> Noted:
    declare(lake)
    return Noted(lake)


@pytest.fixture
def context(lake: Lake, noted: Noted, folder: Path) -> Iterator[Context]:
    settings = Settings(lake=lake.uri, sources=(str(folder), "s3://bucket/a"), most_upload=400_000, most_body=60_000)
    opened = Context.open(settings, intake=noted)
    yield opened
    opened.close()


Files = list[tuple[str, tuple[str, bytes, str]]]


def uploads(*named: tuple[str, bytes]) -> Files:
    return [("files", (name, content, "application/octet-stream")) for name, content in named]


def post(client: TestClient, *named: tuple[str, bytes], key: str | None = None, **more: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/data/gallery", files=uploads(*named), headers=headers, **more)


def error(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()["error"]
    return told


def landed(lake: Lake) -> list[str]:
    return sorted(one.name for one in Path(lake.uri, "_landed").rglob("*") if one.is_file())


def nothing(noted: Noted) -> bool:
    """Tell whether nothing has come of a request."""
    return (landed(noted.lake), noted.taken, noted.lake.batches().landed()) == ([], [], [])


def test_uploads_land_and_name_a_run_to_follow(client: TestClient, lake: Lake, noted: Noted) -> None:
    red = picture("red")
    answer = post(client, ("red.png", red), ("red.png", picture("blue")), ("ordet på gata.txt", b"words"))
    assert answer.status_code == 202
    told = answer.json()
    assert (told["dataset"], told["follow"]) == ("gallery", f"/v1/runs/{told['run_id']}")
    assert told["run_id"] == f"run-of-{told['batch']}"
    assert [one["name"] for one in told["objects"]] == ["red.png", "red.png", "ordet på gata.txt"]
    assert answer.headers["cache-control"] == "private, no-cache"
    batch = lake.batches().require(told["batch"])
    assert (batch.by, batch.workload, batch.state, noted.taken) == ("anonymous", "w", "landed", [told["batch"]])
    source = Posted(lake=lake.uri, dataset="gallery")
    media = [source.get(Reference(**one)) for rows in source.objects() for one in rows.to_pylist()]
    assert [one.uri for one in media] == [one["uri"] for one in told["objects"]]
    assert (media[0].content, media[0].modality, media[2].content) == (red, "image", b"words")


def test_json_brings_texts_and_what_lies_below_a_source(client: TestClient, lake: Lake, folder: Path) -> None:
    there = f"{folder}/photos/red.png"
    body = {"objects": [{"text": "först \U0001f600", "name": "a/b.md"}, {"uri": there}, {"text": "x"}, {"uri": there}]}
    told = client.post("/v1/data/gallery", json=body).json()
    assert [one["uri"].rpartition("/")[2] for one in told["objects"]] == ["b.md", "red.png", "text.txt"]
    assert told["objects"][1] == {"uri": Path(there).as_uri()}
    assert landed(lake) == ["b.md", "text.txt"]  # what is named is not copied
    first = Path(lake.uri, "_landed").rglob("b.md")
    assert next(first).read_text() == "först \U0001f600"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"objects": []}, 400, "objects"),
        ({}, 400, "objects"),
        ({"objects": [{}]}, 400, "objects.0"),
        ({"objects": [{"text": "a"}, {"uri": "s3://bucket/a/x", "text": "a"}]}, 400, "objects.1"),
        ({"objects": [{"uri": "s3://bucket/a/x", "name": "a"}]}, 400, "objects.0"),
        ({"objects": [{"text": " \n"}]}, 400, "objects.0.text"),
        ({"objects": [{"text": 5}]}, 400, "objects.0.text"),
        ({"objects": [{"url": "s3://bucket/a/x"}]}, 400, "objects.0.url"),
        ({"objects": [{"uri": "s3://bucket/b/x"}]}, 403, "objects.0.uri"),
        ({"objects": [{"text": "a"}, {"uri": "file:///etc/passwd"}]}, 403, "objects.1.uri"),
        ({"objects": [{"uri": "s3://bucket/a/../b"}]}, 400, "objects.0.uri"),
        ({"objects": [{"text": "a"}] * 1001}, 400, "objects"),
        ({"objects": [{"text": "a" * 70_000}]}, 413, None),
        ([], 400, None),
    ],
)
def test_a_wrong_body_lands_nothing(client: TestClient, noted: Noted, body: Any, status: int, field: str) -> None:
    told = error(client.post("/v1/data/gallery", json=body), status)
    if field is not None:
        assert told["field"] == field
    assert told["fix"]
    assert nothing(noted)


@pytest.mark.parametrize(
    ("sent", "status", "field"),
    [
        ({"files": uploads(("a.txt", b"a"), ("b.txt", b""))}, 400, "files"),
        ({"files": [("file", ("a.txt", b"a", "text/plain"))]}, 400, "file"),
        ({"files": uploads(("a.txt", b"a")), "data": {"note": "x"}}, 400, "note"),
        ({"files": uploads(*[(f"{at}.txt", b"a") for at in range(1001)])}, 413, "files"),
        ({"content": b"{", "headers": JSON}, 400, None),
        ({"content": b'{"objects": [{"text": "\\ud800"}]}', "headers": JSON}, 400, None),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 400, "content-type"),
        ({"content": b"x"}, 400, "content-type"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "files"),
        ({"content": b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "files"),
        ({"content": b"--x\r\nno", "headers": {"content-type": "multipart/form-data"}}, 400, "files"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "files"),
        ({"files": uploads(("a.txt", b"a")), "headers": {"idempotency-key": "k" * 201}}, 400, "idempotency-key"),
        ({"files": uploads(("a.txt", b"a")), "headers": {"idempotency-key": ""}}, 400, "idempotency-key"),
        ({"files": uploads(("a.txt", b"a")), "params": {"workload": "v"}}, 404, None),
    ],
)
def test_a_wrong_form_lands_nothing(client: TestClient, noted: Noted, sent: Any, status: int, field: str) -> None:
    told = error(client.post("/v1/data/gallery", **sent), status)
    if field is not None:
        assert told["field"] == field
    assert nothing(noted)


def test_an_upload_that_is_too_large_lands_nothing(client: TestClient, lake: Lake, noted: Noted) -> None:
    told = error(post(client, ("a.txt", b"a"), ("b.bin", b"b" * 500_000)), 413)
    assert "400000 bytes" in told["message"]

    def drip() -> Iterator[bytes]:  # no length is claimed
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
        for _ in range(50):
            yield b"a" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    error(client.post("/v1/data/gallery", content=drip(), headers=headers), 413)
    assert nothing(noted)


def test_an_upload_that_breaks_off_lands_nothing(address: str, lake: Lake) -> None:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(
            b"POST /v1/data/gallery HTTP/1.1\r\nHost: " + host.encode() + b"\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n' + b"a" * 50_000
        )
    import httpx2

    files = {"files": ("whole.txt", b"whole words")}
    assert httpx2.post(f"{address}/v1/data/gallery", files=files).status_code == 202
    assert landed(lake) == ["whole.txt"]


def test_the_same_again_is_the_same_also_after_a_restart(
    client: TestClient, lake: Lake, noted: Noted, context: Context
) -> None:
    first = post(client, ("a.txt", b"words"), key="k1").json()
    assert post(client, ("a.txt", b"words"), key="k1").json() == first
    with TestClient(application(Context.open(context.settings, intake=noted))) as again:
        assert post(again, ("a.txt", b"words"), key="k1").json() == first
        assert post(again, ("a.txt", b"words"), key="k2").json() != first
    for other in (("a.txt", b"other words"), ("b.txt", b"words")):
        told = error(post(client, other, key="k1"), 409)
        assert (told["code"], told["field"]) == ("conflict", "Idempotency-Key")
    error(post(client, ("a.txt", b"words"), ("a.txt", b"words"), key="k1"), 409)
    assert len(lake.batches().landed()) == 2
    assert landed(lake) == ["a.txt", "a.txt"]


def test_a_key_is_ones_own(ask: Callable[..., Any], told: Told, lake: Lake, noted: Noted) -> None:
    told.allowed["eve"] = told.allowed["ann"]
    sent = {"method": "POST", "headers": {"Idempotency-Key": "k"}}
    anns = ask("ann", "/v1/data/gallery", files=uploads(("a.txt", b"words")), **sent).json()
    eves = ask("eve", "/v1/data/gallery", files=uploads(("a.txt", b"other")), **sent).json()
    assert anns["batch"] != eves["batch"]
    assert {one.by for one in lake.batches().landed()} == {"ann", "eve"}


def test_of_the_same_at_the_same_moment_one_lands(client: TestClient, lake: Lake) -> None:
    answers: list[Any] = []

    def send(content: bytes) -> None:
        answers.append(post(client, ("a.txt", content), key="k"))

    threads = [threading.Thread(target=send, args=(b"words" if at % 2 else b"other",)) for at in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(lake.batches().landed()) == 1
    assert landed(lake) == ["a.txt"]
    kept = next(Path(lake.uri, "_landed").rglob("a.txt")).read_bytes()
    assert kept in (b"words", b"other")
    assert sorted(one.status_code for one in answers) == [202] * 3 + [409] * 3


def test_who_may_not_add_learns_nothing_and_sends_nothing(ask: Callable[..., Any], lake: Lake, noted: Noted) -> None:
    for name in ("gallery", "nothing"):
        sent = {"method": "POST", "files": uploads(("a.txt", b"a"))}
        assert error(ask("dan", f"/v1/data/{name}", **sent), 403)["code"] == "forbidden"
        assert error(ask("dan", f"/v1/data/{name}", method="DELETE", json={"filter": "true"}), 403)
        assert error(ask("nobody", f"/v1/data/{name}", **sent), 401)
    assert (landed(lake), noted.taken) == ([], [])


def test_where_there_is_no_dataset_or_nobody_declares(client: TestClient, lake: Lake) -> None:
    files = uploads(("a.txt", b"a"))
    assert "GET /v1/datasets" in error(client.post("/v1/data/galery", files=files), 404)["fix"]
    assert error(client.post("/v1/data/other", files=files), 400)["field"] == "workload"
    declare(lake, "v")
    assert "v, w" in error(client.post("/v1/data/gallery", files=files), 400)["message"]
    assert client.post("/v1/data/gallery", files=files, params={"workload": "v"}).status_code == 202
    assert lake.batches().landed()[0].workload == "v"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".hidden", "hidden"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\0b\n.png", "a_b_.png"),
        ("what?*[1]#%.png", "what__1__.png".replace("__1__", "__" + "_1_" + "__")),
        ("e\u0301.png", "\u00e9.png"),
        ("日本.png", "日本.png"),
        ("x" * 300 + ".png", "x" * 116 + ".png"),
        ("日" * 300 + ".png", "日" * 38 + ".png"),
        ("a." + "b" * 300, ("a." + "b" * 300)[:120]),
        ("\ud800.png", "_.png"),
        ("trailing. ", "trailing"),
    ],
)
def test_names_are_made_safe(name: str, kept: str) -> None:
    made = safe(name)
    assert made == kept
    assert len(made.encode()) <= 120


def test_a_file_cannot_be_named_out_of_its_folder(client: TestClient, lake: Lake) -> None:
    assert post(client, ("../../../evil.txt", b"a"), ("..\\..\\evil.txt", b"b")).status_code == 202
    assert landed(lake) == ["evil.txt", "evil.txt"]
    assert not list(Path(lake.uri).parent.glob("evil*"))


def delete(client: TestClient, **doomed: Any) -> Any:
    return client.request("DELETE", "/v1/data/gallery", json=doomed)


def found(client: TestClient) -> set[str]:
    rows = client.get("/v1/data/gallery?columns=uri").json()["rows"]
    return {row["uri"].rpartition("/")[2] for row in rows}


def test_what_is_deleted_is_not_found_any_more(client: TestClient, lake: Lake, ids: dict[str, str]) -> None:
    answer = delete(client, ids=[ids["clip.mp4@1"], "0" * 64], why="they asked")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["objects"], told["rows"], told["live"], told["missing"]) == (1, 3, True, ["0" * 64])
    assert told["version"] == lake.table("gallery").live()
    assert "clip.mp4" not in found(client)
    assert delete(client, filter="modality = 'image'").json()["objects"] == 7
    assert found(client) == {"tone.wav", "river.txt", "bread.txt", "sea.html"}
    assert delete(client, filter="modality = 'image'").json()["objects"] == 0


@pytest.mark.parametrize(
    ("doomed", "field"),
    [
        ({}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": ["a"], "filter": "true"}, "ids"),
        ({"ids": [""]}, "ids.0"),
        ({"ids": ["x" * 129]}, "ids.0"),
        ({"ids": ["a"] * 10_001}, "ids"),
        ({"filter": "nothing = 1"}, "filter"),
        ({"filter": "true; true"}, "filter"),
        ({"where": "true"}, "where"),
    ],
)
def test_a_wrong_deletion_deletes_nothing(client: TestClient, lake: Lake, doomed: Any, field: str) -> None:
    before = lake.table("gallery").version()
    assert error(delete(client, **doomed), 400)["field"] == field
    assert lake.table("gallery").version() == before


def test_one_deletes_what_one_sees(ask: Callable[..., Any], lake: Lake, ids: dict[str, str]) -> None:
    def go(who: str, **doomed: Any) -> Any:
        return ask(who, "/v1/data/gallery", method="DELETE", json=doomed)

    hidden = go("bob", ids=[ids["tone.wav"]]).json()
    assert (hidden["objects"], hidden["missing"]) == (0, [ids["tone.wav"]])
    assert go("bob", filter="true").json()["objects"] == 7  # pictures
    kinds = set(lake.table("gallery").open("live").to_table(columns=["modality"])["modality"].to_pylist())
    assert kinds == {"audio", "video", "text", "document"}
    assert error(go("cid", filter="text LIKE '%river%'"), 403)["field"] == "filter"
    assert go("cid", ids=[ids["river.txt"]]).json()["objects"] == 1
    assert lake.deletions("gallery").get([]) == {}
    (entry,) = lake.deletions("gallery").get(_objects(lake, "river.txt")).values()
    assert entry.by == "cid"


def _objects(lake: Lake, name: str) -> list[str]:
    return [
        one["object_id"]
        for rows in lake.deletions("gallery").known()
        for one in rows.to_pylist()
        if one["uri"].endswith(name)
    ]


def test_what_is_posted_by_uri_again_is_no_longer_deleted(client: TestClient, lake: Lake, folder: Path) -> None:
    assert delete(client, filter="uri LIKE '%/red.png'").json()["objects"] == 1
    assert _objects(lake, "red.png")
    body = {"objects": [{"uri": f"{folder}/photos/red.png"}]}
    assert client.post("/v1/data/gallery", json=body).status_code == 202
    assert _objects(lake, "red.png") == []


def test_it_is_documented(client: TestClient) -> None:
    told = client.get("/openapi.json").json()["paths"]["/v1/data/{name}"]
    assert set(told["post"]["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {one["name"].lower() for one in told["post"]["parameters"]} == {"name", "workload", "idempotency-key"}
    assert "202" in told["post"]["responses"]
    assert "delete" in told
