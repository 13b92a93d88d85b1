"""An OPA server is asked as its documentation has it; whatever it answers otherwise is a no.

The server is a small one that follows OPA's REST API and evaluates with the embedded engine.
"""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
import regorus
from issuing import LETTER

from raycluster.errors import InvalidUse
from raycluster.govern.decision import LIMIT_SECONDS, Undecided, decide
from raycluster.govern.opa import Opa
from raycluster.govern.rego import Rego

PATH = "/v1/data/data/access/policy"
QUERY = "/v1/query"
MASKS = """package data.access.policy
allow if input.method == "GET"
rowFilters contains {"expression": "modality = 'image'"} if input.user.team != "x"
columnMask := {"expression": "NULL"} if {
    input.column.name == "text"
    input.column.type == "string"
}
"""
# The same for all columns at once.
AT_ONCE = MASKS.replace("columnMask :=", "columnMasks[input.columns[i].name] :=").replace(
    "input.column.", "input.columns[i]."
)
COLUMNS = [{"name": name, "type": "string"} for name in ("id", "text", "uri")]


def question(method: str, name: str, *roles: str, **more) -> dict:
    user = {"subject": "ada", "roles": list(roles), "team": "discovery"}
    return {"method": method, "path": ["data", name], "user": user, **more}


@pytest.fixture
def opa(host):
    made = Opa(host.url)
    yield made
    made.close()


@pytest.fixture
def serve(host, tmp_path):
    """Return what lets the server evaluate a policy."""
    engines = []

    def load(text: str) -> Rego:
        (tmp_path / "policy.rego").write_text(text)
        engine = Rego(str(tmp_path / "policy.rego"))
        engines.append(engine)

        def answer(body: dict) -> dict:
            host.bodies.append(body)
            # OPA knows nothing of `columns`: masks are asked for one by one.
            document = {name: value for name, value in body["input"].items() if name != "columns" or text == AT_ONCE}
            if column := document.get("column"):
                document["columns"] = [column]
            said, _ = engine.ask(document)
            if masks := said.pop("columnMask"):
                said["columnMask"] = masks[column["name"]]
            return {"decision_id": "x", **({} if said is None else {"result": said})}

        host.answers[PATH] = answer
        return engine

    yield load
    for engine in engines:
        engine.close()


def test_the_policy_works_to_the_letter(opa, serve, host):
    serve(LETTER)
    for method, name, role, expected in (
        ("GET", "customer_demographics", "data_scientist", True),
        ("POST", "anonymized_transactions", "data_engineer", True),
        ("POST", "customer_demographics", "data_scientist", False),
        ("GET", "anonymized_transactions", "data_engineer", False),
    ):
        assert decide(opa.ask(question(method, name, role))[0]).allowed is expected
    assert host.bodies[0] == {"input": question("GET", "customer_demographics", "data_scientist")}
    assert sum(host.asked.values()) == 4


def test_masks_column_by_column_are_those_of_the_embedded_engine(opa, serve, host):
    embedded = serve(MASKS)
    asked = question("GET", "photos", columns=COLUMNS)
    decision = decide(opa.ask(asked)[0])
    assert decision == decide(embedded.ask(asked)[0])
    assert decision.masks == {"text": "NULL"}
    assert decision.filters == ("modality = 'image'",)
    assert host.asked == {PATH: 1 + len(COLUMNS), QUERY: 1}  # a server that takes no queries
    assert host.bodies[1] == {"input": asked | {"column": COLUMNS[0]}}


def test_masks_column_by_column_take_one_query_where_there_are_such(opa, serve, host):
    embedded = serve(MASKS)
    queries = []

    def query(body: dict) -> dict:
        # As OPA: the bindings of the query's variables, evaluated by the same engine.
        queries.append(body["query"])
        engine = regorus.Engine()
        engine.add_policy("policy.rego", MASKS)
        engine.set_input(body["input"])
        return {"result": [one["bindings"] for one in json.loads(engine.eval_query_as_json(body["query"]))["result"]]}

    host.answers[QUERY] = query
    asked = question("GET", "photos", columns=COLUMNS)
    decision = decide(opa.ask(asked)[0])
    assert decision == decide(embedded.ask(asked)[0])
    assert decision.masks == {"text": "NULL"}
    assert host.asked == {PATH: 1, QUERY: 1}
    assert "data.data.access.policy.columnMask" in queries[0]


@pytest.mark.parametrize(
    "answer",
    [(400, b"{}"), (200, b"no JSON"), [], {}, {"result": {}}, {"result": []}, {"result": [1]}, {"result": [{}]}],
)
def test_a_query_that_is_not_answered_as_such_is_no_answer(opa, serve, host, answer):
    serve(MASKS)
    host.answers[QUERY] = answer
    assert decide(opa.ask(question("GET", "photos", columns=COLUMNS))[0]).masks == {"text": "NULL"}


def test_masks_of_all_columns_at_once_take_one_request(opa, serve, host):
    embedded = serve(AT_ONCE)
    asked = question("GET", "photos", columns=COLUMNS)
    decision = decide(opa.ask(asked)[0])
    assert decision == decide(embedded.ask(asked)[0])
    assert decision.masks == {"text": "NULL"}
    assert host.asked == {PATH: 1}


def test_a_mask_for_every_column_alike(opa, serve):
    embedded = serve('package data.access.policy\nallow if true\ncolumnMask := "NULL" if input.method == "GET"')
    for columns in ([], COLUMNS):
        asked = question("GET", "photos", columns=columns)
        assert decide(opa.ask(asked)[0]) == decide(embedded.ask(asked)[0])
        assert decide(opa.ask(asked)[0]).masks == {column["name"]: "NULL" for column in columns}


def test_no_masks_are_asked_for_whom_nothing_is_allowed(opa, host):
    host.answers[PATH] = {"result": {"allow": False}}
    assert not decide(opa.ask(question("GET", "photos", columns=COLUMNS))[0]).allowed
    assert host.asked[PATH] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b'{"result": {"allow": true}}'), "status 500"),
        ((404, b""), "status 404"),
        ((302, b""), "status 302"),
        ((200, b'{"result": {"allow": tr'), "no result"),
        ((200, b"[]"), "no result"),
        ({}, "no result"),
        ({"allow": True}, "no result"),
    ],
    ids=str,
)
def test_whatever_is_not_an_answer_is_undecided(opa, host, answer, reason):
    host.answers[PATH] = answer
    with pytest.raises(Undecided, match=reason):
        opa.ask(question("GET", "x"))


@pytest.mark.parametrize("result", [True, None, [], "allow"], ids=repr)
def test_a_result_of_another_shape_is_undecided(opa, host, result):
    host.answers[PATH] = {"result": result}
    with pytest.raises(Undecided):
        decide(opa.ask(question("GET", "x"))[0])


def test_a_mask_of_another_shape_is_undecided(opa, host):
    host.answers[PATH] = {"result": {"allow": True, "columnMask": 7}}
    with pytest.raises(Undecided, match="the mask of id"):
        decide(opa.ask(question("GET", "x", columns=COLUMNS))[0])


def test_a_server_that_is_slow(opa, host):
    host.answers[PATH], host.delay = {"result": {"allow": True}}, LIMIT_SECONDS + 1
    began = time.monotonic()
    with pytest.raises(Undecided, match="gave no answer"):
        opa.ask(question("GET", "x"))
    assert time.monotonic() - began < LIMIT_SECONDS + 0.5


def test_the_limit_is_for_all_requests_of_one_question(opa, host):
    host.answers[PATH], host.delay = {"result": {"allow": True}}, 0.4
    with pytest.raises(Undecided, match=r"gave no answer|longer than 1 s"):
        opa.ask(question("GET", "x", columns=COLUMNS))
    assert host.asked[PATH] <= 3


def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opa = Opa(f"http://127.0.0.1:{port}")
    with pytest.raises(Undecided, match="gave no answer"):
        opa.ask(question("GET", "x"))


def test_a_connection_that_was_closed_meanwhile_is_no_reason_to_refuse():
    # A server that closes each connection after one answer, without saying so.
    body = b'{"result": {"allow": true}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def answer_twice() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

        serving = threading.Thread(target=answer_twice)
        serving.start()
        opa = Opa(f"http://127.0.0.1:{server.getsockname()[1]}/")
        assert [decide(opa.ask(question("GET", "x"))[0]).allowed for _ in range(2)] == [True, True]
        serving.join()
        opa.close()


def test_the_whole_url_of_the_document_may_be_named(host):
    host.answers["/v1/data/teams/discovery"] = {"result": {"allow": True}}
    opa = Opa(f"{host.url}/v1/data/teams/discovery")
    assert decide(opa.ask(question("GET", "x"))[0]).allowed
    opa.close()


@pytest.mark.parametrize("url", ["localhost:8181", "ftp://host", "http://", "policy.rego"])
def test_what_is_no_url(url):
    with pytest.raises(InvalidUse, match="is no URL"):
        Opa(url)
