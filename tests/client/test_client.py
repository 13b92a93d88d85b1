"""Every verb of a client, against the real application over real sockets."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from gallery import WIDTH, Raw, picture, put, rows_of, save

import raycluster
from raycluster import errors
from raycluster.client import Hit, NoAnswer
from raycluster.errors import InvalidUse
from raycluster.lake.runs import Run


@pytest.fixture
def ids(lake):
    """Return the id of the first row of every object of `gallery`, by its file's name."""
    rows = lake.table("gallery").open("live").to_table(columns=["id", "uri", "position"]).to_pylist()
    return {Path(one["uri"]).name: one["id"] for one in rows if one["position"] == 0}


def finish(lake, run_id, status):
    run = lake.runs().get(run_id)
    lake.runs().put(Run(**{**run.__dict__, "status": status, "finished_at": datetime.now(UTC)}))


def test_nothing_heavy_is_imported():
    code = "import raycluster, sys; raycluster.connect('http://x'); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "requests" in loaded
    assert not loaded & {"lance", "ray", "torch", "pyarrow", "numpy", "pydantic", "fastapi"}


def test_the_package_says_that_it_is_typed():
    assert Path(raycluster.__file__).with_name("py.typed").exists()


def test_health(client):
    assert client.health() == {"status": "ok", "version": raycluster.__version__, "reasons": []}


def test_datasets(client):
    assert [(one["name"], one["rows"]) for one in client.datasets()] == [("gallery", 15), ("other", 1)]
    assert client.dataset("gallery")["modalities"]["image"] == 7
    with pytest.raises(errors.NotFound, match="galery") as wrong:
        client.dataset("galery")
    assert wrong.value.fix


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path(client, name):
    with pytest.raises(InvalidUse, match="names nothing"):
        client.dataset(name)


def test_search_by_words(client):
    answer = client.search("gallery", text="river", mode="text", k=3, columns=["label"], explain=True, highlight=True)
    assert (answer.dataset, answer.version, answer.next) == ("gallery", client.dataset("gallery")["live"], None)
    (hit,) = answer.hits
    assert (hit.modality, hit.text, hit.position) == ("text", "the river runs", 0)
    assert hit.uri.endswith("river.txt")
    assert hit.score > 0
    assert hit.extra["label"] is None
    assert hit.why
    assert hit.highlights
    assert isinstance(hit, Hit)
    with pytest.raises(AttributeError):
        hit.score = 1.0


def test_search_by_a_row_a_vector_and_a_filter(client, ids):
    like = client.search("gallery", id=ids["red.png"], k=2, filter="modality = 'image'")
    assert {one.modality for one in like.hits} == {"image"}
    assert len(like.hits) == 2
    vector = client.row("gallery", ids["red.png"])["vector"]
    for given in (vector, np.array(vector, np.float32), tuple(vector)):
        found = client.search("gallery", vector=given, k=1)
        assert found.hits[0].id == ids["red.png"]
        assert found.hits[0].score == pytest.approx(1, abs=1e-5)


def test_search_page_by_page(client):
    vector = np.eye(WIDTH)[0]
    first = client.search("gallery", vector=vector, k=5)
    second = client.search("gallery", vector=vector, k=5, offset=first.next)
    assert not {one.id for one in first.hits} & {one.id for one in second.hits}


def test_search_in_several(client):
    answer = client.search(["gallery", "other"], vector=np.eye(WIDTH)[0], k=50)
    assert {one.dataset for one in answer.hits} == {"gallery", "other"}
    assert (answer.dataset, [one["dataset"] for one in answer.extra["datasets"]]) == (None, ["gallery", "other"])


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_media_travel_as_bytes_or_files(scripted, tmp_path, kind):
    from base64 import b64decode
    from json import loads

    nothing = {"dataset": "d", "version": 1, "took_ms": 1.0, "hits": [], "next": None}
    server = scripted((200, {}, nothing))
    (tmp_path / "file").write_bytes(b"\x00\xff media")
    with raycluster.connect(server.url) as client:
        for given in (b"\x00\xff media", tmp_path / "file", str(tmp_path / "file")):
            client.search("d", **{kind: given}, mode=None)
        with pytest.raises(InvalidUse, match="cannot be read") as wrong:
            client.search("d", **{kind: tmp_path / "nothing"})
    assert wrong.value.where == kind
    assert [list(loads(body)) for *_, body in server.asked] == [[kind]] * 3
    assert {b64decode(loads(body)[kind]) for *_, body in server.asked} == {b"\x00\xff media"}


def test_a_wrong_question_is_told_by_its_field(client):
    with pytest.raises(InvalidUse) as wrong:
        client.search("gallery", text="x", k=0)
    assert wrong.value.where == "k"
    with pytest.raises(InvalidUse) as wrong:
        client.search("gallery", txt="x")
    assert wrong.value.where == "txt"


def test_facets(client):
    found = client.facets("gallery", ["modality", "label"], filter="modality = 'image'")
    assert (found["rows"], found["facets"]["modality"]) == (7, [{"value": "image", "rows": 7}])


def test_rows_come_page_by_page_and_of_one_version(client, lake, tmp_path):
    rows = client.rows("gallery", columns=["id", "uri"], limit=4)
    found = [next(rows) for _ in range(4)]
    words = {"new.txt": Raw(b"new", "text", "text/plain")}
    put(lake, "gallery", rows_of(save(tmp_path / "more", words), words), run="run2")
    found += rows
    assert len(found) == 15
    assert [one["id"] for one in found] == sorted(one["id"] for one in found)
    assert set(found[0]) == {"id", "uri"}
    limit = time.monotonic() + 10
    while len(list(client.rows("gallery"))) != 16:  # the server looks for a new version once a second
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert [one["modality"] for one in client.rows("gallery", filter="modality = 'document'")] == ["document"]
    assert list(client.rows("gallery", filter="modality = 'sensor'")) == []


def test_rows_as_arrow(client):
    with client.arrow("gallery", limit=4, columns=["id", "modality", "vector"]) as reader:
        assert reader.schema.names == ["id", "modality", "vector"]
        found = reader.read_all()
    assert found.num_rows == 15
    assert found["id"].to_pylist() == [one["id"] for one in client.rows("gallery")]
    assert str(found.schema.field("vector").type) == f"fixed_size_list<item: float>[{WIDTH}]"
    nothing = client.arrow("gallery", filter="modality = 'sensor'").read_all()
    assert (nothing.num_rows, "id" in nothing.schema.names) == (0, True)
    with pytest.raises(errors.NotFound):
        client.arrow("nothing")


def test_one_row_and_its_media(client, ids, tmp_path):
    key = ids["red.png"]
    assert client.row("gallery", key)["label"] == "red"
    assert set(client.row("gallery", key, columns=["label"])) <= {"id", "label"}
    whole = picture("red")
    assert client.thumbnail("gallery", key).startswith(b"\x89PNG")
    assert client.media("gallery", key) == whole
    assert client.media("gallery", key, part=range(5, 105)) == whole[5:105]
    saved = client.save("gallery", key, tmp_path / "red.png")
    assert saved.read_bytes() == whole
    saved.write_bytes(b"older")
    assert client.save("gallery", key, str(saved), version=client.dataset("gallery")["live"]).read_bytes() == whole
    assert [one.name for one in tmp_path.glob("*red*")] == ["red.png"]
    with pytest.raises(errors.NotFound):
        client.row("gallery", "0" * 64)
    with pytest.raises(errors.NotFound):
        client.thumbnail("gallery", ids["bread.txt"])
    with pytest.raises(errors.NotFound):
        client.save("gallery", "0" * 64, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(InvalidUse, match="no links to file") as wrong:
        client.link("gallery", key)
    assert wrong.value.where == "link"


def test_a_store_without_parts_sends_everything(scripted):
    server = scripted((200, {}, b"0123456789"))
    with raycluster.connect(server.url) as client:
        assert client.media("d", "r", part=range(2, 5)) == b"234"
    assert server.asked[0][2]["range"] == "bytes=2-4"


def test_files_and_texts_are_added(client, noted, lake, tmp_path):
    (tmp_path / "blå himmel.png").write_bytes(picture("blue"))
    added = client.add("gallery", files=[tmp_path / "blå himmel.png", ("note.txt", b"a note")], texts=["a line"])
    assert added.dataset == "gallery"
    assert [one["name"] for one in added.objects] == ["blå himmel.png", "note.txt", "text.txt"]
    assert noted.taken == [added.extra["batch"]]
    where = Path(added.objects[0]["uri"].removeprefix("file://").replace("%C3%A5", "å").replace("%20", " "))
    assert where.read_bytes() == picture("blue")
    assert client.run(added.run_id).status == "running"


def test_uris_and_texts_are_added(client, tmp_path):
    uri = str(tmp_path / "corpus/words/river.txt")
    added = client.add("gallery", uris=[uri], texts=["a line"])
    assert [one["uri"].endswith("river.txt") for one in added.objects] == [True, False]
    with pytest.raises(errors.RayclusterError) as wrong:
        client.add("gallery", uris=["/etc/passwd"])
    assert wrong.value.status in (400, 403)
    assert wrong.value.where == "objects.0.uri"


def test_the_same_key_adds_nothing_twice(client, noted):
    first, second = (client.add("gallery", texts=["a line"], key="monday") for _ in range(2))
    assert first.run_id == second.run_id
    assert len({*noted.taken}) == 1
    with pytest.raises(errors.Conflict, match="under this key"):
        client.add("gallery", texts=["another"], key="monday")


@pytest.mark.parametrize(
    ("objects", "where"),
    [
        ({}, "objects"),
        ({"files": ["/no/such"]}, "files"),
        ({"files": [("a.txt", b"a")], "uris": ["s3://b/c"]}, "uris"),
        ({"files": [("a.txt", b"")]}, "files"),
        ({"texts": ["a"], "key": "a\nb"}, "key"),
        ({"texts": ["a"], "key": "å"}, "key"),
        ({"texts": ["a"], "workload": "nothing"}, ""),
    ],
)
def test_what_cannot_be_added(client, noted, objects, where):
    with pytest.raises(InvalidUse) as wrong:
        client.add("gallery", **objects)
    assert wrong.value.where == where
    assert noted.taken == []


def test_too_much_is_refused_as_that(client, noted):
    with pytest.raises(errors.TooLarge):
        client.add("gallery", files=[("a.bin", bytes(6_000_000))])
    assert noted.taken == []


def test_objects_are_deleted(client, ids):
    deleted = client.delete("gallery", ids=[ids["red.png"]], why="asked for by its owner")
    assert (deleted.dataset, deleted.objects, deleted.rows, deleted.live) == ("gallery", 1, 1, True)
    deleted = client.delete("gallery", filter="modality = 'audio'")
    assert (deleted.objects, deleted.rows) == (1, 2)
    with pytest.raises(InvalidUse):
        client.delete("gallery")


def test_runs(client, lake):
    (run,) = client.runs(dataset="gallery", status="done")
    assert (run.run_id, run.workload, run.status, run.summary, run.progress) == (
        "run1",
        "w",
        "done",
        {"rows": 15},
        None,
    )
    assert run.has_ended
    assert client.run("run1") == run
    assert client.wait("run1") == run
    with pytest.raises(errors.NotFound):
        client.run("run2")


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_run_is_waited_for(client, lake, status):
    added = client.add("gallery", texts=["a line"])
    timer = threading.Timer(0.5, finish, (lake, added.run_id, status))
    timer.start()
    if status == "done":
        assert client.wait(added.run_id).status == "done"
    else:
        with pytest.raises(errors.RunFailed, match="has failed"):
            client.wait(added.run_id)
    timer.join()


def test_a_run_that_takes_too_long(client):
    added = client.add("gallery", texts=["a line"])
    with pytest.raises(errors.TimedOut, match="still running"):
        client.wait(added.run_id, timeout=0.1)


def test_quarantine_comes_page_by_page(client):
    found = list(client.quarantine("gallery", limit=1))
    assert sorted(one["code"] for one in found) == ["corrupt", "unsupported"]
    assert [one["code"] for one in client.quarantine("gallery", code="corrupt")] == ["corrupt"]
    assert list(client.quarantine("gallery", code="empty")) == []


def test_costs(client):
    asked = {"since": "2026-01-01", "until": "2026-02-01", "only": ["team=search", "stage=image"]}
    bill = client.costs(by=["team", "stage"], **asked)
    assert bill["by"] == ["team", "stage"]
    assert bill == client.costs(by="team,stage", **asked)
    assert bill != client.costs()
    with pytest.raises(InvalidUse) as wrong:
        client.costs(by="teem")
    assert wrong.value.where == "by"


def test_who_one_is_and_what_one_may(url, told):
    with raycluster.connect(url, token="ann") as ann:
        assert [one["name"] for one in ann.datasets()] == ["gallery"]
        with pytest.raises(errors.Forbidden):
            ann.dataset("other")
    for token in ("eve", None):
        with raycluster.connect(url, token=token) as eve, pytest.raises(errors.Unauthenticated):
            eve.datasets()


def test_a_server_that_goes_away(context, running_on):
    from raycluster.serve.web import application

    with running_on(application(context)) as url:
        client = raycluster.connect(url)
        rows = client.rows("gallery", limit=4)
        next(rows)
    began = time.monotonic()
    with client, pytest.raises(NoAnswer):
        list(rows)
    assert time.monotonic() - began < 15
