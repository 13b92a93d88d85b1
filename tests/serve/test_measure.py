"""What a replica counts: every request once, under few names, whatever the request says of itself."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from raycluster.serve.measure import Measured


def requests(context):
    """Return how many requests there were: (group, method, status) -> number."""
    (family,) = context.metrics.requests.collect()
    found = {(s.labels["group"], s.labels["method"], s.labels["status"]): s.value for s in family.samples}
    return {labels: number for labels, number in found.items() if number}


def seconds(context, group):
    return context.metrics.registry.get_sample_value("raycluster_http_request_seconds_count", {"group": group})


def test_each_request_is_counted_by_its_group(client, context):
    for url in ("/v1/runs", "/v1/runs/run1", "/v1/runs/nope", "/v1/runs?limit=x", "/v1/quarantine/gallery"):
        client.get(url)
    client.post("/v1/runs")
    assert requests(context) == {
        ("runs", "GET", "200"): 2,
        ("runs", "GET", "404"): 1,
        ("runs", "GET", "400"): 1,
        ("quarantine", "GET", "200"): 1,
        ("runs", "POST", "405"): 1,
    }
    assert seconds(context, "runs") == 5


def test_names_stay_few_whatever_is_sent(client, context):
    for number in range(50):
        client.get(f"/v1/nothing/{number}")
        client.get(f"/v1/runs/run{number}?x={number}")
        client.request(f"VERB{number}", "/v1/runs")
    assert set(requests(context)) == {
        ("none", "GET", "404"),
        ("runs", "GET", "404"),
        ("runs", "GET", "200"),
        ("runs", "other", "405"),
    }


def test_what_breaks_and_what_is_streamed_are_counted(context):
    web = FastAPI()

    @web.get("/broken", tags=["x"])
    def broken():
        raise ValueError

    web.add_middleware(Measured, metrics=context.metrics)
    client = TestClient(web, raise_server_exceptions=False)
    assert client.get("/broken").status_code == 500
    assert requests(context) == {("x", "GET", "500"): 1}


def test_a_request_that_is_refused_unread_is_counted(context):
    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert TestClient(Measured(refuse, context.metrics)).get("/v1/runs").status_code == 429
    assert requests(context) == {("none", "GET", "429"): 1}


def test_what_is_no_request_passes_uncounted(context):
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    asyncio.run(Measured(app, context.metrics)({"type": "lifespan"}, None, None))
    assert passed == ["lifespan"]
    assert requests(context) == {}


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_histograms_take_times(context, seconds):
    context.metrics.search_seconds.labels("gallery", "vector").observe(seconds)
    text = context.metrics.snapshot()
    assert 'raycluster_search_seconds_count{dataset="gallery",mode="vector"} 1.0' in text
    below = 'raycluster_search_seconds_bucket{dataset="gallery",le="0.001",mode="vector"}'
    assert f"{below} {1.0 if seconds == 0 else 0.0}" in text


def test_searches_are_timed_by_dataset_and_mode(client, context, ids):
    key = ids["red.png"]
    assert client.post("/v1/datasets/gallery/search", json={"id": key}).status_code == 200
    assert client.post("/v1/datasets/gallery/search", json={"text": "river", "mode": "text"}).status_code == 200
    assert client.post("/v1/search", json={"text": "river", "mode": "text", "datasets": ["gallery"]}).status_code == 200
    assert client.post("/v1/datasets/galery/search", json={"id": key}).status_code == 404
    (family,) = context.metrics.search_seconds.collect()
    counts = {tuple(s.labels.values()): s.value for s in family.samples if s.name.endswith("_count")}
    assert counts == {("gallery", "vector"): 1, ("gallery", "text"): 1, ("*", "text"): 1}
