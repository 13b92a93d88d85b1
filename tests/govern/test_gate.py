"""Who asks, what they may and what they see: through the one door that `serve/` knows."""

from __future__ import annotations

import json
import logging
import time

import pyarrow as pa
import pytest
from issuing import AUDIENCE, LETTER

from raycluster.errors import Forbidden, InvalidUse, MissingPackage, RayclusterError, Unauthenticated
from raycluster.govern import rego
from raycluster.govern.gate import Gate, Rules
from raycluster.govern.principal import ANONYMOUS, Principal
from raycluster.govern.tokens import add, digest
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake

SCIENTIST = Principal(subject="ada", roles=("data_scientist",), team="discovery")
ENGINEER = Principal(subject="bob", roles=("data_engineer",))
COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("features", pa.struct([("width", pa.int32()), ("place", pa.struct([("city", pa.string())]))])),
    ]
)
SEEING = """package data.access.policy
allow if input.method == "GET"
rowFilters contains {"expression": sprintf("team = '%s'", [input.user.team])} if input.user.team != null
columnMasks := {"text": {"expression": "NULL"}, "features.place.city": "NULL", "absent": "NULL"} if {
    not "editor" in input.user.roles
}
"""


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def open_gate(lake):
    """Return what opens a gate, and closes it after the test."""
    gates = []

    def make(**rules) -> Gate:
        gates.append(Gate(Rules(**rules), lake))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.rego"
    path.write_text(LETTER)
    return path


def test_nothing_configured_lets_everybody_in_and_logs_nothing(open_gate, lake):
    gate = open_gate()
    assert gate.identify(None) == gate.identify("Bearer whatever") == ANONYMOUS
    gate.permit(ANONYMOUS, "POST", ("data", "x"))
    assert gate.access(ANONYMOUS, "x", COLUMNS) is EVERYTHING
    gate.close()
    assert list(lake.decisions().scan()) == []
    assert gate.problems() == []


def test_the_policy_works_to_the_letter(open_gate, policy):
    gate = open_gate(policy=str(policy))
    gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    assert gate.access(SCIENTIST, "customer_demographics", COLUMNS) is EVERYTHING
    gate.permit(ENGINEER, "POST", ("data", "anonymized_transactions"))
    for who, method, path in (
        (SCIENTIST, "POST", ("data", "customer_demographics")),
        (SCIENTIST, "GET", ("data", "anonymized_transactions")),
        (ENGINEER, "GET", ("data", "customer_demographics")),
        (ENGINEER, "GET", ("data", "anonymized_transactions")),
        (SCIENTIST, "GET", ("runs",)),
        (SCIENTIST, "GET", ()),
        (ANONYMOUS, "GET", ("data", "customer_demographics")),
    ):
        with pytest.raises(Forbidden) as caught:
            gate.permit(who, method, path)
        assert caught.value.message == "the policy in force does not allow this"
    with pytest.raises(Forbidden):
        gate.access(ENGINEER, "customer_demographics", COLUMNS)


def test_what_is_seen_depends_on_who_sees(open_gate, policy):
    policy.write_text(SEEING)
    gate = open_gate(policy=str(policy))
    masks = {"text": "NULL", "features.place.city": "NULL"}
    for _ in range(3):
        assert gate.access(SCIENTIST, "photos", COLUMNS) == Access(filters=("team = 'discovery'",), masks=masks)
        editor = Principal(subject="ada", roles=("editor",))
        assert gate.access(editor, "photos", COLUMNS) is EVERYTHING
        assert gate.access(ENGINEER, "photos", COLUMNS) == Access(masks=masks)
        assert gate.access(ENGINEER, "photos", pa.schema([("id", pa.string())])) is EVERYTHING


def test_a_mask_holds_whatever_the_case_of_its_name_and_inside_a_list(open_gate, policy):
    named = ("TEXT", "Features.Place.CITY", "parts.words", "features.nosuch", "nosuch.text")
    policy.write_text(
        "package data.access.policy\nallow := true\ncolumnMasks := {"
        + ", ".join(f'"{name}": {{"expression": "NULL"}}' for name in named)
        + "}\n"
    )
    columns = COLUMNS.append(pa.field("parts", pa.list_(pa.struct([("words", pa.string())]))))
    found = open_gate(policy=str(policy)).access(SCIENTIST, "photos", columns)
    assert set(found.masks) == {"TEXT", "Features.Place.CITY", "parts.words"}


@pytest.mark.parametrize(
    "text",
    [
        "package data.access.policy\nallow := 1",
        "package data.access.policy\ndeny := true",
        "package data.access.policy\nallow if 1 / (count(input.path[1]) - 6) == 1\nallow if true",
        'package data.access.policy\nallow if true\nrowFilters := "a = 1"',
        'package data.access.policy\nallow if true\nrowFilters contains "a = 1; true"',
        'package data.access.policy\nallow if true\ncolumnMasks := ["text"]',
        'package data.access.policy\nallow if true\ncolumnMask := "NULL" if input.column.name == "id"\n'
        'columnMasks := {"text": "NULL"}',
    ],
    ids=range(7),
)
def test_whatever_else_a_policy_says_is_a_no(open_gate, policy, text, lake, caplog):
    policy.write_text(text)
    gate = open_gate(policy=str(policy))
    with pytest.raises(Forbidden):
        gate.access(Principal(subject="ada"), "photos", COLUMNS)
    gate.close()
    (row,) = [row for batch in lake.decisions().scan() for row in batch.to_pylist()]
    assert row["allowed"] is False
    assert (row["reason"] is None) == ("deny" in text)
    assert ("nothing was decided" in caplog.text) == ("deny" not in text)


def test_an_opa_server_decides_instead(open_gate, host):
    host.answers["/v1/data/data/access/policy"] = lambda body: {
        "result": {"allow": body["input"]["user"]["subject"] == "ada", "rowFilters": ["id = 'x'"], "columnMasks": {}}
    }
    gate = open_gate(opa=host.url)
    assert gate.access(SCIENTIST, "photos", COLUMNS) == Access(filters=("id = 'x'",))
    with pytest.raises(Forbidden):
        gate.permit(ENGINEER, "GET", ("data", "photos"))
    host.answers.clear()
    with pytest.raises(Forbidden):
        gate.permit(SCIENTIST, "GET", ("data", "photos"))


def test_a_new_policy_is_in_force_within_two_seconds_and_a_broken_one_is_told(open_gate, policy):
    gate = open_gate(policy=str(policy))
    gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    policy.write_text(LETTER.replace("data_scientist", "nobody"))
    time.sleep(1.1)
    with pytest.raises(Forbidden):
        gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    policy.write_text("no Rego")
    time.sleep(1.1)
    with pytest.raises(Forbidden):
        gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    assert ["the policy is broken" in problem for problem in gate.problems()] == [True]


def test_api_tokens(open_gate, tmp_path):
    path = tmp_path / "tokens.yaml"
    token = add(path, SCIENTIST)
    gate = open_gate(tokens=str(path))
    for header in (f"Bearer {token}", f"bearer {token}", f"BEARER  {token} "):
        assert gate.identify(header) == SCIENTIST
    # Without a policy, whoever is known may read and add.
    gate.permit(SCIENTIST, "POST", ("data", "x"))
    assert gate.access(SCIENTIST, "x", COLUMNS) is EVERYTHING
    path.write_text("tokens: {")
    time.sleep(1.1)
    assert gate.identify(f"Bearer {token}") == SCIENTIST
    assert ["tokens.yaml" in problem for problem in gate.problems()] == [True]


def test_jwts_beside_api_tokens(open_gate, tmp_path, signer):
    signer.add("k")
    token = add(tmp_path / "tokens.yaml", ENGINEER)
    gate = open_gate(issuer=signer.host.url, audience=AUDIENCE, tokens=str(tmp_path / "tokens.yaml"))
    assert gate.identify(f"Bearer {signer.token('k')}") == SCIENTIST
    assert gate.identify(f"Bearer {token}") == ENGINEER
    signer.host.answers["/jwks"] = (500, b"")
    assert gate.problems() == []


def test_keys_from_a_file_or_a_url(open_gate, tmp_path, signer):
    signer.add("k")
    (tmp_path / "jwks.json").write_text(json.dumps(signer.host.answers["/jwks"]))
    for jwks in (str(tmp_path / "jwks.json"), f"{signer.host.url}/jwks"):
        gate = open_gate(issuer=signer.host.url, audience=AUDIENCE, jwks=jwks)
        assert gate.identify(f"Bearer {signer.token('k')}") == SCIENTIST
    assert signer.host.asked["/.well-known/openid-configuration"] == 0


def test_whatever_is_wrong_with_credentials_is_told_to_the_log_only(open_gate, tmp_path, signer, caplog):
    signer.add("k")
    path = tmp_path / "tokens.yaml"
    add(path, ENGINEER)
    with path.open("a") as file:
        file.write('- {subject: late, sha256: "' + "1a" * 32 + '"}\n')
    expired = "rc_long_ago"
    path.write_text(path.read_text().replace("1a" * 32, digest(expired)).replace("late,", "late, expires: 2020-01-01,"))
    gate = open_gate(issuer=signer.host.url, audience=AUDIENCE, tokens=str(path))
    wrong = {
        None: "no `Authorization",
        "": "no `Authorization",
        "Bearer": "no `Authorization",
        "Bearer  ": "no `Authorization",
        "Basic YTpi": "no `Authorization",
        "rc_abc": "no `Authorization",
        "Bearer rc_abc": "nobody gave out",
        "Bearer a.b": "nobody gave out",
        f"Bearer {expired}": "'late' expired at 2020-01-01 00:00 UTC",
        "Bearer a.b.c": "header",
        f"Bearer {signer.token('k', aud='billing')}": "aud",
        f"Bearer {signer.token('k', exp=1)}": "Expired",
    }
    told = set()
    for header, reason in wrong.items():
        caplog.clear()
        with pytest.raises(Unauthenticated) as caught:
            gate.identify(header)
        told.add(str(caught.value))
        assert reason in caplog.text
        if header and len(header) > 12:
            assert header.split()[-1] not in caplog.text.replace("Basic", "")
    assert len(told) == 1


def test_decisions_are_logged_in_the_lake(open_gate, policy, lake):
    gate = open_gate(policy=str(policy))
    revision = gate._engine.revision
    gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    with pytest.raises(Forbidden):
        gate.permit(ENGINEER, "GET", ("runs", "r1"))
    policy.write_text(SEEING)
    time.sleep(1.1)
    gate.access(SCIENTIST, "photos", COLUMNS)
    gate.close()
    rows = sorted((row for batch in lake.decisions().scan() for row in batch.to_pylist()), key=lambda row: row["at"])
    seen = [(row["subject"], row["team"], row["roles"], row["method"], row["path"], row["allowed"]) for row in rows]
    photos = ["data", "customer_demographics"]
    assert seen == [
        ("ada", "discovery", ["data_scientist"], "GET", photos, True),
        ("ada", "discovery", ["data_scientist"], "GET", photos, True),
        ("bob", None, ["data_engineer"], "GET", ["runs", "r1"], False),
        ("ada", "discovery", ["data_scientist"], "GET", ["data", "photos"], True),
    ]
    assert [row["revision"] == revision for row in rows] == [True, True, True, False]
    assert [(row["filters"], row["masks"]) for row in rows] == [(0, 0)] * 3 + [(1, 3)]
    digests = [row["input_digest"] for row in rows]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert {row["engine"] for row in rows} == {"rego"}
    assert all(row["latency_us"] > 0 for row in rows)
    assert len({row["decision_id"] for row in rows}) == 4


def test_a_lake_that_cannot_be_written_does_not_stop_requests(tmp_path, policy, caplog):
    (tmp_path / "file").write_text("")
    gate = Gate(Rules(policy=str(policy)), Lake(str(tmp_path / "file")))
    gate.permit(SCIENTIST, "GET", ("data", "customer_demographics"))
    gate.close()
    assert "the decision log cannot be written" in caplog.text
    assert ["the decision log cannot be written" in problem for problem in gate.problems()] == [True]


WRONG = [
    ({"issuer": "https://i"}, "audience"),
    ({"jwks": "https://i/jwks"}, "issuer"),
    ({"audience": "a"}, "issuer"),
    ({"issuer": "https://i", "jwks": "x.json"}, "audience"),
    ({"policy": "p.rego", "opa": "http://o"}, "opa"),
]


@pytest.mark.parametrize(("rules", "field"), WRONG, ids=str)
def test_rules_that_do_not_go_together(open_gate, rules, field):
    with pytest.raises(InvalidUse) as caught:
        open_gate(**rules)
    assert caught.value.where == field


@pytest.mark.parametrize(
    "rules",
    [
        {"policy": "absent.rego"},
        {"tokens": "absent.yaml"},
        {"issuer": "https://i", "audience": "a", "jwks": "absent.json"},
        {"opa": "nowhere"},
    ],
    ids=str,
)
def test_nothing_is_served_with_files_that_are_not_there(open_gate, rules):
    with pytest.raises(RayclusterError):
        open_gate(**rules)


def test_nothing_is_served_without_an_engine(open_gate, policy, monkeypatch):
    monkeypatch.setattr(rego, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage):
        open_gate(policy=str(policy))


def test_a_decision_takes_less_than_two_milliseconds_of_this_process(open_gate, policy):
    logging.getLogger("raycluster").setLevel(logging.WARNING)
    policy.write_text(SEEING)
    gate = open_gate(policy=str(policy))
    schema = pa.schema([(f"c{number}", pa.string()) for number in range(20)])
    times = []
    for _ in range(300):
        began = time.thread_time()
        gate.access(SCIENTIST, "photos", schema)
        times.append(time.thread_time() - began)
    assert sorted(times)[297] < 0.002
