"""Encoders that come late: what they leave on old rows is what they would have left on new ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from lance.file import LanceFileSession
from PIL import Image

from raycluster.declare.workload import Workload, dump, parse_workload
from raycluster.engine.backfill import due
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.engine.summary import Summary
from raycluster.errors import Mismatch, RunFailed
from raycluster.lake.generation import _part, makers
from raycluster.lake.lake import Lake

pytestmark = pytest.mark.timeout(300)

_NOT_COMPARED = ("provenance", "ingested_at")


@dataclass
class Corpus:
    """A folder of texts and pictures, and the lakes that it is read into."""

    folder: Path

    def workload(self, *encode: str, name: str = "w", check: str = "{}", only: str = "**") -> Workload:
        declared = [one.partition(",") for one in encode]
        encoders = ", ".join(f"{{use: 'filling_stages:{one}'{comma}{options}}}" for one, comma, options in declared)
        return parse_workload(
            dedent(f"""
            apiVersion: raycluster/v1
            kind: Workload
            metadata: {{name: {name}, labels: {{team: t}}}}
            spec:
              source: {{files: {{paths: ["{self.folder}"], include: ["{only}"]}}}}
              decode: {{text: {{chunk: 200}}, image: {{size: 32}}}}
              encode: [{encoders}]
              check: {check}
              sink: {{dataset: d, index: [{{column: text, kind: fts}}]}}
            """)
        )

    def run(self, lake: Lake, *encode: str, **options: Any) -> Summary:
        return execute(prepare(self.workload(*encode, **options), lake), lake)

    def rows(self, lake: Lake, version: int | str = "live") -> dict[str, dict[str, Any]]:
        table = lake.table("d").open(version).to_table()
        kept = [name for name in table.column_names if name not in (*_NOT_COMPARED, "thumbnail")]
        return {row["uri"].rsplit("/", 1)[1]: row for row in table.select(kept).to_pylist()}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(10):
        (folder / f"t{index}.txt").write_text(f"word{index} and {'some ' * index}more of them.\n")
    for index in range(5):
        Image.new("RGB", (64, 48), (60 * index, 10 * index, 100)).save(folder / f"p{index}.png")
    return Corpus(folder)


@pytest.fixture
def lakes(tmp_path: Path) -> Callable[[str], Lake]:
    return lambda name: Lake(str(tmp_path / name))


def files_of(lake: Lake) -> list[str]:
    return [str(one.path) for each in lake.table("d").open().get_fragments() for one in each.metadata.files]


@pytest.mark.usefixtures("cluster")
def test_a_new_encoder_of_text_computes_its_columns_and_rewrites_nothing(corpus: Corpus, lakes) -> None:
    lake = lakes("late")
    corpus.run(lake, "Titling")
    before, live = files_of(lake), lake.table("d").live()
    plan = prepare(corpus.workload("Titling", "Counting"), lake)
    assert plan.fill is not None
    assert plan.fill.reasons == ("column counting: 15 rows to compute (new encoder)",)
    summary = execute(plan, lake)
    assert (summary.status, summary.filled, summary.rows, summary.skipped) == ("done", 12, 0, 15)  # three say nothing
    corpus.run(lakes("at once"), "Titling", "Counting")
    assert corpus.rows(lake) == corpus.rows(lakes("at once"))
    assert set(before) < set(files_of(lake))
    old = lake.table("d").schema(live)
    assert "counting" not in old.names
    assert old.field("vector").type.list_size == 384  # of nobody's: it changed its width with the first who wrote it
    again = corpus.run(lake, "Titling", "Counting")
    assert (again.filled, again.rows) == (0, 0)


@pytest.mark.usefixtures("cluster")
def test_new_rows_of_the_same_run_have_the_columns_too(corpus: Corpus, lakes) -> None:
    lake = lakes("late")
    corpus.run(lake, "Counting")
    (corpus.folder / "new.txt").write_text("a text that came later.\n")
    (corpus.folder / "t3.txt").write_text("a text that has changed since.\n")
    summary = corpus.run(lake, "Counting", "Colours")
    assert (summary.filled, summary.rows, summary.replaced) == (5, 2, 1)
    corpus.run(lakes("at once"), "Counting", "Colours")
    assert corpus.rows(lake) == corpus.rows(lakes("at once"))
    assert not lake.quarantine("d").rows()


@pytest.mark.usefixtures("cluster")
def test_a_changed_revision_is_another_generation_and_shared_columns_keep_what_others_wrote(
    corpus: Corpus, lakes
) -> None:
    lake = lakes("late")
    corpus.run(lake, "Counting", "Colours")
    live = lake.table("d").live()
    before = corpus.rows(lake)
    plan = prepare(corpus.workload("Counting, scale: 3.0", "Colours"), lake)
    assert plan.fill is not None
    assert plan.fill.reasons == (
        "column counting: 15 rows to compute (revision changed from counting@1.0 to counting@3.0)",
    )
    assert execute(plan, lake).filled == 10
    corpus.run(lakes("at once"), "Counting, scale: 3.0", "Colours")
    assert corpus.rows(lake) == corpus.rows(lakes("at once"))
    assert corpus.rows(lake, live) == before
    assert [(one.name, one.revision) for one in makers(lake.table("d"))["w"]] == [
        ("filling_stages:Counting", "counting@3.0"),
        ("filling_stages:Colours", ""),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_who_reads_a_column_that_changes_works_again_on_the_rows_where_it_does(corpus: Corpus, lakes) -> None:
    lake = lakes("late")
    corpus.run(lake, "Titling", "Counting", "Colours")
    plan = prepare(corpus.workload("Titling, word: a photograph", "Counting", "Colours"), lake)
    assert plan.fill is not None
    assert [reason.split("(")[1] for reason in plan.fill.reasons] == [
        "its options changed)",
        "it reads a column that changes)",
    ]
    assert execute(plan, lake).filled == 5  # texts were not touched
    corpus.run(lakes("at once"), "Titling, word: a photograph", "Counting", "Colours")
    assert corpus.rows(lake) == corpus.rows(lakes("at once"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_computed_is_null_and_in_quarantine(corpus: Corpus, lakes) -> None:
    (corpus.folder / "raise.txt").write_text("please RAISE an error.\n")
    (corpus.folder / "crash.txt").write_text("a SEGFAULT, deep in C.\n")
    lake = lakes("late")
    corpus.run(lake, "Titling")
    (corpus.folder / "p2.png").unlink()
    summary = corpus.run(lake, "Titling", "Counting", "Colours")
    assert (summary.status, summary.filled, summary.bad_rows) == ("done", 14, 3)
    assert summary.codes == {"model_error": 1, "corrupt": 1, "unreadable": 1}
    rows = corpus.rows(lake)
    assert len(rows) == 17
    assert rows["raise.txt"]["counting"] is rows["crash.txt"]["vector"] is rows["p2.png"]["colours"] is None
    assert rows["t1.txt"]["counting"] is not None
    found = {row["uri"].rsplit("/", 1)[1]: row["stage"] for row in lake.quarantine("d").rows()}
    assert found == {"raise.txt": "filling_stages", "crash.txt": "filling_stages", "p2.png": "read"}

    (corpus.folder / "crash.txt").unlink()  # its row stays, and so does what is said of it
    mended = corpus.run(lake, "Titling", "Counting, strict: false", "Colours")
    assert (mended.filled, mended.bad_rows) == (13, 1)
    assert corpus.rows(lake)["raise.txt"]["counting"] is not None
    assert {row["uri"].rsplit("/", 1)[1] for row in lake.quarantine("d").rows()} == {"crash.txt", "p2.png"}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_too_many_bad_rows_change_nothing_and_are_tried_again(corpus: Corpus, lakes) -> None:
    lake = lakes("late")
    corpus.run(lake, "Titling")
    live, kept = lake.table("d").live(), corpus.rows(lake)
    for path in corpus.folder.glob("p*.png"):
        path.rename(path.with_suffix(".away"))
    strict = "{budget: {count: 2}}"
    with pytest.raises(RunFailed, match=r"more than .* allows"):
        corpus.run(lake, "Titling", "Colours", check=strict, only="*.[pt]*")
    assert lake.table("d").live() == live
    assert "colours" not in lake.table("d").schema().names
    for path in corpus.folder.glob("*.away"):
        path.rename(path.with_suffix(".png"))
    assert corpus.run(lake, "Titling", "Colours", check=strict, only="*.[pt]*").filled == 5
    assert {
        name: {key: row[key] for key in kept[name] if key != "vector"} for name, row in corpus.rows(lake).items()
    } == {name: {key: value for key, value in row.items() if key != "vector"} for name, row in kept.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_rows_of_other_workloads_keep_what_they_have(corpus: Corpus, lakes) -> None:
    lake = lakes("shared")
    corpus.run(lake, "Counting", name="texts", only="*.txt")
    corpus.run(lake, "Counting", name="pictures", only="*.png")
    before = corpus.rows(lake)
    summary = corpus.run(lake, "Counting, scale: 2.0", "Colours", name="pictures", only="*.png")
    assert (summary.filled, summary.skipped) == (5, 5)
    after = corpus.rows(lake)
    assert {name: row["counting"] for name, row in after.items()} == {
        name: row["counting"] for name, row in before.items()
    }
    assert [name for name, row in sorted(after.items()) if row["colours"]] == [f"p{index}.png" for index in range(5)]
    with pytest.raises(Mismatch, match="10 rows of other workloads"):
        due(corpus.workload("Counting, width: 8", name="pictures"), lake)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_column_may_change_its_type(corpus: Corpus, lakes) -> None:
    lake = lakes("late")
    corpus.run(lake, "Counting")
    corpus.run(lake, "Counting, width: 8")
    corpus.run(lakes("at once"), "Counting, width: 8")
    assert corpus.rows(lake) == corpus.rows(lakes("at once"))


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_what_is_left(corpus: Corpus, lakes) -> None:
    lake, file = lakes("late"), corpus.folder.parent / "w.yaml"
    first = started(file, corpus.workload("Titling"), lake)
    assert first.wait(timeout=200) == 0
    live = lake.table("d").live()
    driver = started(file, corpus.workload("Titling", "Counting, seconds: 1.0"), lake)
    while len(finished_files(lake)) < 3:
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert lake.table("d").live() == live
    assert "counting" not in lake.table("d").schema().names
    kept = finished_files(lake)
    fragments = len(lake.table("d").open().get_fragments())
    assert 3 <= len(kept) < fragments
    again = started(file, corpus.workload("Titling", "Counting, seconds: 1.0"), lake)
    assert again.wait(timeout=200) == 0
    assert json.loads(file.with_suffix(".out").read_text())["filled"] == 12
    assert kept <= finished_files(lake)
    assert len(finished_files(lake)) == fragments
    print(f"killed with {len(kept)} of {fragments} fragments done; the next run did the other {fragments - len(kept)}")
    counted = {name: row["counting"] for name, row in corpus.rows(lake).items() if row["text"]}
    assert counted == {name: [float(len(row["text"]))] * 4 for name, row in corpus.rows(lake).items() if row["text"]}


def started(file: Path, work: Workload, lake: Lake) -> subprocess.Popen[bytes]:
    """Run a workload by the command line, in a process and a Ray of its own."""
    file.write_text(dump(work))
    with file.with_suffix(".out").open("wb") as out:
        command = [sys.executable, "-m", "raycluster", "run", str(file), "--lake", lake.uri, "--json"]
        return subprocess.Popen(command, stdout=out, start_new_session=True)


def finished_files(lake: Lake) -> set[str]:
    """Return the files of new columns that have their last words."""
    session = LanceFileSession(f"{lake.table('d').uri}/data")
    return {name for name in session.list() if name.startswith("fill-") and _part(session, name)}
