"""A stage that no node holds is said where its workload declares it; one that must wait for nodes is noted."""

from __future__ import annotations

import pytest
from cluster_files import AWS, LOCAL, checked, job

WORKLOAD = """\
apiVersion: raycluster/v1
kind: Workload
metadata: {name: films, labels: {team: x}}
spec:
  source: {files: {paths: [films/]}}
  decode:
    video: {fps: 1}
  encode:
    - {use: minilm}
    - use: efficientnet
      needs: {cpu: 1}
  sink: {dataset: films}
"""


def found(needs, folder, *, good=AWS, workload=WORKLOAD):
    text = workload.replace("needs: {cpu: 1}", needs)
    _, findings = checked(good, folder, jobs=[job(text)])
    return [(one.level, one.where, one.what, one.fix) for one in findings if one.where.startswith("job.yaml")]


def test_what_fits_is_not_mentioned(tmp_path):
    assert found("needs: {cpu: 1}", tmp_path) == []


@pytest.mark.parametrize(
    ("needs", "what"),
    [
        ("needs: {gpu: 2}", "efficientnet needs 1 CPU, 2 GPU a worker: no node type of small has that"),
        ("needs: {cpu: 64}", "efficientnet needs 64 CPU a worker: no node type of small has that"),
        ("needs: {cpu: 8, gpu: 1}", "efficientnet needs 8 CPU, 1 GPU a worker: no node type of small has that"),
    ],
)
def test_what_no_node_type_holds_is_said_at_its_stage(needs, what, tmp_path):
    ((level, where, said, fix),) = found(needs, tmp_path)
    assert (level, where, said) == ("problem", "job.yaml:11:7", what)
    assert "cpu: 4 CPU; gpu: 4 CPU, 1 GPU" in fix


def test_memory_is_that_of_the_price_list_less_rays_own_where_the_file_tells_none(tmp_path):
    assert found("needs: {gpu: 1, memory: 11GiB}", tmp_path)[0][0] == "note"  # 70 % of 16 GiB
    assert found("needs: {gpu: 1, memory: 12GiB}", tmp_path)[0][0] == "problem"
    assert found("needs: {memory: 900GiB}", tmp_path) == []  # what c7i.xlarge has, nobody tells


def test_what_fits_only_once_nodes_have_come_is_a_note(tmp_path):
    ((level, where, said, fix),) = found("needs: {gpu: 1}", tmp_path)
    assert (level, where) == ("note", "job.yaml:11:7")
    assert said.startswith("only once small has grown: efficientnet needs 1 CPU, 1 GPU")
    assert "raise min_workers" in fix
    grown = AWS.replace("    max_workers: 1\n", "    min_workers: 1\n    max_workers: 1\n")
    assert found("needs: {gpu: 1}", tmp_path, good=grown) == []


def test_more_workers_than_the_whole_cluster_holds(tmp_path):
    asked = WORKLOAD.replace("{use: minilm}", "{use: minilm, actors: 40}")
    ((level, where, said, _),) = found("needs: {cpu: 1}", tmp_path, workload=asked)
    assert (level, where) == ("problem", "job.yaml:9:7")
    assert "minilm wants 40 actors" in said


def test_where_nothing_is_told_nothing_is_claimed(tmp_path):
    unknown = LOCAL.replace("--num-cpus=8 ", "")
    _, findings = checked(unknown, tmp_path, jobs=[job(WORKLOAD.replace("cpu: 1", "gpu: 8"))])
    notes = [one.what for one in findings if one.level == "note"]
    assert notes == ["what worker has is told neither here nor by the price list: whether stages fit is not known"]


def test_stages_that_a_decoder_brings_along_stand_where_decoders_do(tmp_path):
    text = WORKLOAD.replace("    - use: efficientnet\n      needs: {cpu: 1}\n", "").replace(
        "fps: 1", "fps: 1, audio: true"
    )
    huge = AWS.replace("{CPU: 4}", "{CPU: 0}").replace("{CPU: 4, GPU: 1}", "{CPU: 0}")
    findings = found("", tmp_path, good=huge, workload=text)
    assert findings
    assert {where.split(":")[1] for _, where, *_ in findings} <= {"6", "7", "9"}
