from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from raycluster.errors import InvalidUse, LakeError, NotFound
from raycluster.lake.lake import Lake


def test_datasets_are_listed_and_nothing_else_is(place, writer_of):
    for name in ("b", "a-1"):
        writer_of(place.table(name)).put(["x"])
    place.quarantine("b").add(
        [
            {
                "object_id": "o",
                "uri": "u",
                "modality": None,
                "position": 0,
                "stage": "s",
                "code": "empty",
                "message": "m",
            }
        ],
        run_id="r",
        workload="w",
    )
    assert place.datasets() == ["a-1", "b"]


def test_looking_creates_nothing(place, tmp_path):
    assert place.datasets() == []
    assert list(place.table("d").known()) == []
    assert list(place.quarantine("d").known("digest")) == []
    assert place.quarantine("d").counts() == {}
    assert place.quarantine("d").rows() == []
    assert place.quarantine("d").remove(["o"]) == 0
    assert place.runs().recent() == []
    with pytest.raises(NotFound):
        place.existing("d")
    assert not (tmp_path / "lake").exists()


def test_a_misspelt_dataset_gets_the_nearest(lake, writer_of):
    writer_of(lake.table("stamps")).put(["x"])
    with pytest.raises(NotFound, match="did you mean 'stamps'"):
        lake.existing("stanps")
    assert lake.existing("stamps").exists()


@pytest.mark.parametrize("name", ["", "A", "a/b", "../a", "_runs", "a.lance", "-a", "a" * 64, "a\n"])
def test_names_that_are_none(lake, name):
    for of in (lake.table, lake.quarantine):
        with pytest.raises(InvalidUse, match="is not a dataset name"):
            of(name)


def test_a_relative_lake_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lake = Lake(".raycluster")
    monkeypatch.chdir("/")
    assert lake.uri == str(tmp_path / ".raycluster")
    assert pickle.loads(pickle.dumps(lake)) == lake
    assert Lake(f"file://{tmp_path}/.raycluster") == lake
    assert Lake("s3://bucket/lake/").table("d").uri == "s3://bucket/lake/d.lance"


def test_a_lake_that_is_a_file(tmp_path):
    (tmp_path / "lake").write_text("no")
    with pytest.raises(LakeError, match="is not a folder"):
        Lake(str(tmp_path / "lake")).datasets()


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(LakeError, match=r"s3://missing") as caught:
        Lake("s3://missing/lake").datasets()
    assert "AWS_ENDPOINT_URL" in caught.value.fix
    assert ".rs:" not in str(caught.value)


def test_a_lake_of_an_unknown_kind():
    with pytest.raises(LakeError, match="nonsense://x"):
        Lake("nonsense://x").datasets()


def test_a_lake_that_cannot_be_written(tmp_path, writer_of):
    (tmp_path / "lake").write_text("in the way")
    table = Lake(str(tmp_path / "lake")).table("d")
    for attempt in (lambda: writer_of(table).put(["a"]), table.open, lambda: list(table.known())):
        with pytest.raises(LakeError, match=r"cannot (create|read)") as caught:
            attempt()
        assert "--lake" in caught.value.fix
        assert ".rs:" not in str(caught.value)


def test_lance_says_nothing_on_stderr(tmp_path):
    code = (
        "import sys; from raycluster.lake.lake import Lake; from raycluster.lake.columns import dataset_schema\n"
        "import pyarrow as pa; from raycluster.lake.query import Question, search\n"
        "table = Lake(sys.argv[1]).table('d'); table.create_or_check(dataset_schema(pa.schema([]), 4))\n"
        "search(table, Question(vector=[1.0, 0, 0, 0], version='latest'))\n"
        "search(table, Question(mode='text', text='a', version='latest'))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lake")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
