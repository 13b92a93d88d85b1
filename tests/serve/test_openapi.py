"""The API's document is valid and names what there is; whatever is sent is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from raycluster.govern.gate import Rules
from raycluster.lake.lake import Lake
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

# DESIGN.md, section 7; what is served beyond it is in the document too.
ENDPOINTS = {
    "/healthz": {"get"},
    "/metrics": {"get"},
    "/v1/datasets": {"get"},
    "/v1/datasets/{name}": {"get"},
    "/v1/datasets/{name}/search": {"post"},
    "/v1/datasets/{name}/rows/{id}": {"get"},
    "/v1/datasets/{name}/rows/{id}/thumbnail": {"get"},
    "/v1/datasets/{name}/rows/{id}/media": {"get"},
    "/v1/data/{name}": {"get", "post", "delete"},
    "/v1/runs": {"get"},
    "/v1/runs/{run_id}": {"get"},
    "/v1/quarantine/{name}": {"get"},
    "/v1/costs": {"get"},
}
REFUSED = {"400", "401", "403", "404", "413", "429", "503"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class Unhurried:
    """Takes what has landed, and runs nothing."""

    async def submit(self, dataset: str, batch: str) -> str:
        return "run1"


@pytest.fixture
def context(lake: Lake) -> Iterator[Context]:
    opened = Context.open(Settings(lake=lake.uri), intake=Unhurried())
    yield opened
    opened.close()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        yield from ((path, one) for one in item.values())


def test_it_is_valid_and_names_what_there_is(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    validate(document)
    there = {path: set(item) for path, item in document["paths"].items()}
    assert {path: there.get(path, set()) & methods for path, methods in ENDPOINTS.items()} == ENDPOINTS


def test_refusals_are_told_wherever_there_is_data(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, one in operations(document):
        if "health" in one["tags"]:
            continue
        assert set(one["responses"]) >= REFUSED, path
        assert "422" not in one["responses"], path  # what is wrong is answered with 400
        for status in REFUSED:
            schema = one["responses"][status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"}, path
    assert set(document["components"]["schemas"]["Wrong"]["properties"]) == {"code", "message", "fix", "field"}


def test_credentials_are_asked_for_where_they_are_needed(client: TestClient, lake: Lake, tmp_path: Any) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []\n")
    context = Context.open(Settings(lake=lake.uri, rules=Rules(tokens=str(tokens))), intake=Unhurried())
    with TestClient(application(context)) as guarded:
        document = guarded.get("/openapi.json").json()
        assert guarded.get("/v1/datasets").status_code == 401
    validate(document)
    assert document["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    for path, one in operations(document):
        assert one.get("security", []) == ([] if "health" in one["tags"] else [{"HTTPBearer": []}]), path
    open_to_all = client.get("/openapi.json").json()
    assert "securitySchemes" not in open_to_all["components"]
    assert not any("security" in one for _, one in operations(open_to_all))


@pytest.mark.slow
def test_whatever_is_sent_is_answered_as_documented(context: Context, ids: dict[str, str]) -> None:
    api = schemathesis.openapi.from_asgi("/openapi.json", application(context))
    known = {
        "name": st.sampled_from(["gallery", "other"]),
        "id": st.sampled_from(sorted(ids.values())),
        "run_id": st.just("run1"),
    }
    asked = set()
    for found in api.get_all_operations():
        operation = found.ok()
        names = {one.name for one in operation.path_parameters}
        cases = operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        places = st.none() | st.fixed_dictionaries({name: known[name] for name in sorted(names)})

        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, place=places)
        def ask(case: Any, place: Any) -> None:
            case.path_parameters.update(place or {})
            case.call_and_validate(checks=CHECKS)

        ask()
        asked.add(operation.path)
    assert asked >= set(ENDPOINTS)
