"""The list of datasets shows what somebody may read, and a dataset what he may know of it."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from raycluster.lake.lake import Lake

# What counts or tells of rows that somebody may not see.
TELLING = ("quarantined", "codes", "indexes", "versions", "history", "uri")


def test_the_list(client: TestClient) -> None:
    answer = client.get("/v1/datasets")
    assert answer.json() == {
        "datasets": [
            {"name": "gallery", "live": 2, "version": 2, "rows": 15, "quarantined": 2},
            {"name": "other", "live": 2, "version": 2, "rows": 1, "quarantined": 0},
        ]
    }
    assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("private, no-cache", "Authorization")


def test_one_dataset(client: TestClient) -> None:
    found = client.get("/v1/datasets/gallery").json()
    assert found["modalities"] == {"image": 7, "video": 3, "audio": 2, "text": 2, "document": 1}
    assert found["codes"] == {"corrupt": 1, "unsupported": 1}
    assert {"name": "vector", "type": "fixed_size_list<item: float>[16]"} in found["columns"]
    assert [one["tags"] for one in found["versions"]] == [["live"], []]
    assert [one["what"] for one in found["history"]] == ["run"]


def test_a_dataset_whose_first_run_is_not_done(client: TestClient, lake: Lake) -> None:
    from raycluster.lake.columns import dataset_schema

    schema = dataset_schema(lake.table("gallery").schema().empty_table().select([]).schema, 16)
    lake.table("fresh").create_or_check(schema)
    found = {one["name"]: one for one in client.get("/v1/datasets").json()["datasets"]}
    assert found["fresh"] == {"name": "fresh", "live": None, "version": 1, "rows": 0, "quarantined": 0}
    assert client.get("/v1/datasets/fresh").json()["modalities"] == {}


def test_an_empty_lake(client: TestClient, lake: Lake) -> None:
    import shutil

    shutil.rmtree(lake.uri)
    assert client.get("/v1/datasets").json() == {"datasets": []}


def test_only_datasets_that_one_may_read_are_listed(ask: Callable[..., Any]) -> None:
    names = {who: [one["name"] for one in ask(who, "/v1/datasets").json()["datasets"]] for who in ("ann", "bob", "dan")}
    assert names == {"ann": ["gallery"], "bob": ["gallery"], "dan": ["other"]}
    assert ask("dan", "/v1/datasets/gallery").status_code == 403
    assert ask("dan", "/v1/datasets/nothing").status_code == 403, "whether there is one is not told either"
    assert ask("eve", "/v1/datasets").status_code == 401


def test_who_sees_some_rows_is_told_of_those_alone(ask: Callable[..., Any]) -> None:
    (line,) = ask("bob", "/v1/datasets").json()["datasets"]
    assert line == {"name": "gallery", "live": 2, "version": 2, "rows": 7}
    found = ask("bob", "/v1/datasets/gallery").json()
    assert (found["rows"], found["modalities"]) == (7, {"image": 7})
    assert not set(TELLING) & set(found)
    everything = ask("ann", "/v1/datasets/gallery").json()
    assert everything["modalities"]["audio"] == 2, "what one was told is not kept for another"
    assert set(TELLING) < set(everything)


def test_who_sees_no_modality_gets_no_count_by_it(ask: Callable[..., Any], told: Any) -> None:
    from raycluster.lake.access import Access

    told.allowed["bob"]["gallery"] = Access(masks={"modality": "NULL"})
    found = ask("bob", "/v1/datasets/gallery").json()
    assert (found["rows"], found["modalities"]) == (15, {})
    assert not set(TELLING) & set(found)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("nothing", 404),
        ("Gallery", 400),
        ("..%2f..%2fetc", 404),
        ("%2e%2e", 400),
        ("%2fetc%2fpasswd", 404),
        ("a%00b", 400),
        ("_runs", 400),
        ("gallery.lance", 400),
        ("g" * 5000, 400),
        ("%ff%fe", 400),
        ("g%0d%0aX-Evil:%201", 400),
    ],
)
@pytest.mark.parametrize("url", ["/v1/datasets/{}", "/v1/data/{}", "/v1/datasets/{}/rows/" + "0" * 64])
def test_names_that_name_no_dataset(client: TestClient, name: str, status: int, url: str) -> None:
    answer = client.get(url.format(name))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] in ("not_found", "invalid")
    assert "X-Evil" not in answer.headers
