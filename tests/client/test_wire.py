"""What is sent again and how often, and what becomes of every answer that is none."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest

import raycluster
from raycluster import errors
from raycluster.client import NoAnswer
from raycluster.errors import InvalidUse, RayclusterError

BUSY = (429, {"Retry-After": "1"}, {"error": {"code": "busy", "message": "full", "fix": "wait"}})
LATE = (503, {}, {"error": {"code": "timed_out", "message": "late", "fix": "again"}})
NO_DATASETS = (200, {}, {"datasets": []})
NO_HITS = (200, {}, {"dataset": "d", "version": 1, "took_ms": 1.0, "hits": [], "next": None})
ADDED = (202, {}, {"dataset": "d", "run_id": "r", "objects": []})
GONE = (200, {}, {"dataset": "d", "version": 1, "objects": 1, "rows": 1, "live": True})


@pytest.fixture
def pauses(monkeypatch):
    """Make no pause, and note how long each would have been."""
    made = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=made.append, time=time.time))
    return made


def test_who_is_busy_is_asked_again_when_he_says(scripted):
    server = scripted(BUSY, BUSY, NO_DATASETS)
    began = time.monotonic()
    with raycluster.connect(server.url) as client:
        assert client.datasets() == []
    assert len(server.asked) == 3
    assert time.monotonic() - began >= 2


def test_a_search_is_asked_again(scripted):
    server = scripted(LATE, NO_HITS)
    with raycluster.connect(server.url) as client:
        assert client.search("d", text="x").hits == ()
    assert [(method, path) for method, path, *_ in server.asked] == [("POST", "/v1/datasets/d/search")] * 2


def test_an_upload_is_sent_again_whole_and_under_the_same_key(scripted, tmp_path):
    server = scripted(LATE, ADDED, ADDED)
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10_000)
    with raycluster.connect(server.url) as client:
        client.add("d", files=[tmp_path / "a.bin"])
        client.add("d", files=[tmp_path / "a.bin"])
    first, second, other = server.asked
    assert first[3] == second[3]
    assert len(first[3]) > 2_560_000
    assert first[2]["content-length"] == str(len(first[3]))
    keys = [headers["idempotency-key"] for _, _, headers, _ in server.asked]
    assert keys[0] == keys[1] != keys[2]
    assert other[3] != first[3], "another form has another boundary"


@pytest.mark.parametrize("answer", [BUSY, LATE])
def test_a_deletion_is_sent_once(scripted, answer):
    server = scripted(answer, GONE)
    with raycluster.connect(server.url) as client, pytest.raises(RayclusterError):
        client.delete("d", ids=["x"])
    assert len(server.asked) == 1


def test_in_the_end_it_is_told_that_the_server_is_busy(scripted, pauses):
    server = scripted((429, {"Retry-After": "100000"}, BUSY[2]))
    with raycluster.connect(server.url) as client, pytest.raises(errors.Busy) as busy:
        client.datasets()
    assert (busy.value.message, busy.value.fix, busy.value.retryable) == ("full", "wait", True)
    assert len(server.asked) == 5
    assert pauses == [30] * 4, "however long it says"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 500, 502])
def test_nothing_else_is_sent_again(scripted, status):
    server = scripted((status, {}, {"error": {"code": "x", "message": "no", "fix": ""}}))
    with raycluster.connect(server.url) as client, pytest.raises(RayclusterError):
        client.datasets()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "family"),
    [
        (400, "invalid", InvalidUse),
        (401, "unauthenticated", errors.Unauthenticated),
        (402, "over_budget", errors.OverBudget),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (409, "conflict", errors.Conflict),
        (409, "mismatch", errors.Mismatch),
        (410, "gone", errors.Gone),
        (413, "too_large", errors.TooLarge),
        (400, "invalid_file", InvalidUse),
        (416, "range", RayclusterError),
        (404, "of_a_later_version", errors.NotFound),
        (500, "internal", RayclusterError),
    ],
)
def test_an_error_is_of_the_family_that_the_server_tells(scripted, status, code, family):
    server = scripted((status, {}, {"error": {"code": code, "message": "m", "fix": "f", "field": "k"}}))
    with raycluster.connect(server.url) as client, pytest.raises(RayclusterError) as wrong:
        client.datasets()
    assert type(wrong.value) is family
    assert (wrong.value.message, wrong.value.fix, wrong.value.where) == ("m", "f", "k")


@pytest.mark.parametrize("body", [b"<h1>Bad Gateway</h1>", b"[1]", b'{"error": "no"}', b"null", b""])
def test_an_answer_of_something_else_is_said_to_be_that(scripted, body):
    server = scripted((502, {}, body))
    with raycluster.connect(server.url) as client, pytest.raises(NoAnswer, match="502 Bad Gateway") as wrong:
        client.datasets()
    assert "something before it" in wrong.value.fix


@pytest.mark.parametrize("body", [b"<h1>It works!</h1>", b"[]", b""])
def test_a_page_is_no_answer(scripted, body):
    server = scripted((200, {}, body))
    with raycluster.connect(server.url) as client, pytest.raises(NoAnswer, match="no JSON object"):
        client.health()


def test_what_changes_something_does_not_follow_redirects(scripted):
    server = scripted((307, {"Location": "https://elsewhere.example/v1/data/d"}, {}))
    with raycluster.connect(server.url) as client, pytest.raises(NoAnswer) as wrong:
        client.delete("d", ids=["x"])
    assert "https://elsewhere.example" in wrong.value.fix
    assert len(server.asked) == 1


def test_nobody_there(pauses):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with raycluster.connect(url) as client, pytest.raises(NoAnswer, match="gave no answer") as wrong:
        client.delete("d", ids=["x"])
    assert url in wrong.value.message
    assert "raycluster serve" in wrong.value.fix
    assert wrong.value.retryable
    assert pauses == [0.8, 1.6, 3.2], "and none before the first time"


def test_a_server_that_says_nothing(rude, pauses):
    server = rude(hangs_up=False)
    with raycluster.connect(server.url, timeout=0.2) as client:
        with pytest.raises(errors.TimedOut, match=r"did not answer within 0\.2 s"):
            client.datasets()
        assert len(server.met) == 3
        with pytest.raises(errors.TimedOut):
            client.delete("d", ids=["x"])
        assert len(server.met) == 4


def test_a_server_that_hangs_up(rude, pauses):
    server = rude()
    with raycluster.connect(server.url) as client:
        with pytest.raises(NoAnswer):
            client.datasets()
        assert len(server.met) == 3
        with pytest.raises(NoAnswer):
            client.delete("d", ids=["x"])
        assert len(server.met) == 4


def test_an_answer_that_breaks_off(rude, tmp_path, pauses):
    server = rude(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 60)
    with raycluster.connect(server.url) as client:
        with pytest.raises(NoAnswer):
            client.media("d", "r")
        with pytest.raises(NoAnswer):
            client.save("d", "r", tmp_path / "half.bin")
        with pytest.raises(NoAnswer):
            client.datasets()
    assert list(tmp_path.iterdir()) == []


def test_the_token_is_sent_and_not_shown(scripted, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login l password p\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("RAYCLUSTER_TOKEN", "from-the-environment")
    server = scripted(NO_DATASETS)
    monkeypatch.setenv("RAYCLUSTER_URL", server.url + "/")
    for client in (raycluster.connect(token="given\n"), raycluster.connect()):
        client.datasets()
        assert repr(client) == f"Client('{server.url}')"
        client.close()
    assert [headers["authorization"] for _, _, headers, _ in server.asked] == [
        "Bearer given",
        "Bearer from-the-environment",
    ]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "localhost"])
def test_what_is_no_url(url):
    with pytest.raises(InvalidUse, match="no URL") as wrong:
        raycluster.connect(url)
    assert wrong.value.where == "url"


def test_a_token_that_is_no_header():
    with pytest.raises(InvalidUse, match="no header") as wrong:
        raycluster.connect("http://127.0.0.1", token="a\nb")
    assert wrong.value.where == "token"
    assert "a\nb" not in str(wrong.value)
