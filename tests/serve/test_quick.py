"""Quick routes answer without FastAPI, and as it would: mistakes in one form, and nobody who has gone."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from raycluster.serve import search
from raycluster.serve.context import Context
from raycluster.serve.web import application

SEARCH = "/v1/datasets/gallery/search"


def test_a_mistake_is_told_in_one_form_and_counted(context: Context, client: TestClient, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(search, "at_hand", fail)
    answer = client.post(SEARCH, json={"vector": [1.0]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert 'requests_total{group="search",method="POST",status="500"} 1.0' in context.metrics.snapshot()


def test_who_leaves_in_the_middle_of_a_body_is_not_answered(context: Context) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": SEARCH, "headers": [], "client": None}
    asyncio.run(application(context)(scope, receive, send))
    assert not sent


def test_a_body_may_come_in_pieces(client: TestClient) -> None:
    def pieces() -> Any:
        yield from (b'{"text": ', b'"sea", "mode"', b': "text"}')

    assert client.post(SEARCH, content=pieces(), headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize("path", [f"{SEARCH}/", "/v1/searches"])
def test_other_paths_are_fastapis(client: TestClient, path: str) -> None:
    assert client.post(path, json={}, follow_redirects=False).status_code in (307, 404)
