"""Units of work go out in rounds that driver and store can hold, and all of them come back."""

from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.declare.workload import parse_workload
from raycluster.engine import pipeline
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.lake.lake import Lake
from raycluster.row import object_id

WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: t}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{}}}}
  encode: [{{use: "private_stages:Marking"}}]
  sink: {{dataset: d}}
"""


def units(*sizes: int) -> list[pa.Table]:
    names = [[object_id(f"u{unit}", str(one)) for one in range(size)] for unit, size in enumerate(sizes)]
    return [pa.table({"object_id": some}) for some in names]


def test_a_round_is_filled_up_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ROUND_OBJECTS", 10)
    coming, left = iter(units(4, 4, 4, 4, 4, 1)), {}
    assert pipeline._top_up(left, coming, workers=1) == 3  # 12 objects
    (first, *_) = left
    del left[first]
    assert pipeline._top_up(left, coming, workers=1) == 3  # 8 were left
    left.clear()
    assert pipeline._top_up(left, coming, workers=1) == 2  # all that there is
    left.clear()
    assert pipeline._top_up(left, coming, workers=1) == 0


def test_a_round_of_small_units_ends_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ROUND_UNITS", 6)
    assert pipeline._top_up({}, iter(units(*[1] * 20)), workers=2) == 6


def test_a_round_has_work_for_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ROUND_OBJECTS", 1)
    assert pipeline._top_up({}, iter(units(*[5] * 20)), workers=4) == 8


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("cluster")
def test_a_run_of_two_rounds_brings_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(12):
        (corpus / f"t{index:02d}.txt").write_text(f"word{index} and some more of them, as in every sentence.\n")
    monkeypatch.setattr(pipeline, "_ROUND_OBJECTS", 7)
    monkeypatch.setattr(pipeline, "_WORKER_UNITS", 0)
    rounds: list[int] = []
    from_units = pipeline.from_units
    monkeypatch.setattr(pipeline, "from_units", lambda some: (rounds.append(len(some)), from_units(some))[1])
    lake = Lake(str(tmp_path / "lake"))
    done = execute(prepare(parse_workload(WORKLOAD.format(corpus=corpus)), lake), lake)
    assert rounds == [7, 5]
    assert (done.status, done.objects, done.rows) == ("done", 12, 12)
    rows = lake.table("d").open("live").to_table(columns=["id", "mark"])
    assert sorted(rows["mark"].to_pylist()) == sorted(f"word{index}" for index in range(12))
    assert len(set(rows["id"].to_pylist())) == 12
