"""What docs/access.md and workloads/policies/ show works as they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from issuing import LETTER

from raycluster import cli
from raycluster.errors import Forbidden
from raycluster.govern.gate import Gate, Rules
from raycluster.govern.principal import Principal
from raycluster.govern.tokens import TokenFile
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake

ROOT = Path(__file__).parent.parent.parent
POLICIES = ROOT / "workloads" / "policies"
PAGE = (ROOT / "docs" / "access.md").read_text()
README = (POLICIES / "README.md").read_text()
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("vector", pa.list_(pa.float32(), 4)),
        ("features", pa.struct([("width", pa.int32()), ("latitude", pa.float64())])),
    ]
)


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def open_gate(tmp_path):
    gates = []

    def make(policy: str) -> Gate:
        path = tmp_path / "policy.rego"
        if policy.startswith("package"):
            path.write_text(policy)
        else:
            path = Path(policy)
        gates.append(Gate(Rules(policy=str(path)), Lake(str(tmp_path / "lake"))))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


def may(gate: Gate, who: Principal, method: str, *path: str) -> bool:
    try:
        gate.permit(who, method, path)
    except Forbidden:
        return False
    return True


def who(*roles: str, team: str | None = None) -> Principal:
    return Principal(subject="ada", roles=roles, team=team)


def test_the_page_has_the_blocks_that_are_tested():
    found = re.findall(r"```(\w+)\n", PAGE + README)
    assert sorted(found) == ["json", "rego", "rego", "sh", "sh", "sh", "sh", "yaml"]


@pytest.mark.parametrize("line", [line for block in blocks("sh", PAGE + README) for line in block.splitlines()])
def test_commands(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, verb, *arguments = shlex.split(line)
    assert program == "raycluster"
    command = cli.main.commands[verb]
    context = command.make_context(verb, [*arguments])  # complains of whatever it does not know
    if verb == "token":
        said = CliRunner().invoke(cli.main, [verb, *arguments])
        assert said.exit_code == 0
        found = TokenFile("tokens.yaml").find(said.stdout.strip())
        assert (found.principal.subject, found.principal.team) == ("ada", "discovery")
    else:
        assert context.params["tokens"] or context.params["issuer"]


def test_the_file_of_tokens(tmp_path):
    (tmp_path / "tokens.yaml").write_text(blocks("yaml")[0])
    file = TokenFile(str(tmp_path / "tokens.yaml"))
    assert file.find("test").principal == who("data_scientist", team="discovery")
    assert file.find("test2").expires.year == 2030


def test_the_first_policy_is_the_letter_and_its_input_is_what_is_sent(open_gate):
    assert blocks("rego")[0] == LETTER
    gate = open_gate(blocks("rego")[0])
    asked = json.loads(blocks("json")[0])
    reader = who("data_scientist", team="discovery")
    assert asked["user"] == reader.document()
    assert may(gate, reader, asked["method"], *asked["path"])
    assert set(asked) == {"method", "path", "user"}
    assert not may(gate, who("data_engineer"), asked["method"], *asked["path"])


def test_the_second_policy_hides_rows_and_columns(open_gate):
    gate = open_gate(blocks("rego")[1])
    masks = {"text": "NULL", "features.latitude": "NULL"}
    assert gate.access(who("listener", "editor"), "x", SCHEMA) is EVERYTHING
    assert gate.access(who("listener"), "x", SCHEMA) == Access(masks=masks)
    seen = gate.access(who("editor", team="O'Hara"), "x", SCHEMA)
    assert set(seen.filters) == {"modality <> 'audio'", "provenance.workload = 'O''Hara'"}
    assert seen.masks == {}


def test_the_example_policy(open_gate):
    gate = open_gate(str(POLICIES))
    staff, partner, monitor = who("staff"), who("partner", team="O'Hara"), who("monitor")
    assert [may(gate, staff, "GET", "data", name) for name in ("sample", "image_classification", "other")] == [
        True,
        True,
        False,
    ]
    assert may(gate, staff, "POST", "data", "sample")
    assert not may(gate, staff, "POST", "data", "image_classification")
    assert not may(gate, partner, "POST", "data", "image_classification")
    assert not may(gate, partner, "GET", "data", "sample")
    for one, path, expected in (
        (partner, "datasets", True),
        (who(), "datasets", False),
        (monitor, "metrics", True),
        (staff, "metrics", False),
        (staff, "data", False),
    ):
        assert may(gate, one, "GET", path) is expected
    assert gate.access(staff, "sample", SCHEMA) is EVERYTHING
    seen = gate.access(partner, "image_classification", SCHEMA)
    assert set(seen.filters) == {"modality = 'image'", "starts_with(uri, 's3://media/O''Hara/')"}
    assert seen.masks == {"text": "NULL", "vector": "NULL", "features.latitude": "NULL"}
    assert "false" in gate.access(who("partner"), "image_classification", SCHEMA).filters


def test_no_table_row_of_the_readme_is_unknown_to_the_engine():
    named = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert named == ["allow", "rowFilters", "columnMask", "columnMasks"]
