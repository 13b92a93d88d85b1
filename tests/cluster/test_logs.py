"""All that a run said, found by its id: driver and workers, in the order of time."""

import json
import logging
import os
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner

from raycluster import cli
from raycluster.account.log import Lines
from raycluster.cluster.logs import NoLogs, said
from raycluster.declare.workload import parse_workload
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.errors import NotFound
from raycluster.lake.lake import Lake

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def run_id(cluster, tmp_path_factory) -> str:
    """Return the id of a run one of whose objects kills the worker that has it in hand."""
    folder = tmp_path_factory.mktemp("corpus")
    for text in ("a good one", "some other", "KILLED by this"):
        (folder / f"{text[0]}.txt").write_text(text)
    declared = dedent(f"""
        apiVersion: raycluster/v1
        kind: Workload
        metadata: {{name: w, labels: {{team: t}}}}
        spec:
          source: {{files: {{paths: ["{folder}"]}}}}
          decode: {{text: {{}}}}
          encode: [{{use: 'private_stages:Marking', timeout: 2s}}]
          sink: {{dataset: d}}
        """)
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    summary = execute(prepare(parse_workload(declared), lake), lake)
    assert (summary.rows, summary.quarantined) == (2, 1)
    return summary.run_id


@pytest.mark.slow
def test_driver_and_workers_are_heard_in_the_order_of_time(run_id):
    lines = said(run_id).lines
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert {(line["run_id"], line["workload"], line["team"]) for line in lines} == {(run_id, "w", "t")}
    assert lines[0]["message"] == "begins: 3 of 3 objects are to be done"
    assert lines[-1]["message"].startswith("done: 3 objects, 2 rows, 1 in quarantine")
    driver = {line["pid"] for line in (lines[0], lines[-1])}
    workers = {line["pid"] for line in lines if line["message"].startswith("works in pool 1 of 1")}
    assert driver == {os.getpid()}
    assert len(workers - driver) >= 2  # one died
    # That some CPU time has no process, after one has died, may be a warning too.
    warned = said(run_id, level="warning").lines
    (suspect,) = [line for line in warned if "was begun before and not finished" in line["message"]]
    assert suspect["pid"] in workers


@pytest.mark.slow
def test_people_and_programs_are_shown_the_same(run_id):
    shown = CliRunner().invoke(cli.main, ["logs", run_id])
    assert shown.exit_code == 0
    assert [line.split()[-1] for line in shown.output.splitlines()[-1:]] == ["quarantine"]
    document = json.loads(CliRunner().invoke(cli.main, ["logs", run_id, "--level", "info", "--json"]).stdout)
    assert document["silent_nodes"] == []
    assert len(document["lines"]) == len(shown.output.splitlines())


@pytest.mark.slow
def test_half_a_line_is_no_line(run_id):
    import ray

    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    file = next(folder.glob(f"raycluster-{run_id}-*.log"))
    before = len(said(run_id).lines)
    (folder / f"raycluster-{run_id}-0.log").write_text(file.read_text().splitlines()[0] + '\n{"at": "2026-\n[1]\n')
    assert len(said(run_id).lines) == before + 1


def test_a_run_that_said_nothing_is_not_found(cluster):
    with pytest.raises(NotFound, match="anything of a run 'none'"):
        said("none")
    assert CliRunner().invoke(cli.main, ["logs", "n*"]).exit_code == 2


def test_a_cluster_that_cannot_be_asked_is_said(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(NoLogs, match="does not tell its nodes") as caught:
        said("r", "http://127.0.0.1:9")
    assert "ray dashboard" in caught.value.fix


def test_commands_speak_in_the_same_lines_where_that_is_asked_for(monkeypatch):
    root, own = logging.getLogger(), logging.getLogger("raycluster")
    monkeypatch.setattr(own, "level", own.level)
    for asked, is_json in (("", False), ("json", True)):
        monkeypatch.setattr(root, "handlers", [])
        assert CliRunner().invoke(cli.main, ["schema"], env={"RAYCLUSTER_LOG": asked}).exit_code == 0
        assert [type(one.formatter) for one in root.handlers] == ([Lines] if is_json else [])
