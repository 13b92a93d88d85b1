"""A token holds if its issuer made it, for us, and for now: each way in which it may not is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from dataclasses import dataclass

import pytest
from issuing import AUDIENCE, encoded, signed
from joserfc.jwk import ECKey, RSAKey

from raycluster.govern.jwt import ALGORITHMS, LEEWAY_SECONDS, MOST_CHARACTERS, Issuer, Refused
from raycluster.govern.keys import KeyServer
from raycluster.govern.principal import Principal


@pytest.fixture
def issuer(signer):
    signer.add("k1")
    return Issuer(signer.host.url, AUDIENCE, KeyServer(signer.host.url))


def reissued(signer) -> Issuer:
    """Return an issuer that has fetched the keys as they are now."""
    return Issuer(signer.host.url, AUDIENCE, KeyServer(signer.host.url))


def test_a_token_names_its_principal(issuer, signer):
    assert issuer.principal(signer.token("k1")) == Principal(subject="ada", roles=("data_scientist",), team="discovery")


KINDS = [
    *[("RSA", 2048, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")],
    *[("EC", "P-256", "ES256"), ("EC", "P-384", "ES384"), ("EC", "P-521", "ES512")],
    *[("OKP", "Ed25519", "EdDSA"), ("OKP", "Ed25519", "Ed25519")],
]


def test_every_algorithm_is_taken_by_its_name_alone():
    assert [name for _, _, name in KINDS] == list(ALGORITHMS)


@pytest.mark.parametrize(("kind", "curve", "algorithm"), KINDS, ids=[name for _, _, name in KINDS])
def test_every_algorithm_holds_and_a_changed_token_does_not(signer, kind, curve, algorithm):
    signer.add("k", kind, curve)
    issuer, token = reissued(signer), signer.token("k", algorithm)
    assert issuer.principal(token).subject == "ada"
    head, _, signature = token.split(".")
    with pytest.raises(Refused, match="bad_signature"):
        issuer.principal(f"{head}.{encoded(signer.claims(sub='eve'))}.{signature}")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 7, ["RS256"], "HS256", "ES256K", "RS1"])
def test_no_signature_and_unknown_ones_are_refused(issuer, signer, name):
    token = f"{encoded({'alg': name, 'kid': 'k1'})}.{encoded(signer.claims())}."
    with pytest.raises(Refused, match="signed by"):
        issuer.principal(token)


def test_a_public_key_is_no_shared_secret(signer):
    # The classic confusion: the attacker takes the public key, which everybody has, for the secret of an HMAC.
    key = signer.add("rsa", "RSA", 2048)
    issuer = reissued(signer)
    for secret in (
        key.as_pem(private=False),
        json.dumps(key.as_dict(private=False)).encode(),
        key.as_der(private=False),
    ):
        text = f"{encoded({'alg': 'HS256', 'kid': 'rsa'})}.{encoded(signer.claims())}"
        forged = f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"
        with pytest.raises(Refused, match="signed by 'HS256'"):
            issuer.principal(forged)


def test_an_algorithm_of_another_kind_than_the_key_is_refused(signer):
    signer.add("rsa", "RSA", 2048)
    signer.add("p256", "EC", "P-256")
    signer.add("p384", "EC", "P-384")
    signer.add("ed", "OKP", "Ed25519")
    issuer = reissued(signer)
    for kid, algorithm, other in (("rsa", "ES256", "p256"), ("p256", "RS256", "rsa"), ("p256", "EdDSA", "ed")):
        forged = signed(signer.keys[other], {"alg": algorithm, "kid": kid}, signer.claims())
        with pytest.raises(Refused, match="requires"):
            issuer.principal(forged)
    forged = signed(signer.keys["p256"], {"alg": "ES256", "kid": "p384"}, signer.claims())
    with pytest.raises(Refused, match="P-256"):
        issuer.principal(forged)


def test_a_key_that_is_published_for_one_algorithm_is_used_for_no_other(signer):
    signer.add("ps", "RSA", 2048, alg="PS256")
    issuer = reissued(signer)
    assert issuer.principal(signer.token("ps", "PS256")).subject == "ada"
    with pytest.raises(Refused, match="alg"):
        issuer.principal(signer.token("ps", "RS256"))


def test_keys_that_a_token_brings_along_are_not_used(issuer, signer, host):
    own = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    host.answers["/evil"] = {"keys": [own.as_dict(private=False)]}
    brought = [
        {"jwk": own.as_dict(private=False)},
        {"jku": f"{host.url}/evil"},
        {"x5u": f"{host.url}/evil"},
        {"x5c": ["MIIB"]},
    ]
    for header in brought:
        forged = signed(own, {"alg": "ES256", "kid": "k1", **header}, signer.claims())
        with pytest.raises(Refused, match="bad_signature"):
            issuer.principal(forged)
        # and one that is right in spite of them holds
        assert issuer.principal(signer.token("k1", header=header)).subject == "ada"
    assert host.asked["/evil"] == 0


def test_what_a_token_calls_critical_must_be_understood(issuer, signer):
    with pytest.raises(Refused, match="Unsupported"):
        issuer.principal(signer.token("k1", header={"crit": ["exotic"], "exotic": True}))


@dataclass(frozen=True)
class In:
    """A moment so many seconds from when the test runs, which may be minutes after it was collected."""

    seconds: int


def at_last(claims):
    return {key: int(time.time()) + one.seconds if isinstance(one, In) else one for key, one in claims.items()}


LATE = LEEWAY_SECONDS + 30
WRONG = {
    "no exp": ({"exp": ...}, "exp"),
    "exp null": ({"exp": None}, "exp"),
    "exp text": ({"exp": "tomorrow"}, "exp"),
    "exp true": ({"exp": True}, "exp"),
    "exp infinite": ({"exp": float("inf")}, "exp"),
    "expired": ({"exp": In(-LATE)}, "Expired"),
    "not yet": ({"nbf": In(LATE * 10)}, "not yet valid"),
    "from the future": ({"iat": In(LATE * 10)}, "in the future"),
    "no iss": ({"iss": ...}, "iss"),
    "another issuer": ({"iss": "https://other.example"}, "iss"),
    "issuer in a list": ({"iss": ["x"]}, "iss"),
    "no aud": ({"aud": ...}, "aud"),
    "another audience": ({"aud": "billing"}, "aud"),
    "other audiences": ({"aud": ["billing", "mail"]}, "aud"),
    "no audience in the list": ({"aud": []}, "aud"),
    "a number as audience": ({"aud": 7}, "aud"),
    "no sub": ({"sub": ...}, "sub"),
    "an empty sub": ({"sub": ""}, "sub"),
    "a number as sub": ({"sub": 7}, "sub"),
    "roles in an object": ({"roles": {"admin": True}}, "roles"),
    "roles of numbers": ({"roles": [1]}, "roles"),
    "a list as team": ({"team": ["x"]}, "team"),
}


@pytest.mark.parametrize(("other", "reason"), WRONG.values(), ids=WRONG)
def test_claims_that_do_not_hold(issuer, signer, other, reason):
    with pytest.raises(Refused, match=reason):
        issuer.principal(signer.token("k1", **at_last(other)))


@pytest.mark.parametrize(
    "other",
    [
        {"exp": In(-LEEWAY_SECONDS // 2)},
        {"nbf": In(LEEWAY_SECONDS // 2)},
        {"iat": In(LEEWAY_SECONDS // 2)},
        {"aud": ["billing", AUDIENCE]},
        {"iat": ...},
    ],
    ids=str,
)
def test_clocks_may_differ_a_little_and_a_token_may_be_for_several(issuer, signer, other):
    assert issuer.principal(signer.token("k1", **at_last(other))).subject == "ada"


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({"roles": ["a", "b"], "groups": ["c"]}, ("a", "b")),
        ({"roles": ..., "groups": ["c"]}, ("c",)),
        ({"roles": ..., "realm_access": {"roles": ["d"]}}, ("d",)),
        ({"roles": "single"}, ("single",)),
        ({"roles": ...}, ()),
        ({"roles": ..., "realm_access": "none"}, ()),
    ],
    ids=str,
)
def test_roles_as_different_issuers_write_them(issuer, signer, claims, roles):
    assert issuer.principal(signer.token("k1", **claims)).roles == roles


def test_a_huge_token_is_refused_before_it_is_read(issuer, signer, monkeypatch):
    token = signer.token("k1", more="x" * MOST_CHARACTERS)
    monkeypatch.setattr("raycluster.govern.jwt._header", lambda _: pytest.fail("it was read"))
    with pytest.raises(Refused, match="characters"):
        issuer.principal(token)


@pytest.mark.parametrize("token", ["..", "a.b.c", "é.é.é", "W10.e30.x", f"{encoded(b'[')}.x.y", "." * 2000])
def test_what_is_no_token(issuer, token):
    with pytest.raises(Refused):
        issuer.principal(token)


def test_a_signed_text_that_is_no_object_of_claims(issuer, signer):
    for claims in (b"[]", b"not json", b"7"):
        with pytest.raises(Refused, match="payload"):
            issuer.principal(signed(signer.keys["k1"], {"alg": "ES256", "kid": "k1"}, claims))


def test_a_token_without_a_key_id_needs_an_issuer_with_one_key(signer):
    signer.add("only")
    issuer = reissued(signer)
    token = signed(signer.keys["only"], {"alg": "ES256"}, signer.claims())
    assert issuer.principal(token).subject == "ada"
    signer.add("second", "RSA", 2048)
    with pytest.raises(Refused, match="no key None"):
        reissued(signer).principal(token)
    with pytest.raises(Refused, match="kid"):
        issuer.principal(signed(signer.keys["only"], {"alg": "ES256", "kid": 7}, signer.claims()))


def test_another_issuers_key_of_the_same_name(issuer, signer):
    stranger = RSAKey.generate_key(2048, parameters={"kid": "k1"})
    with pytest.raises(Refused):
        issuer.principal(signed(stranger, {"alg": "RS256", "kid": "k1"}, signer.claims()))
