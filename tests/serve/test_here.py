"""Without authentication only this machine is answered, and no page of a stranger in its browser."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from raycluster.serve.here import OnlyHere, is_loopback


def ask(client: str, method: str = "GET", **headers: str) -> Any:
    web = FastAPI()
    web.add_middleware(OnlyHere)

    @web.api_route("/", methods=["GET", "POST"])
    def root() -> str:
        return "answered"

    return TestClient(web, base_url="http://127.0.0.1", client=(client, 4711)).request(method, "/", headers=headers)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"])
def test_this_machine_is_answered(peer: str, host: str) -> None:
    assert ask(peer, host=host).json() == "answered"
    assert ask(peer, "POST", host=host, origin=f"http://{host}").json() == "answered"


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.168.1.2", "2001:db8::1", "0.0.0.0"])
def test_others_are_not(peer: str) -> None:
    answer = ask(peer, host="127.0.0.1")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"
    assert "--tokens" in answer.json()["error"]["fix"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "10.0.0.7"])
def test_a_name_that_was_made_to_lead_here_is_refused(host: str) -> None:
    assert ask("127.0.0.1", host=host).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null", "http://"])
def test_a_form_of_another_origin_is_refused(origin: str) -> None:
    assert ask("127.0.0.1", "POST", origin=origin).status_code == 403


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert [is_loopback(one) for one in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [is_loopback(one) for one in ("0.0.0.0", "::", "example.com", "192.168.0.1", "")] == [False] * 5
