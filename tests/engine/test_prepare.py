"""A workload and a lake become a plan: which objects a replay takes up, by what lies in a real quarantine."""

from pathlib import Path
from textwrap import dedent

import pytest

from raycluster.declare.workload import Workload, parse_workload
from raycluster.engine.prepare import prepare
from raycluster.errors import NotFound
from raycluster.lake.lake import Lake


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.txt").write_text(f"{name} is a letter.\n")
    return parse_workload(
        dedent(f"""
        apiVersion: raycluster/v1
        kind: Workload
        metadata: {{name: w, labels: {{team: t}}}}
        spec: {{source: {{files: {{paths: ["{folder}"]}}}}, decode: {{text: {{}}}}, sink: {{dataset: d, index: []}}}}
        """)
    )


@pytest.fixture
def lake(tmp_path: Path, workload: Workload) -> Lake:
    """Return a lake in whose quarantine lie a (corrupt), b (corrupt, and timeout in another row) and c (timeout)."""
    lake = Lake(str(tmp_path / "lake"))
    ids = {row["uri"][-5]: row for row in prepare(workload, lake).todo.to_pylist()}
    codes = [("a", 0, "corrupt"), ("b", 0, "corrupt"), ("b", 1, "timeout"), ("c", 0, "timeout")]
    bad = [
        {"object_id": ids[name]["object_id"], "uri": ids[name]["uri"], "modality": "text", "position": position}
        | {"stage": "text", "code": code, "message": "it is bad"}
        for name, position, code in codes
    ]
    lake.quarantine("d").add(bad, run_id="r", workload="w")
    return lake


@pytest.mark.parametrize(("replay", "taken"), [(False, "abcd"), (True, "abc"), ("corrupt", "ab"), ("timeout", "bc")])
def test_a_replay_takes_up_what_lies_in_quarantine_under_its_code(
    workload: Workload, lake: Lake, replay: bool | str, taken: str
) -> None:
    rows = prepare(workload, lake, replay=replay).todo.to_pylist()
    assert "".join(sorted(row["uri"][-5] for row in rows)) == taken
    for row in rows:
        assert row["replaces"] == ([] if row["uri"].endswith("d.txt") else [row["object_id"]])


def test_a_code_that_is_none_is_said_with_the_nearest(workload: Workload, lake: Lake) -> None:
    with pytest.raises(NotFound, match="did you mean 'corrupt'"):
        prepare(workload, lake, replay="corupt")


def test_peeking_names_modalities(workload: Workload, lake: Lake) -> None:
    assert set(prepare(workload, lake).counts["new"]) == {"unread"}
    assert {name: count.objects for name, count in prepare(workload, lake, peeks=True).counts["new"].items()} == {
        "text": 4
    }
