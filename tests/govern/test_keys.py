"""Keys come and go as their issuer says; strangers cannot make us ask it more often than we like."""

from __future__ import annotations

import json
import threading
import time

import pytest
from joserfc.jwk import ECKey, OctKey

from raycluster.errors import InvalidUse
from raycluster.govern.keys import FRESH_SECONDS, PAUSE_SECONDS, STALE_SECONDS, KeyFile, KeyServer


@pytest.fixture
def server(signer, clock):
    signer.add("old")
    return KeyServer(signer.host.url, now=clock)


def test_keys_are_found_through_the_issuer_and_kept(server, host):
    assert all(server.find("old") for _ in range(10))
    assert (host.asked["/.well-known/openid-configuration"], host.asked["/jwks"]) == (1, 1)
    assert server.problem is None


def test_keys_at_a_url_need_no_discovery(signer, host):
    signer.add("old")
    assert KeyServer("https://issuer.example", f"{host.url}/jwks").find("old")
    assert list(host.asked) == ["/jwks"]


def test_a_new_key_is_fetched_when_a_token_names_it_and_the_old_one_is_dropped(server, signer, clock):
    clock.now += PAUSE_SECONDS + 1
    del signer.keys["old"]
    signer.add("new")
    assert server.find("old") is not None  # nobody has asked yet
    assert server.find("new") is not None
    assert server.find("old") is None


def test_a_key_that_was_taken_back_is_refused_after_minutes(server, signer, clock):
    del signer.keys["old"]
    signer.add("new")
    clock.now += FRESH_SECONDS - 1
    assert server.find("old") is not None
    clock.now += 2
    assert server.find("old") is None


def test_made_up_key_ids_do_not_hammer_the_issuer(server, signer, host, clock):
    clock.now += PAUSE_SECONDS + 1
    for number in range(100):
        assert server.find(f"made-up-{number}") is None
    assert host.asked["/jwks"] == 2
    signer.add("new")
    assert server.find("new") is None  # that is the price
    clock.now += PAUSE_SECONDS + 1
    assert server.find("new") is not None
    assert host.asked["/jwks"] == 3


def test_known_keys_hold_for_a_while_when_the_issuer_is_down(server, host, clock, caplog):
    host.answers["/jwks"] = (500, b"no")
    clock.now += FRESH_SECONDS + 1
    assert server.find("old") is not None
    assert server.find("unknown") is None
    assert "500" in server.problem
    assert "cannot be fetched" in caplog.text
    clock.now += STALE_SECONDS
    assert server.find("old") is None


def test_an_issuer_that_comes_up_later(signer, host, clock):
    host.answers["/jwks"] = (503, b"")
    server = KeyServer(host.url, now=clock)
    assert server.find("k") is None
    signer.add("k")
    assert server.find("k") is None
    clock.now += PAUSE_SECONDS + 1
    assert server.find("k") is not None
    assert server.problem is None


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"/jwks": (200, b"<html>")}, "not JSON"),
        ({"/jwks": []}, "no JSON object"),
        ({"/jwks": {}}, "no key"),
        ({"/jwks": {"keys": {}}}, "no key"),
        ({"/jwks": {"keys": []}}, "no key"),
        ({"/jwks": (200, b" " * (1 << 20) + b"{}")}, "more than 1 MiB"),
        ({"/.well-known/openid-configuration": {"issuer": "https://other.example"}}, "other.example"),
        ({"/.well-known/openid-configuration": {}}, "None"),
        ({"/.well-known/openid-configuration": (404, b"")}, "404"),
    ],
    ids=str,
)
def test_whatever_else_is_answered_changes_nothing(server, host, clock, place, reason):
    host.answers |= place
    clock.now += FRESH_SECONDS + 1
    assert server.find("old") is not None
    assert reason in server.problem


def test_a_discovery_without_keys(host, signer, clock):
    host.answers["/.well-known/openid-configuration"] = {"issuer": host.url}
    server = KeyServer(host.url, now=clock)
    assert server.find("k") is None
    assert "jwks_uri" in server.problem


def test_keys_that_cannot_check_signatures_are_passed_over(signer, clock, caplog):
    good = signer.add("good")
    secret = OctKey.generate_key(256, parameters={"kid": "secret"}).as_dict(private=True)
    short = {"kty": "RSA", "kid": "short", "n": "A" * 171, "e": "AQAB"}  # 1,024 bits
    encrypting = ECKey.generate_key("P-256", parameters={"kid": "enc", "use": "enc"}).as_dict(private=False)
    broken = {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"}
    signer.publish(secret, short, encrypting, broken, {"kty": "AKP", "kid": "quantum"}, "text", None)
    server = KeyServer(signer.host.url, now=clock)
    for kid in ("secret", "short", "enc", "broken", "quantum"):
        assert server.find(kid) is None
    assert server.find("good").thumbprint() == good.thumbprint()
    assert server.find(None) is not None  # the only one
    assert "passed over" in caplog.text


def test_who_has_a_key_does_not_wait_for_a_slow_issuer(server, host, clock):
    clock.now += FRESH_SECONDS + 1
    host.delay = 0.6
    slow = threading.Thread(target=server.find, args=("old",))
    slow.start()
    time.sleep(0.1)
    began = time.monotonic()
    assert server.find("old") is not None
    assert time.monotonic() - began < 0.4
    slow.join()


def test_plain_http_is_warned_of_except_on_this_machine(host, clock, caplog):
    KeyServer(host.url, now=clock)
    assert "is not https" not in caplog.text
    KeyServer("http://issuer.invalid", f"{host.url}/jwks", now=clock)
    assert "http://issuer.invalid is not https" in caplog.text


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path, signer):
    path = tmp_path / "jwks.json"

    def write(*kids: str) -> None:
        keys = [signer.keys.get(kid) or signer.add(kid) for kid in kids]
        path.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))

    write("a")
    keys = KeyFile(str(path), every=0)
    assert keys.find("a")
    assert keys.find("b") is None
    write("b", "c")
    assert keys.find("b")
    assert keys.find("a") is None
    path.write_text("{")
    assert keys.find("b")
    assert "is not JSON" in keys.problem


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
def test_a_file_without_keys_is_an_error_at_once(tmp_path, text):
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(InvalidUse, match=r"jwks\.json"):
        KeyFile(str(path))
    with pytest.raises(InvalidUse, match="cannot be read"):
        KeyFile(str(tmp_path / "absent.json"))
