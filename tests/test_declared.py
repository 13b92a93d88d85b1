"""Declarations come from strangers too: none of them runs a command, fetches a file or ends in a traceback."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from raycluster import cli, stage
from raycluster.declare.resource import KINDS
from raycluster.errors import InvalidUse, NotFound

ROOT = Path(__file__).parent.parent
WORKLOAD = """\
apiVersion: raycluster/v1
kind: Workload
metadata: {name: w, labels: {team: t}}
spec:
  source: {files: {paths: [.]}}
  decode: {text: {}}
  encode:
    - {use: minilm}
  sink: {dataset: d}
"""


def validate(*paths: Path) -> tuple[int, dict[str, list[str]]]:
    """Return the exit status, and what is wrong with each file."""
    answer = CliRunner().invoke(cli.main, ["validate", "--json", *map(str, paths)])
    found = json.loads(answer.stdout)
    return answer.exit_code, {
        Path(one["file"]).name: [f"{p['where']}: {p['message']} | {p['fix']}" for p in one["problems"]] for one in found
    }


def write(folder: Path, text: str, name: str = "w.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "entry",
    [
        "{use: 'subprocess:getoutput', cmd: 'touch ran'}",
        "{use: 'subprocess:Popen', args: 'touch ran', shell: true}",
        "{use: 'os:system', command: 'touch ran'}",
        "{use: 'json:JSONDecoder'}",
        "{use: 'json:dumps', obj: 1}",
        "{use: ':x'}",
        "{use: 'json:'}",
        "{use: '.json:x'}",
        "{use: 'raycluster.encode:Encode'}",
        "{use: 'raycluster.decode.text:Text'}",
        "{use: 'private_stages:None'}",
        "{use: 'private_stages:os.system'}",
        "{use: 'failing_module:Stage'}",
    ],
)
@pytest.mark.parametrize("family", ["encode", "check"])
def test_only_a_stage_of_the_family_may_be_named(tmp_path, monkeypatch, entry: str, family: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, "raise RuntimeError('at import')\n", "failing_module.py")
    old, new = "- {use: minilm}\n", "- {use: minilm}\n    - " + entry + "\n"
    text = WORKLOAD.replace(old, new) if family == "encode" else WORKLOAD + f"  check:\n    rules:\n    - {entry}\n"
    code, found = validate(write(tmp_path, text))
    assert code == 2
    assert len(found["w.yaml"]) == 1
    assert f"w.yaml:{9 if family == 'encode' else 12}:8: " in found["w.yaml"][0]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["subprocess:getoutput", "os:system"])
def test_sources_and_decoders_likewise(tmp_path, name: str) -> None:
    for old in ("files: {paths: [.]}", "text: {}"):
        code, found = validate(write(tmp_path, WORKLOAD.replace(old, f"'{name}': {{}}")))
        assert code == 2
        assert "is no stage of the family" in found["w.yaml"][0]


def test_a_private_stage_of_the_family_is_found(tmp_path) -> None:
    path = write(tmp_path, WORKLOAD.replace("{use: minilm}", "{use: 'private_stages:Marking'}"))
    assert validate(path) == (0, {"w.yaml": []})
    assert stage.find("encode", "private_stages:Marking").__name__ == "Marking"
    with pytest.raises(InvalidUse, match="is no stage of the family 'decode'"):
        stage.find("decode", "private_stages:Marking")
    with pytest.raises(NotFound):
        stage.find("encode", "private_stages")


@pytest.mark.parametrize(
    "entry",
    [
        "{use: minilm, timeout: 0s}",
        "{use: 'private_stages:Marking', timeout: 0ms}",
        f"{{use: minilm, timeout: {'9' * 400}s}}",
    ],
)
def test_a_time_limit_of_nothing_or_for_ever_is_refused(tmp_path, entry: str) -> None:
    code, found = validate(write(tmp_path, WORKLOAD.replace("{use: minilm}", entry)))
    assert code == 2
    assert "timeout: must be more than 0" in found["w.yaml"][0]
    assert "w.yaml:8:" in found["w.yaml"][0]


def test_a_source_and_a_decoder_have_time_limits_above_zero_too(tmp_path) -> None:
    text = WORKLOAD.replace("paths: [.]", "paths: [.], timeout: 0s").replace("text: {}", "text: {timeout: 0s}")
    code, found = validate(write(tmp_path, text))
    assert (code, [one.partition(": ")[0].rpartition("w.yaml")[2] for one in found["w.yaml"]]) == (
        2,
        [":5:32", ":6:19"],
    )


CORPUS = """\
apiVersion: raycluster/v1
kind: Corpus
metadata: {name: c}
spec:
  packages: []
"""


def test_every_kind_below_a_folder_is_validated(tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, WORKLOAD, "good.yaml")
    write(tmp_path / "deep", CORPUS.replace("packages: []", "package: []"), "corpus.yml")
    write(tmp_path, WORKLOAD.replace("kind: Workload", "kind: Wrokload"), "kind.yaml")
    write(tmp_path, WORKLOAD.replace("kind: Workload\n", ""), "none.yaml")
    write(tmp_path, WORKLOAD.replace("kind: Workload", "kind: [Workload]"), "list.yaml")
    write(tmp_path, WORKLOAD.replace("raycluster/v1", "'raycluster/v9'"), "version.yaml")
    write(tmp_path, "{apiVersion: raycluster/v1, kind: Corpus}\n", "flow.yaml")
    write(tmp_path, "# apiVersion: raycluster/v1\napiVersion: v1\nkind: Service\n", "foreign.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    code, found = validate(tmp_path)
    assert code == 2
    told = {name: " ".join(problems) for name, problems in found.items()}
    assert set(told) == {"good.yaml", "corpus.yml", "kind.yaml", "none.yaml", "list.yaml", "version.yaml", "flow.yaml"}
    assert told.pop("good.yaml") == ""
    assert "corpus.yml:5:3: unknown key 'package' | did you mean 'packages'?" in told["corpus.yml"]
    assert "kind.yaml:2:1: unknown kind 'Wrokload' | did you mean 'Workload'?" in told["kind.yaml"]
    assert f"none.yaml:1:1: missing key 'kind' | valid here: {', '.join(sorted(KINDS))}" in told["none.yaml"]
    assert "list.yaml:2:1: unknown kind ['Workload']" in told["list.yaml"]
    assert "version.yaml:1:1: apiVersion: Input should be 'raycluster/v1'" in told["version.yaml"]
    assert "missing key 'spec'" in told["flow.yaml"]


def test_the_shipped_folder_is_valid_corpus_included() -> None:
    code, found = validate(ROOT / "workloads")
    assert (code, found["corpus.yaml"], found["sample.yaml"]) == (0, [], [])
    assert validate(ROOT / "workloads/sample/corpus.yaml") == (0, {"corpus.yaml": []})


def test_a_folder_without_resources_says_so(tmp_path) -> None:
    answer = CliRunner().invoke(cli.main, ["validate", str(tmp_path)])
    assert answer.exit_code == 2
    assert "apiVersion: raycluster/v1" in answer.stderr


SHIPPED = {
    "Corpus": "sample/corpus.yaml",
    "workload": "sample/sample.yaml",
    "Budget": "budgets/discovery.yaml",
    "Prices": "prices/local.yaml",
}


@pytest.mark.parametrize(("kind", "file"), list(SHIPPED.items()))
def test_each_kind_has_its_schema(kind: str, file: str) -> None:
    document = json.loads(CliRunner().invoke(cli.main, ["schema", kind]).stdout)
    jsonschema.Draft202012Validator.check_schema(document)
    whole = yaml.safe_load((ROOT / "workloads" / file).read_text())
    jsonschema.validate(whole, document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole | {"kind": "Other"}, document)


def test_an_unknown_kind_names_the_nearest() -> None:
    answer = CliRunner().invoke(cli.main, ["schema", "corps"])
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "did you mean 'Corpus'?" in answer.stderr


def test_clean_leaves_the_lake_alone(tmp_path) -> None:
    """`.raycluster` is where datasets lie by default; nothing but a person may remove them."""
    made = [tmp_path / name / "file" for name in (".raycluster", ".venv", "corpus")]
    for path in made:
        path.parent.mkdir()
        path.touch()
    subprocess.run(["make", "-f", str(ROOT / "Makefile"), "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [path.exists() for path in made] == [True, False, False]


def test_the_cluster_file_names_only_verbs_that_exist() -> None:
    named = set(re.findall(r"`raycluster (\w+)", (ROOT / "cluster.yaml").read_text()))
    assert named
    assert named <= set(cli.main.commands)


def test_a_corpus_file_that_is_wrong_ends_its_command_with_its_places(tmp_path) -> None:
    path = write(tmp_path, CORPUS.replace("packages: []", "package: []"))
    ended = subprocess.run(
        [sys.executable, "-m", "raycluster.corpus", str(path), str(tmp_path / "made")], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "w.yaml:5:3: unknown key 'package'" in ended.stderr
    assert not (tmp_path / "made").exists()
    assert importlib.import_module("raycluster.corpus.__main__").main([]) == 2  # importing it runs nothing
