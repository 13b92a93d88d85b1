"""The command as a person, a script and a scheduler call it: exit status, stdout, stderr, and what is left behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from raycluster import cli
from raycluster.fetch import Package, fetch
from raycluster.lake.lake import Lake

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).with_name("raycluster")
HERE = Path(__file__).parent / "check"  # a folder that exists
VERBS = ("validate", "schema", "plan", "run", "runs", "datasets", "search", "quarantine", "costs", "models", "demo")
PHOTOS = Package(
    client="pypi",
    name="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    licence="per file",
)
MARKUP = "[/red] tags are [bold]words[/] here, and :cat: is no picture"


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Return the one JSON document on stdout; anything else there is a failure."""
        return json.loads(self.out)


def call(*words: object) -> Said:
    """Call the command within this process."""
    answer = CliRunner().invoke(cli.main, [str(word) for word in words])
    return Said(answer.exit_code, answer.stdout, answer.stderr)


def shell(*words: object, folder: Path | None = None) -> Said:
    """Call the command in a process of its own."""
    done = subprocess.run(
        [str(word) for word in (COMMAND, *words)], cwd=folder, capture_output=True, text=True, timeout=200
    )
    return Said(done.returncode, done.stdout, done.stderr)


def declared(corpus: Path | str = HERE, **changes: Any) -> dict[str, Any]:
    """Return a workload as YAML holds it; `changes` are made to its spec."""
    spec: dict[str, Any] = {
        "source": {"files": {"paths": [str(corpus)]}},
        "decode": {"text": {}, "image": {}},
        "encode": [{"use": "minilm"}, {"use": "efficientnet"}],
        "sink": {"dataset": "small"},
    }
    metadata = {"name": "small", "labels": {"team": "t"}}
    return {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec | changes}


def write(path: Path, workload: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(workload))
    return path


@dataclass(frozen=True)
class Small:
    """One small real run, and what was said around it."""

    folder: Path
    file: Path
    lake: str
    before: Said  # the plan
    said: Said  # the run
    photo: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Run photos, texts and broken files once."""
    folder = tmp_path_factory.mktemp("small")
    corpus = folder / "corpus"
    corpus.mkdir()
    photos = fetch(PHOTOS) / "skimage" / "data"
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "brick.png"):
        (corpus / name).write_bytes((photos / name).read_bytes())
    (corpus / "light house.txt").write_text("The lighthouse stands on a rock above the sea.\n")
    (corpus / "bread.txt").write_text("Bread is baked from flour, water and salt.\n")
    (corpus / "markup.txt").write_text(MARKUP + "\n")
    (corpus / "half.jpg").write_bytes((photos / "rocket.jpg").read_bytes()[:3000])
    (corpus / "nothing.txt").write_bytes(b"")
    file, lake = write(folder / "small.yaml", declared(corpus)), str(folder / "lake")
    before = shell("plan", file, "--lake", lake, "--json")
    assert not Path(lake).exists()
    said = shell("run", file, "--lake", lake, "--json")
    return Small(folder, file, lake, before, said, corpus / "chelsea.png")


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_verb_and_loses_no_word(flag: str) -> None:
    said = shell(flag)
    assert said.code == 0
    for name in VERBS:
        assert f"\n  {name} " in said.out
    assert "..." not in said.out.partition("Commands:")[2]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str) -> None:
    said = call(name, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: ")
    assert "--json" in said.out or name == "demo"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quarantin", "d"], "Did you mean 'quarantine'?"),
        (["runs", "--bogus"], "--bogus"),
        (["run"], "FILE"),
        (["search", "d", "x", "-k", "0"], "0 is not in the range"),
        (["search", "d", "x", "--mode", "vectr"], "vectr"),
        (["schema", "Wrkload"], "did you mean 'Workload'?"),
        (["models", "push"], "push"),
    ],
)
def test_wrong_use_is_two_and_says_so_on_stderr_or_as_json(words: list[str], message: str) -> None:
    said = call(*words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    as_json = call(*words, "--json")
    assert as_json.code == 2
    error = as_json.document["error"]
    assert set(error) == {"code", "message", "fix"}
    assert message in error["message"] + error["fix"]
    assert error["code"] in ("invalid", "not_found")


WRONG_FILES = {
    "not YAML": ("spec: [1, 2", "wrong.yaml:1:"),
    "no mapping": ("- a\n- b\n", "expected a mapping"),
    "unknown key": (yaml.safe_dump(declared(sauce={})), "did you mean 'source'?"),
    "unknown stage": (yaml.safe_dump(declared(encode=[{"use": "minilmm"}])), "did you mean 'minilm'?"),
    "unknown private stage": (yaml.safe_dump(declared(encode=[{"use": "nowhere:Stage"}])), "nowhere"),
    "no unit": (yaml.safe_dump(declared(decode={"audio": {"window": 10}})), "no unit"),
    "nobody pays": (yaml.safe_dump(declared() | {"metadata": {"name": "x"}}), "team"),
    "no such path": (yaml.safe_dump(declared("nowhere-at-all")), "nowhere-at-all"),
    "no such column": (yaml.safe_dump(declared(sink={"dataset": "d", "index": [{"column": "vectr"}]})), "vectr"),
    "no such GPU": (yaml.safe_dump(declared(encode=[{"use": "minilm", "needs": {"gpu": 64}}])), "64 GPU"),
}


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_and_nothing_is_written(tmp_path: Path, verb: str, case: str) -> None:
    text, message = WRONG_FILES[case]
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    said = call(verb, file, "--lake", tmp_path / "lake")
    assert said.code == 2
    assert message in said.err + said.out
    as_json = call(verb, file, "--lake", tmp_path / "lake", "--json")
    assert as_json.code == 2
    assert message in json.dumps(as_json.document, ensure_ascii=False)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
def test_a_missing_file_is_refused(tmp_path: Path, verb: str) -> None:
    said = call(verb, tmp_path / "none.yaml", "--json")
    assert said.code == 2
    assert "no such file" in json.dumps(said.document)
    assert not any(tmp_path.iterdir())


def test_a_folder_is_no_workload_file(tmp_path: Path) -> None:
    said = call("run", tmp_path)
    assert said.code == 2
    assert "cannot be read" in said.err


def test_validate_tells_every_mistake_of_every_file(tmp_path: Path) -> None:
    good = write(tmp_path / "good.yaml", declared())
    mistaken = declared(sauce={}, encode=[{"use": "minilmm"}])
    wrong = write(tmp_path / "wrong.yaml", mistaken)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "other.yaml").write_text("kind: Prices\n")
    said = call("validate", tmp_path)
    assert said.code == 2
    assert f"valid  {good}" in said.out
    assert said.out.count(f"{wrong}:") == 2
    found = {Path(one["file"]).name: one for one in call("validate", tmp_path, "--json").document}
    assert found["good.yaml"] == {"file": str(good), "valid": True, "problems": []}
    assert {"good.yaml", "wrong.yaml"} == set(found)
    line = 1 + wrong.read_text().splitlines().index("  sauce: {}")
    assert {problem["where"] for problem in found["wrong.yaml"]["problems"]} >= {f"{wrong}:{line}:3"}
    assert call("validate", good).code == 0


def test_a_folder_without_workloads_is_said_so(tmp_path: Path) -> None:
    said = call("validate", tmp_path)
    assert said.code == 2
    assert "no workload file" in said.err


def test_schema_is_a_json_schema_that_every_shipped_workload_passes() -> None:
    schema = call("schema").document
    jsonschema.Draft202012Validator.check_schema(schema)
    files = sorted(ROOT.glob("workloads/*/*.yaml"))
    shipped = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    workloads = [one for one in shipped if one.get("kind") == "Workload"]
    assert len(workloads) >= 5
    for one in workloads:
        jsonschema.validate(one, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(declared(sauce={}), schema)
    assert call("schema", "--json").document == schema


def test_the_demo_wants_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = call("demo")
    assert said.code == 2
    assert "folder of a checkout" in said.err
    assert not any(tmp_path.iterdir())


# --- lakes that cannot be read ---------------------------------------------------------------------------------------

READING = {
    "plan": ["plan", "FILE"],
    "run": ["run", "FILE"],
    "runs": ["runs"],
    "one run": ["runs", "some"],
    "datasets": ["datasets"],
    "one dataset": ["datasets", "small"],
    "search": ["search", "small", "x"],
    "quarantine": ["quarantine", "small"],
}


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_a_lake_that_is_a_file_is_refused(tmp_path: Path, words: list[str]) -> None:
    lake = tmp_path / "lake"
    lake.write_text("no folder")
    file = write(tmp_path / "w.yaml", declared())
    words = [str(file) if word == "FILE" else word for word in words]
    said = call(*words, "--lake", lake, "--json")
    assert said.code == 2
    assert said.document["error"]["code"] == "lake"
    assert "is not a folder" in said.document["error"]["message"]
    assert lake.read_text() == "no folder"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Point S3 clients at a port of this machine that nobody answers on; listening on it is up to the test."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield port


def test_a_dead_object_store_is_told_within_seconds(s3: socket.socket) -> None:
    started = time.monotonic()
    said = call("datasets", "--lake", "s3://dead/lake", "--json")
    assert time.monotonic() - started < 25
    assert said.code == 2
    assert "s3://dead/lake" in said.document["error"]["message"]
    assert "AWS_ENDPOINT_URL" in said.document["error"]["fix"]


def test_a_silent_object_store_is_given_up(s3: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.listen(50)  # accepts, and says nothing for ever
    monkeypatch.setattr(cli.frame, "_PATIENCE_SECONDS", 2.0)
    started = time.monotonic()
    said = call("search", "small", "x", "--lake", "s3://silent/lake", "--json")
    assert time.monotonic() - started < 10
    assert said.code == 2
    assert said.document["error"]["message"] == "s3://silent/lake gave no answer within 2 s"


def test_an_unknown_scheme_is_refused() -> None:
    said = call("datasets", "--lake", "gopher://x/lake", "--json")
    assert said.code == 2
    assert "gopher" in said.document["error"]["message"]


def test_looking_creates_nothing(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    assert call("datasets", "--lake", lake).out == "no dataset yet: raycluster run FILE\n"
    assert call("runs", "--lake", lake, "--json").document == []
    for words in (["datasets", "x"], ["search", "x", "y"], ["quarantine", "x"], ["runs", "x"]):
        said = call(*words, "--lake", lake, "--json")
        assert said.code == 2
        assert said.document["error"]["code"] == "not_found"
    assert not lake.exists()


# --- a real run ------------------------------------------------------------------------------------------------------


def test_plan_counts_what_is_new_and_changes_nothing(small: Small) -> None:
    plan = small.before.document
    assert small.before.code == 0
    assert {name: one["objects"] for name, one in plan["objects"]["new"].items()} == {"image": 6, "text": 3, "empty": 1}
    assert plan["pools"][0]["stages"] == ["image", "text", "minilm", "efficientnet"]
    assert (plan["dataset"], plan["problems"], plan["cost_usd"]) == ("small", [], None)


def test_run_prints_its_summary_as_one_document(small: Small) -> None:
    assert small.said.code == 0, small.said.err
    summary = small.said.document
    wanted = "run_id dataset version objects rows quarantined skipped seconds cost_usd"
    assert set(wanted.split()) <= set(summary)
    got = {name: summary[name] for name in ("dataset", "objects", "rows", "quarantined", "skipped")}
    assert got == {"dataset": "small", "objects": 10, "rows": 8, "quarantined": 2, "skipped": 0}
    bill = call("costs", "--lake", small.lake, "--by", "run", "--only", f"run={summary['run_id']}", "--json").document
    assert summary["cost_usd"] > 0
    assert bill["total"]["cost_usd"] == summary["cost_usd"]
    assert summary["codes"] == {"truncated": 1, "empty": 1}


def test_running_again_is_done_at_once_and_plan_says_so(small: Small) -> None:
    again = shell("run", small.file, "--lake", small.lake)
    assert again.code == 0
    assert "done  run " in again.out
    assert "10 objects: 0 rows committed, 0 objects quarantined, 10 skipped as already done" in again.out
    assert "0 objects to do, 10 already done" in again.err
    plan = call("plan", small.file, "--lake", small.lake)
    assert "nothing to do" in plan.out
    assert next(line.split()[:4] for line in plan.out.splitlines() if line.startswith("text ")) == [
        "text",
        "-",
        "-",
        "3",
    ]


def test_datasets(small: Small) -> None:
    (listed,) = call("datasets", "--lake", small.lake, "--json").document
    assert (listed["name"], listed["rows"], listed["quarantined"]) == ("small", 8, 2)
    shown = call("datasets", "small", "--lake", small.lake, "--json").document
    assert shown["modalities"] == {"image": 5, "text": 3}
    assert shown["live"] in [one["version"] for one in shown["versions"] if "live" in one["tags"]]
    assert {"id", "vector", "minilm", "efficientnet", "features"} <= {one["name"] for one in shown["columns"]}
    assert {one["column"] for one in shown["indexes"]} >= {"text", "id"}
    human = call("datasets", "small", "--lake", small.lake).out
    features = next(line for line in human.splitlines() if line.startswith("features"))
    assert features.endswith("has_audio: bool>")  # the last of forty: nothing is cut off where nobody watches
    assert not [line for line in human.splitlines() if line != line.rstrip()]


def test_quarantine_lists_what_and_why(small: Small) -> None:
    rows = call("quarantine", "small", "--lake", small.lake, "--json").document
    assert {(row["uri"].rpartition("/")[2], row["code"], row["stage"]) for row in rows} == {
        ("half.jpg", "truncated", "image"),
        ("nothing.txt", "empty", "read"),
    }
    lines = call("quarantine", "small", "--lake", small.lake).out.splitlines()
    assert len(lines) == 1 + len(rows)  # one line each, however long the message
    assert any(line.startswith("truncated") and line.endswith(row["message"]) for row in rows for line in lines)
    only = call("quarantine", "small", "--code", "empty", "--lake", small.lake, "--json").document
    assert [row["code"] for row in only] == ["empty"]
    wrong = call("quarantine", "small", "--code", "emty", "--lake", small.lake)
    assert wrong.code == 2
    assert "did you mean 'empty'?" in wrong.err


def test_runs(small: Small) -> None:
    summary = small.said.document
    listed = call("runs", "--lake", small.lake, "--json").document
    assert summary["run_id"] in [one["run_id"] for one in listed]
    one = call("runs", summary["run_id"], "--lake", small.lake, "--json").document
    assert one["status"] == "done"
    assert one["summary"] == summary
    assert f"done  run {summary['run_id']}" in call("runs", summary["run_id"], "--lake", small.lake).out
    wrong = call("runs", summary["run_id"][:-1], "--lake", small.lake)
    assert wrong.code == 2
    assert f"did you mean '{summary['run_id']}'?" in wrong.err


def first(said: Said) -> str:
    assert said.code == 0, said.err
    return str(said.document["hits"][0]["uri"].rpartition("/")[2])


def test_a_cat_is_found_by_its_name(small: Small) -> None:
    said = shell("search", "small", "a cat", "--lake", small.lake, "--json")
    assert first(said) == "chelsea.png"
    assert said.err == ""
    assert {"dataset", "version", "took_ms", "hits"} == set(said.document)
    hit = said.document["hits"][0]
    assert {"id", "uri", "modality", "score", "start_seconds", "end_seconds", "text"} <= set(hit)
    scores = [one["score"] for one in said.document["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_search_by_text_picture_row_and_words(small: Small) -> None:
    def search(*words: object) -> Said:
        return call("search", "small", *words, "--lake", small.lake, "--json")

    assert first(search("something to eat", "--filter", "modality = 'text'")) == "bread.txt"
    assert first(search("lighthouse", "--mode", "text")) == "light%20house.txt"
    assert first(search("water and flour", "--mode", "hybrid")) == "bread.txt"
    assert first(search("--image", small.photo)) == "chelsea.png"
    row = search("--image", small.photo).document["hits"][0]["id"]
    like = search("--id", row, "-k", "2").document["hits"]
    assert like[0]["id"] == row
    assert like[0]["score"] == pytest.approx(1, abs=1e-3)
    assert len(like) == 2
    version = small.said.document["version"]
    assert search("a cat", "--version", version).document["version"] == version


def test_pages_objects_and_reasons(small: Small) -> None:
    def search(*words: object) -> Any:
        return call("search", "small", *words, "--lake", small.lake, "--json").document["hits"]

    whole = [hit["id"] for hit in search("something to eat")]
    assert [hit["id"] for hit in search("something to eat", "--offset", 2, "-k", 2)] == whole[2:4]
    objects = [hit["uri"] for hit in search("something to eat", "--group", "object")]
    assert len(objects) == len(set(objects))
    hit = search("lighthouses", "--mode", "hybrid", "--weights", 0, 1, "--explain", "--column", "sha256")[0]
    assert (hit["why"]["text"]["rank"], hit["why"]["matched"]) == (1, ["lighthouse"])
    assert len(hit["sha256"]) == 64
    said = call("search", "small", "lighthouses", "--mode", "text", "--explain", "--lake", small.lake)
    assert "text #1, lighthouse" in said.out


def test_hits_are_shown_as_they_are(small: Small) -> None:
    said = call("search", "small", "tags words picture", "--mode", "text", "--lake", small.lake)
    assert MARKUP in said.out
    assert "corpus/light house.txt" in call("search", "small", "lighthouse", "--mode", "text", "--lake", small.lake).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smal", "x"], "did you mean 'small'?"),
        (["small"], "ask by one of text, image, audio, id: got none"),
        (["small", " "], "the text is empty"),
        (["small", "x", "--id", "y"], "got text and id"),
        (["small", "--id", "nope"], "has no row 'nope'"),
        (["small", "x", "--filter", "modality = "], "is no condition"),
        (["small", "x", "--filter", "colour = 'red'"], "colour"),
        (["small", "x", "--filter", "id = 'a'; drop table x"], "does not belong there"),
        (["small", "x", "--version", "999"], "has no version 999"),
        (["small", "x", "--version", "blue"], "has no version 'blue'"),
        (["small", "--image", "nowhere.png"], "nowhere.png cannot be read: No such file"),
        (["small", "--image", "."], "cannot be read"),
        (["small", "--image", __file__], "not an image"),
        (["small", "--image", os.devnull], "has no bytes"),
        (["small", "--audio", __file__], "audio"),
    ],
)
def test_a_wrong_question_is_refused(small: Small, words: list[str], message: str) -> None:
    said = call("search", *words, "--lake", small.lake, "--json")
    assert said.code == 2
    error = said.document["error"]
    assert message in f"{error['message']}\n{error['fix']}"


def test_a_workload_that_does_not_fit_the_dataset_is_refused(small: Small, tmp_path: Path) -> None:
    """Another workload may bring columns of its own, but not change those that hold others' values."""
    other = declared(small.photo.parent, encode=[{"use": "filling_stages:Counting"}])  # `vector` of 4, not 384
    other["metadata"]["name"] = "other"
    before = Lake(small.lake).table("small").version()
    said = call("run", write(tmp_path / "w.yaml", other), "--lake", small.lake, "--json")
    assert said.code == 2
    assert said.document["error"]["code"] == "mismatch"
    assert Lake(small.lake).table("small").version() == before


def test_the_lake_may_come_from_the_environment(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_LAKE", small.lake)
    assert call("datasets", "--json").document[0]["name"] == "small"


def test_models_are_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = call("models", "--json").document
    assert {"minilm", "efficientnet", "whisper", "sound_events"} <= {one["encoder"] for one in listed}
    assert all(len(one["sha256"]) == 64 and "@" in one["package"] and one["licence"] for one in listed)
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path))
    assert {one["cached"] for one in call("models", "list", "--json").document} == {None}
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_models_pull_fills_the_cache() -> None:
    assert all(Path(one["cached"]).is_dir() for one in call("models", "pull", "--json").document)


def test_nobody_reading_on_is_no_disaster() -> None:
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {COMMAND} schema | head -c 20"], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == '{\n  "$schema": "http'
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_our_own_mistakes_are_one_document_too(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("raycluster.lake.overview.overview", broken)
    said = call("datasets", "--lake", small.lake, "--json")
    assert said.code == 1
    assert said.document["error"] == {"code": "internal", "message": "ZeroDivisionError: ours", "fix": ""}
    assert "Traceback" in said.err
