"""Workload files: every key, every mistake, and the way back to text."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from raycluster.declare.resource import files
from raycluster.declare.workload import Index, Workload, dump, load_workload, parse_workload, schema
from raycluster.decode.image import Image
from raycluster.errors import InvalidFile, InvalidUse

WHOLE = """
apiVersion: raycluster/v1
kind: Workload
metadata:
  name: sample
  labels: {team: discovery, project: media-search, environment: demo}
spec:
  source:
    files: {paths: [corpus/], include: ["**"]}
  decode:
    image: {size: 224}
    audio: {rate: 16000, window: 10s}
    video: {fps: 1, audio: true}
    text: {chunk: 200}
    document: {}
    sensor: {window: 60s}
  encode:
    - {use: whisper}
    - {use: minilm, needs: {gpu: 0.5, memory: 2GiB}, actors: 2}
    - {use: efficientnet}
  check:
    on_bad: quarantine
    budget: {rate: 0.05}
  sink:
    dataset: sample
    index: [{column: vector, kind: ivf_rq}, {column: text, kind: fts}]
"""
WORKLOADS = files(Path(__file__).parents[2] / "workloads")  # ours: not a manifest with one inside


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse_workload(text, "w.yaml")
    return [str(one).replace("\n  fix:", " |") for one in caught.value.problems]


def test_every_key_of_the_design_is_read() -> None:
    work = parse_workload(WHOLE)
    assert work.labels["team"] == "discovery"
    assert [type(stage).__name__ for stage in work.decode] == ["Image", "Audio", "Video", "Text", "Document", "Sensor"]
    assert work.decode[1].window == 10.0
    assert [stage.name for stage in work.encode] == ["ocr", "whisper", "minilm", "efficientnet"]  # ocr for documents
    assert work.encode[2].needs.gpu == 0.5
    assert work.check.budget.rate == 0.05
    assert work.sink.index == (Index(column="vector", kind="ivf_rq"), Index(column="text", kind="fts"))


def test_text_and_values_are_two_forms_of_one_thing() -> None:
    work = parse_workload(WHOLE)
    assert parse_workload(dump(work)) == work
    assert dump(parse_workload(dump(work))) == dump(work)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("size: 224", "sise: 224", "w.yaml:11:13: unknown key 'sise' | did you mean 'size'?"),
        ("use: whisper", "use: wisper", "w.yaml:18:8: unknown encode 'wisper' | did you mean 'whisper'?"),
        ("    image:", "    imagge:", "w.yaml:11:5: unknown decode 'imagge' | did you mean 'image'?"),
        ("    files:", "    filez:", "w.yaml:9:5: unknown read 'filez' | did you mean 'files'?"),
        ("window: 10s", "window: 10", "w.yaml:12:26: window: 10 has no unit: write it like 10s"),
        ("window: 60s", "window: 60 parsecs", "w.yaml:16:14: window: '60 parsecs' is not a quantity"),
        ("team: discovery, ", "", "w.yaml:6:3: metadata.labels.team is missing"),
        ("on_bad: quarantine", "on_bad: ignore", "w.yaml:22:5: check.on_bad: Input should be 'quarantine'"),
        ("rate: 0.05", "rate: 5", "w.yaml:23:14: check.budget.rate: Input should be less than or equal to 1"),
        ("kind: ivf_rq", "kind: ivf_qr", "sink.index.0.kind: Input should be 'ivf_rq'"),
        ("dataset: sample", "dataset: Sample Data", "w.yaml:25:5: sink.dataset: String should match pattern"),
        ("kind: Workload", "kind: Wrokload", "w.yaml:3:1: kind: Input should be 'Workload'"),
        ("raycluster/v1", "raycluster/v9", "w.yaml:2:1: apiVersion: Input should be 'raycluster/v1'"),
        ("  sink:\n    dataset: sample\n    index:", "  sinc:\n    index:", "missing key 'sink'"),
        ("- {use: whisper}", "- whisper", "w.yaml:18:7: expected a mapping with `use: NAME`"),
        ("use: whisper", "use: 'nowhere.at.all:Stage'", "'nowhere.at.all:Stage' cannot be imported"),
    ],
)
def test_each_mistake_is_told_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in WHOLE
    assert any(expected in one for one in problems(WHOLE.replace(old, new, 1)))


def test_several_mistakes_come_together() -> None:
    text = WHOLE.replace("size: 224", "sise: 224").replace("use: whisper", "use: wisper").replace("fps: 1", "fps: one")
    assert len(problems(text)) == 3


def test_a_source_must_be_one() -> None:
    text = WHOLE.replace("    files: {", "    parquet: {paths: [x]}\n    files: {")
    assert any("expected exactly one of files" in one for one in problems(text))


def test_a_workload_built_in_python_needs_a_payer_too() -> None:
    work = parse_workload(WHOLE)
    with pytest.raises(InvalidUse, match="team"):
        Workload(name="x", labels={}, source=work.source, decode=(Image(),), sink=work.sink)


def test_the_schema_accepts_what_the_parser_accepts() -> None:
    document = yaml.safe_load(WHOLE)
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(document)) == []
    document["spec"]["decode"]["image"]["sise"] = 1
    assert list(validator.iter_errors(document)) != []


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(schema()))["title"] == "Workload"


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda path: path.name)
def test_every_shipped_file_is_valid(path: Path) -> None:
    if "kind: Workload" in path.read_text():
        assert load_workload(path).labels["team"]
