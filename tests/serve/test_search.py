"""Questions over HTTP, with a real encoder of text: hits, pages, reasons, several datasets, and who may ask what."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gallery import Told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raycluster.encode.minilm import Minilm
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, commit
from raycluster.lake.lake import Lake
from raycluster.row import object_id, row_id
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

SCHEMA = dataset_schema(pa.schema([]), 384)
TEXTS = {
    "novels": ["the whale sinks the ship", "a lighthouse above the sea", "the captain hunts a whale", "bread and salt"],
    "letters": ["dear sister, the sea is rough", "we bake bread on Sundays", "the ship has come home"],
}
NOVELS, SEVERAL = "/v1/datasets/novels/search", "/v1/search"


def fill(lake: Lake, name: str, texts: list[str]) -> None:
    """Put texts into a dataset, two an object, as a run with the encoder minilm does."""
    vectors = Minilm().encoder()(texts)["vector"]
    owners = [object_id(f"file:///{name}/{index // 2}", "1") for index in range(len(texts))]
    rows = [
        {
            "id": row_id(owner, "text", index % 2),
            "object_id": owner,
            "uri": f"file:///{name}/{index // 2}",
            "modality": "text",
            "media_type": "text/plain",
            "position": index % 2,
            "text": text,
            "vector": np.asarray(vector).tolist(),
            "ingested_at": datetime.now(UTC),
        }
        for index, (owner, text, vector) in enumerate(zip(owners, texts, vectors, strict=True))
    ]
    sink = lake.table(name).create_or_check(SCHEMA, encoders=[{"use": "minilm"}])
    fragments = sink.write(iter([pa.RecordBatch.from_pylist(rows, SCHEMA)]))
    landed = commit(lake.table(name), Change(run_id="r", workload="w", fragments=fragments))
    lake.table(name).set_live(landed.version)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Ann may read all, bob no letters and one object of the novels, cid no text of them; eve nothing."""
    lake = Lake(str(tmp_path_factory.mktemp("texts") / "lake"))
    for name, texts in TEXTS.items():
        fill(lake, name, texts)
    context = Context.open(Settings(lake=lake.uri))
    context.gate = Told(
        allowed={
            "ann": {"novels": EVERYTHING, "letters": EVERYTHING},
            "bob": {"novels": Access(filters=("uri = 'file:///novels/0'",))},
            "eve": {},
            "cid": {"novels": Access(masks={"text": "left(text, 3)"}), "letters": EVERYTHING},
        }
    )
    with TestClient(application(context), raise_server_exceptions=False) as client:
        yield client


def post(web: TestClient, url: str = NOVELS, by: str = "ann", **asked: Any) -> Any:
    return web.post(url, json=asked, headers={"Authorization": f"Bearer {by}"})


def texts(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["text"] for hit in answer.json()["hits"]]


def test_an_answer_is_shaped_as_promised(web: TestClient) -> None:
    answer = post(web, text="hunting at sea", k=2, columns=["media_type", "vector"]).json()
    assert set(answer) == {"dataset", "version", "took_ms", "hits", "next"}
    assert (answer["dataset"], answer["next"], len(answer["hits"])) == ("novels", 2, 2)
    wanted = {"id", "uri", "modality", "score", "start_seconds", "end_seconds", "text", "position"}
    assert set(answer["hits"][0]) == wanted | {"media_type", "vector"}
    assert len(answer["hits"][0]["vector"]) == 384


def test_every_way_to_ask(web: TestClient) -> None:
    meant = post(web, text="a hunter of animals in the ocean")
    assert texts(meant)[0] == "the captain hunts a whale"
    assert texts(post(web, text="whale", mode="text")) != []
    assert set(texts(post(web, text="whale", mode="text"))) == {TEXTS["novels"][0], TEXTS["novels"][2]}
    assert texts(post(web, text="whale", mode="hybrid", weights={"vector": 0, "text": 2}))[0] in TEXTS["novels"]
    first = meant.json()["hits"][0]
    like = post(web, id=first["id"]).json()["hits"]
    assert (like[0]["id"], round(like[0]["score"], 4)) == (first["id"], 1)
    vector = post(web, text="x", columns=["vector"]).json()["hits"][0]["vector"]
    assert post(web, vector=vector, column="vector").json()["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert texts(post(web, text="whale", filter="position = 1")) == [
        text for text in texts(post(web, text="whale")) if TEXTS["novels"].index(text) % 2
    ]


def test_pages_follow_each_other(web: TestClient) -> None:
    for asked in ({}, {"mode": "hybrid"}):
        whole = texts(post(web, text="the whale", **asked))
        pages, offset = [], 0
        while offset is not None:
            page = post(web, text="the whale", k=1, offset=offset, **asked)
            pages += texts(page)
            offset = page.json()["next"]
        assert pages == whole


def test_objects_reasons_and_marks(web: TestClient) -> None:
    answer = post(web, text="whales", mode="hybrid", group="object", explain=True, highlight=True).json()
    assert len({hit["uri"] for hit in answer["hits"]}) == len(answer["hits"]) == 2
    assert all(hit["why"]["mode"] == "hybrid" and hit["why"]["vector"]["rank"] >= 1 for hit in answer["hits"])
    plain = post(web, text="sinks whale", mode="text", explain=True, highlight=True).json()["hits"][0]
    assert plain["why"] == {
        "mode": "text",
        "text": {"rank": 1, "score": plain["score"]},
        "matched": ["whale", "sinks"],
    }
    assert plain["highlights"] == [{"text": plain["text"], "start": 0, "words": [[4, 9], [10, 15]]}]


def test_a_version_can_be_named(web: TestClient) -> None:
    version = post(web, text="whale").json()["version"]
    for one in (version, str(version), "live", "latest"):
        assert post(web, text="whale", version=one).json()["version"] == version
    assert post(web, text="whale", version=version - 1).json()["hits"] == []
    for absent in (0, 99, "nosuch"):
        assert post(web, text="whale", version=absent).status_code == 404


def test_several_datasets_are_one_list(web: TestClient) -> None:
    answer = post(web, SEVERAL, text="a ship on the sea", datasets=["novels", "letters", "novels"], k=20).json()
    assert [one["dataset"] for one in answer["datasets"]] == ["novels", "letters"]
    assert len(answer["hits"]) == 7
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    for name in TEXTS:
        alone = post(web, f"/v1/datasets/{name}/search", text="a ship on the sea").json()["hits"]
        mine = [hit for hit in answer["hits"] if hit["dataset"] == name]
        assert [hit["id"] for hit in mine] == [hit["id"] for hit in alone]
        assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in alone])
    words = post(web, SEVERAL, text="bread", mode="text", datasets=["novels", "letters"]).json()["hits"]
    assert {(hit["dataset"], hit["score"]) for hit in words} == {("novels", 1 / 61), ("letters", 1 / 61)}


def test_pages_of_several_datasets(web: TestClient) -> None:
    asked = {"text": "bread and the sea", "datasets": ["novels", "letters"]}
    for mode in ("vector", "hybrid"):
        whole = [hit["id"] for hit in post(web, SEVERAL, mode=mode, k=20, **asked).json()["hits"]]
        pages, offset = [], 0
        while offset is not None:
            page = post(web, SEVERAL, mode=mode, k=3, offset=offset, **asked).json()
            pages += [hit["id"] for hit in page["hits"]]
            offset = page["next"]
        assert pages == whole


def test_a_row_of_one_dataset_is_looked_for_in_all(web: TestClient) -> None:
    row = post(web, "/v1/datasets/letters/search", text="we bake bread").json()["hits"][0]
    hits = post(web, SEVERAL, id=row["id"], datasets=["novels", "letters"]).json()["hits"]
    assert [(hit["dataset"], hit["text"]) for hit in hits[:2]] == [
        ("letters", "we bake bread on Sundays"),
        ("novels", "bread and salt"),
    ]
    assert post(web, SEVERAL, id="0" * 64, datasets=["novels", "letters"]).status_code == 404


def test_who_may_see_a_part_finds_that_part(web: TestClient) -> None:
    assert set(texts(post(web, by="bob", text="bread"))) == set(TEXTS["novels"][:2])
    hidden = post(web, text="bread and salt", k=1).json()["hits"][0]["id"]
    assert post(web, id=hidden).status_code == 200
    said = post(web, by="bob", id=hidden)
    assert said.status_code == 404
    absent = post(web, by="bob", id="0" * 64)
    assert absent.json()["error"]["message"] == said.json()["error"]["message"].replace(hidden, "0" * 64)
    facets = web.get("/v1/datasets/novels/facets?columns=uri", headers={"Authorization": "Bearer bob"}).json()
    assert (facets["rows"], facets["facets"]["uri"]) == (2, [{"value": "file:///novels/0", "rows": 2}])


def test_masked_text_is_masked_and_not_asked_for(web: TestClient) -> None:
    assert set(texts(post(web, by="cid", text="whale"))) == {text[:3] for text in TEXTS["novels"]}
    for asked in (
        {"text": "whale", "mode": "text"},
        {"text": "whale", "mode": "hybrid"},
        {"text": "whale", "highlight": True},
        {"text": "whale", "filter": "text LIKE '%whale%'"},
    ):
        assert post(web, by="cid", **asked).status_code == 403
        assert post(web, SEVERAL, by="cid", datasets=["letters", "novels"], **asked).status_code == 403
    why = post(web, by="cid", text="whale", explain=True).json()["hits"][0]["why"]
    assert why["matched"] == []
    refused = web.get("/v1/datasets/novels/facets?columns=text", headers={"Authorization": "Bearer cid"})
    assert refused.status_code == 403


def test_who_may_not_read_learns_nothing(web: TestClient) -> None:
    for by in ("eve", "bob"):
        assert post(web, "/v1/datasets/letters/search", by=by, text="bread").status_code == 403
        assert post(web, SEVERAL, by=by, datasets=["novels", "letters"], text="bread").status_code == 403
    assert post(web, "/v1/datasets/nosuch/search", by="eve", text="bread").status_code in (403, 404)


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({}, 400, "text"),
    "two things": ({"text": "a", "id": "b"}, 400, "text"),
    "blank": ({"text": " "}, 400, "text"),
    "a field that is none": ({"text": "a", "colour": 1}, 400, "colour"),
    "no base64": ({"image": "@@@"}, 400, "image"),
    "no ASCII": ({"audio": "é"}, 400, "audio"),
    "no encoder of pictures": ({"image": b64encode(b"GIF89a, it says").decode()}, 400, "image"),
    "k": ({"text": "a", "k": 0}, 400, "k"),
    "k too large": ({"text": "a", "k": 1001}, 400, "k"),
    "offset": ({"text": "a", "offset": 9999}, 413, "offset"),
    "mode": ({"text": "a", "mode": "fuzzy"}, 400, "mode"),
    "filter": ({"text": "a", "filter": "modality ="}, 400, "filter"),
    "filter with a query": ({"text": "a", "filter": "id IN (SELECT id FROM dataset)"}, 400, "filter"),
    "filter too deep": ({"text": "a", "filter": "(" * 10_000 + "true" + ")" * 10_000}, 413, "filter"),
    "columns": ({"text": "a", "columns": ["txt"]}, 400, "columns"),
    "pictures": ({"text": "a", "columns": ["thumbnail"]}, 400, "columns"),
    "column": ({"vector": [1], "column": "text"}, 400, "column"),
    "vector of another width": ({"vector": [1]}, 400, "vector"),
    "vector of nothing": ({"vector": [0] * 384}, 400, "vector"),
    "weights": ({"text": "a", "mode": "hybrid", "weights": {"vector": 0, "text": 0}}, 400, "weights"),
    "weight below zero": ({"text": "a", "weights": {"vector": -1}}, 400, "weights.vector"),
    "too much text": ({"text": "a" * 10_001}, 413, "text"),
    "too much picture": ({"image": "A" * 45_000_000}, 413, "image"),
    "group": ({"text": "a", "group": "uri"}, 400, "group"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("url", [NOVELS, SEVERAL])
def test_a_wrong_question_names_its_field(web: TestClient, url: str, what: str) -> None:
    asked, status, field = WRONG[what]
    answer = post(web, url, **asked, **({"datasets": ["novels"]} if url == SEVERAL else {}))
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    assert len(error["message"]) < 500


RAW = {
    "NaN": '{"vector": [NaN]}',
    "infinity": '{"text": "a", "mode": "hybrid", "weights": {"text": Infinity}}',
    "half a character": '{"text": "\\ud800"}',
    "half a character in a filter": '{"text": "a", "filter": "text = \'\\ud800\'"}',
    "half a character in a name": '{"text": "a", "columns": ["\\udfff"]}',
    "half a character in an id": '{"id": "\\ud800"}',
    "a number of 5,000 digits": f'{{"text": "a", "k": {"1" * 5000}}}',
    "a float beyond floats": '{"text": "a", "k": 1e999}',
    "a version beyond integers": '{"text": "a", "version": 99999999999999999999}',
    "10,000 lists": "[" * 10_000,
    "no object": "[]",
    "nothing": "",
    "no JSON": "{text: a}",
    "no UTF-8": b'{"text": "\xff"}',
}


@pytest.mark.parametrize("what", RAW)
def test_whatever_is_sent_is_refused_as_wrong(web: TestClient, what: str) -> None:
    headers = {"Authorization": "Bearer ann", "Content-Type": "application/json"}
    answer = web.post(NOVELS, content=RAW[what], headers=headers)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) >= {"code", "message", "fix"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
FIELDS = [
    "text",
    "id",
    "vector",
    "column",
    "k",
    "offset",
    "filter",
    "columns",
    "group",
    "explain",
    "version",
    "weights",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4), st.sampled_from(["text", "vector", "hybrid"]))
def test_no_question_is_a_mistake_of_the_server_s(web: TestClient, asked: dict[str, Any], mode: str) -> None:
    headers = {"Authorization": "Bearer ann", "Content-Type": "application/json"}
    answer = web.post(NOVELS, content=json.dumps({"text": "sea", **asked, "mode": mode}), headers=headers)
    assert answer.status_code < 500, answer.text
    assert "error" in answer.json() or len(answer.json()["hits"]) <= 4


def test_values_are_counted(web: TestClient) -> None:
    def counted(more: str = "", by: str = "ann") -> Any:
        return web.get(f"/v1/datasets/novels/facets{more}", headers={"Authorization": f"Bearer {by}"})

    found = counted("?columns=position,%20uri,provenance.run_id").json()
    assert set(found) == {"dataset", "version", "rows", "facets"}
    assert found["rows"] == 4
    assert found["facets"]["position"] == [{"value": 0, "rows": 2}, {"value": 1, "rows": 2}]
    assert found["facets"]["provenance.run_id"] == [{"value": None, "rows": 4}]
    assert counted().json()["facets"] == {"modality": [{"value": "text", "rows": 4}]}
    assert counted("?columns=&filter=position%20=%201").json() | {"version": 0} == {
        "dataset": "novels",
        "version": 0,
        "rows": 2,
        "facets": {},
    }
    for wrong, field in (("?columns=vector", "columns"), ("?columns=x", "columns"), ("?filter=;", "filter")):
        answer = counted(wrong)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    assert counted("?columns=" + ",".join(["uri"] * 21)).status_code == 413
    assert counted(by="eve").status_code == 403
