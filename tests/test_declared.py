"""Declarations come from strangers too: none of them runs a command, fetches a file or ends in a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from raycluster import cli, stage
from raycluster.errors import InvalidUse, NotFound

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
