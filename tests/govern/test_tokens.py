"""A file of hashes lets in who has a token that it holds the hash of, and says where it is wrong."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from raycluster.errors import InvalidFile, InvalidUse
from raycluster.govern.principal import Principal
from raycluster.govern.tokens import TokenFile, add, digest

ADA = Principal(subject="ada", roles=("data_scientist", "reader"), team="discovery")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.yaml"


def test_a_token_that_was_given_out_is_known_and_kept_nowhere(path):
    token = add(path, ADA)
    assert token.startswith("rc_")
    assert len(token) >= 3 + 43  # 32 bytes
    text = path.read_text()
    assert token not in text
    assert sha256(token.encode()).hexdigest() in text
    found = TokenFile(str(path)).find(token)
    assert (found.principal, found.expires) == (ADA, None)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_each_has_their_own(path):
    expires = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
    bare = Principal(subject="a 'strange: name' # 7")
    tokens = {add(path, ADA): ADA, add(path, bare, expires=expires): bare}
    assert len(tokens) == 2
    file = TokenFile(str(path))
    assert {token: file.find(token).principal for token in tokens} == tokens
    assert [file.find(token).expires for token in tokens] == [None, expires]


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "x", lambda t: t.upper(), digest, lambda t: ""])
def test_what_is_nearly_a_token_is_none(path, change):
    token = add(path, ADA)
    assert TokenFile(str(path)).find(change(token)) is None


def test_a_token_of_strange_signs_is_just_unknown(path):
    add(path, ADA)
    assert TokenFile(str(path)).find("é\udcff\x00") is None


def test_a_file_that_changes_is_read_again(path):
    first = add(path, ADA)
    file = TokenFile(str(path), every=0)
    second = add(path, Principal(subject="bob"))
    assert file.find(second).principal.subject == "bob"
    path.write_text("tokens: []\n")
    assert file.find(first) is None
    path.write_text("tokens: [\n")
    assert file.find(first) is None
    assert "tokens.yaml:2" in file.problem


def test_comments_and_order_stay_when_a_token_is_added(path):
    path.write_text("# who may\ntokens: []\n")
    add(path, ADA)
    before = path.read_text()
    assert before.startswith("# who may\ntokens:\n- {")
    path.write_text(before + "# the robot\n")
    add(path, Principal(subject="robot"))
    assert path.read_text().startswith(before + "# the robot\n- {")


def test_a_file_to_which_nothing_can_be_appended_stays_as_it_was(path):
    for text in ("tokens: [{subject: ada, sha256: " + "0" * 64 + "}]\n", "token: []\n", "- a\n", "{"):
        path.write_text(text)
        with pytest.raises(InvalidUse, match=r"tokens\.yaml"):
            add(path, ADA)
        assert path.read_text() == text


HASH = "a" * 64
WRONG = {
    "tokens: [{subject: ada, sha256: abc}]": ":1:25: tokens.0.sha256",
    "tokens: [{sha256: " + HASH + "}]": ":1:10: missing key 'subject'",
    "tokens:\n- {subject: ada, sha256: " + HASH + ", role: x}": ":2:92: unknown key 'role'",
    "tokens:\n- {subject: ada, sha256: " + HASH + ", roles: x}": ":2:92: tokens.0.roles",
    "tokens:\n- {subject: ada, sha256: " + HASH + ", expires: soon}": ":2:92: tokens.0.expires",
    "tokens:\n- {subject: '', sha256: " + HASH + "}": ":2:4: tokens.0.subject",
    "tokens:\n- {subject: a, sha256: " + HASH + "}\n- {subject: b, sha256: " + HASH + "}": ":3:16: the token of 'b'",
    "other: 1": ":1:1: unknown key 'other'",
    "[]": ":1:1:",
    "a: &x 1\nb: *x": ":1:4: anchors",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_file_says_where(path, text, said):
    path.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        TokenFile(str(path))
    assert f"tokens.yaml{said}" in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(path):
    with pytest.raises(InvalidUse, match="cannot be read"):
        TokenFile(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidUse, match="cannot be read"):
        TokenFile(str(path))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2030-01-02", datetime(2030, 1, 2, tzinfo=UTC)),
        ("'2030-01-02'", datetime(2030, 1, 2, tzinfo=UTC)),
        ("2030-01-02 03:04:05", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04:05+02:00", datetime(2030, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ],
)
def test_days_and_moments_as_people_write_them(path, written, meant):
    path.write_text(f"tokens:\n- {{subject: ada, sha256: {digest('t')}, expires: {written}}}\n")
    assert TokenFile(str(path)).find("t").expires == meant
