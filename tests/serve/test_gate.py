"""The real gate behind the real endpoints: tokens, JWTs and a policy decide what an answer holds, and it is logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from issuing import AUDIENCE, Host, Signer
from starlette.testclient import TestClient

from raycluster.govern.gate import Rules
from raycluster.govern.principal import Principal
from raycluster.govern.tokens import add
from raycluster.lake.lake import Lake
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

POLICY = """package data.access.policy
default allow = false
allow { input.method == "GET"; input.path[0] == "datasets"; count(input.user.roles) > 0 }
allow { input.method == "GET"; input.path == ["data", "gallery"]; input.user.roles[_] == "reader" }
rowFilters[{"expression": "modality = 'image'"}] { not input.user.roles[_] == "staff" }
columnMask = {"expression": "NULL"} { input.column.name == "text"; not input.user.roles[_] == "staff" }
"""


@pytest.fixture
def signer() -> Iterator[Signer]:
    host = Host()
    made = Signer(host)
    made.add("k")
    yield made
    host.close()


@pytest.fixture
def bearers(lake: Lake, tmp_path: Path, signer: Signer) -> dict[str, str]:
    """Whose credentials are which."""
    tokens = tmp_path / "tokens.yaml"
    return {
        "staff": add(tokens, Principal(subject="ann", roles=("reader", "staff"))),
        "reader": signer.token("k", sub="bob", roles=["reader"]),
        "stranger": add(tokens, Principal(subject="eve", roles=("visitor",))),
        "forged": signer.token("k", aud="billing"),
    }


@pytest.fixture
def client(lake: Lake, tmp_path: Path, signer: Signer, bearers: dict[str, str]) -> Iterator[TestClient]:
    policy = tmp_path / "policy.rego"
    policy.write_text(POLICY)
    rules = Rules(issuer=signer.host.url, audience=AUDIENCE, tokens=str(tmp_path / "tokens.yaml"), policy=str(policy))
    context = Context.open(Settings(lake=lake.uri, rules=rules))
    with TestClient(application(context)) as client:
        yield client


def test_each_sees_what_the_policy_lets_them_and_the_lake_tells_of_it(
    client: TestClient, bearers: dict[str, str], lake: Lake
) -> None:
    def ask(who: str | None, url: str) -> Any:
        return client.get(url, headers={"Authorization": f"Bearer {bearers[who]}"} if who else {})

    status = {
        (who, url): ask(who, url).status_code
        for who in (None, "forged", "stranger", "reader", "staff")
        for url in ("/healthz", "/v1/datasets", "/v1/data/gallery", "/v1/data/other", "/v1/runs")
    }
    assert {who: [code for (one, _), code in status.items() if one == who] for who, _ in status} == {
        None: [200, 401, 401, 401, 401],
        "forged": [200, 401, 401, 401, 401],
        "stranger": [200, 200, 403, 403, 403],
        "reader": [200, 200, 200, 403, 403],
        "staff": [200, 200, 200, 403, 403],
    }
    everything = ask("staff", "/v1/data/gallery").json()["rows"]
    some = ask("reader", "/v1/data/gallery").json()["rows"]
    assert {row["modality"] for row in everything} > {"image"}
    assert {row["modality"] for row in some} == {"image"}
    assert {row["text"] for row in some} == {None}
    assert any(row["text"] for row in everything)
    refused = ask("forged", "/v1/runs")
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert "aud" not in refused.text
    client.__exit__()  # the application ends, and writes what is left to write
    rows = [row for batch in lake.decisions().scan() for row in batch.to_pylist()]
    assert {row["subject"] for row in rows} == {"ann", "bob", "eve"}
    assert {(row["subject"], row["allowed"]) for row in rows if row["path"] == ["data", "gallery"]} == {
        ("ann", True),
        ("bob", True),
        ("eve", False),
    }
