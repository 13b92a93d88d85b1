"""Every endpoint asks who it is and what they may: one that forgets fails here, also one that is not written yet."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from raycluster.govern.gate import Rules
from raycluster.govern.principal import Principal
from raycluster.govern.tokens import add
from raycluster.lake.lake import Lake
from raycluster.serve import web
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings

# What anybody may have, credentials or not: no data is in it.
PUBLIC = {("GET", path) for path in ("/healthz", "/readyz", "/openapi.json", "/", "/console/{digest}/{name:path}")}
# What a request has to hold to be one at all: a refusal is then the gate's.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/datasets/{name}/search"): {"text": "vault", "mode": "text"},
    ("POST", "/v1/search"): {"datasets": ["gallery"], "text": "vault", "mode": "text"},
    ("POST", "/v1/data/{name}"): {"objects": [{"text": "words"}]},
    ("DELETE", "/v1/data/{name}"): {"ids": ["nosuch"]},
}
# What the policy is asked first of each, as docs/access.md has it.
ASKED = {
    **dict.fromkeys(BODIES, ("GET", ["data", "gallery"])),
    ("POST", "/v1/data/{name}"): ("POST", ["data", "gallery"]),
    ("DELETE", "/v1/data/{name}"): ("POST", ["data", "gallery"]),
    ("GET", "/v1/datasets"): ("GET", ["datasets"]),
    ("GET", "/v1/runs"): ("GET", ["runs"]),
    ("GET", "/v1/runs/{run_id}"): ("GET", ["runs", "run1"]),
    ("GET", "/v1/costs"): ("GET", ["costs"]),
    ("GET", "/metrics"): ("GET", ["metrics"]),
}
READS_A_DATASET = ("GET", ["data", "gallery"])  # all others
POLICY = """package data.access.policy
default allow = false
allow { input.user.subject == "ann" }
"""


class Door(NamedTuple):
    """The application, and who stands before it."""

    client: TestClient
    tokens: dict[str, str]


def endpoints() -> list[tuple[str, str]]:
    routers = [import_module(f"raycluster.serve.{name}").router for name in web.GROUPS]
    return sorted((method, route.path) for router in routers for route in router.routes for method in route.methods)


GUARDED = [one for one in endpoints() if one not in PUBLIC]


@pytest.fixture
def door(lake: Lake, tmp_path: Path) -> Iterator[Door]:
    """Ann may do all, eve nothing."""
    policy, tokens = tmp_path / "policy.rego", tmp_path / "tokens.yaml"
    policy.write_text(POLICY)
    made = {name: add(tokens, Principal(subject=name, roles=("reader",))) for name in ("ann", "eve")}
    rules = Rules(tokens=str(tokens), policy=str(policy))
    with TestClient(web.application(Context.open(Settings(lake=lake.uri, rules=rules)))) as client:
        yield Door(client, made)


def knock(door: Door, endpoint: tuple[str, str], token: str | None, ids: dict[str, str], **more: Any) -> Any:
    method, template = endpoint
    path = template.format(name="gallery", id=next(iter(ids.values())), run_id="run1")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"json": BODIES[endpoint]} if endpoint in BODIES and not more else more
    return door.client.request(method, path, headers=headers | more.pop("headers", {}), **body)


def test_the_document_tells_of_no_other_endpoints(door: Door) -> None:
    document = door.client.get("/openapi.json").json()
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert told <= {*endpoints(), *PUBLIC}
    assert len(GUARDED) >= 17


def test_who_is_not_known_gets_nothing(door: Door, ids: dict[str, str]) -> None:
    for endpoint in GUARDED:
        for token in (None, "rc_made-up", door.tokens["ann"][:-1], f"{door.tokens['ann']} {door.tokens['ann']}"):
            answer = knock(door, endpoint, token, ids)
            assert answer.status_code == 401, endpoint
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_nor_does_anybody_look_at_what_they_send(door: Door, ids: dict[str, str]) -> None:
    for endpoint in GUARDED:
        if endpoint[0] in ("POST", "DELETE"):
            more = {"content": b"{no JSON", "headers": {"Content-Type": "application/json"}}
            assert knock(door, endpoint, None, ids, **more).status_code == 401, endpoint


def test_who_may_nothing_gets_nothing(door: Door, ids: dict[str, str], lake: Lake) -> None:
    for endpoint in GUARDED:
        answer = knock(door, endpoint, door.tokens["eve"], ids)
        assert answer.status_code in (403, 404), f"{endpoint} answers {answer.status_code}: {answer.text[:200]}"
        assert endpoint[0] == "HEAD" or answer.json()["error"]["code"] == "forbidden", endpoint
        assert "piano" not in answer.text
    door.client.__exit__()  # the application ends, and writes what is left of its log
    rows = [row for batch in lake.decisions().scan() for row in batch.to_pylist()]
    assert {row["subject"] for row in rows} == {"eve"}
    assert not any(row["allowed"] for row in rows)
    asked = sorted((row["method"], row["path"]) for row in rows)
    assert asked == sorted(ASKED.get(endpoint, READS_A_DATASET) for endpoint in GUARDED)


def test_the_policy_is_what_refuses(door: Door, ids: dict[str, str]) -> None:
    for endpoint in GUARDED:
        answer = knock(door, endpoint, door.tokens["ann"], ids)
        assert answer.status_code not in (401, 403, 405, 500), f"{endpoint}: {answer.text[:200]}"
