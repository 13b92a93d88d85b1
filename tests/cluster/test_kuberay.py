"""Manifests become shapes, by what Ray's own autoscaler would read in them; what KubeRay would not take is told."""

from __future__ import annotations

import copy

import pytest
import yaml
from cluster_files import KUBERAY, broken, checked, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycluster.errors import InvalidFile


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("maxReplicas: 2", "maxReplica: 2", "unknown key 'maxReplica' | did you mean 'maxReplicas'?"),
        (
            "enableInTree",
            "enablInTree",
            "unknown key 'enablInTreeAutoscaling' | did you mean 'enableInTreeAutoscaling'?",
        ),
        ('"0"', "0", "spec.headGroupSpec.rayStartParams.num-cpus: expected string, found 0"),
        ("minReplicas: 0", "minReplicas: few", "spec.workerGroupSpecs.0.minReplicas: expected integer, found 'few'"),
        ("mode: token", "mode: tokens", "spec.authOptions.mode: 'tokens' is not one of"),
        (
            "limits: {cpu: 3500m, memory",
            "limits: {memory",
            "Autoscaler failed to detect `CPU` resources for group gpu.",
        ),
        ("3500m", "many", "gpu: Invalid number format: many"),
    ],
)
def test_what_kuberay_does_not_take(old, new, what, tmp_path):
    text, line = broken(KUBERAY, old, new)
    found = [one for one in said(text, tmp_path) if what in one[2]]
    assert [one[0] for one in found] == ["problem"], said(text, tmp_path)
    assert line - 4 <= found[0][1] <= line


def test_a_missing_part_is_told(tmp_path):
    text = KUBERAY.replace("groupName: gpu\n", "replicas: 1\n")
    assert any(one[2].startswith("missing key 'groupName' in spec.workerGroupSpecs.0") for one in said(text, tmp_path))
    job = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: x}\nspec: {metadata: {team: x}}\n"
    assert [one[2] for one in said(job, tmp_path)] == ["missing key 'rayClusterSpec' in spec | "]


def test_a_misspelt_key_of_a_job_is_told_also_where_its_cluster_is_there(tmp_path):
    job = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: x}\nspec:\n  metadata: {team: x}\n  entrypiont: x\n"
    for cluster in ("clusterSelector: {a: b}", "suspend: true"):
        found = said(f"{job}  {cluster}\n", tmp_path)
        assert found == [("problem", 6, "unknown key 'entrypiont' | did you mean 'entrypoint'?")]


def test_the_shape_of_pods(tmp_path):
    (estimate,), _ = checked(KUBERAY, tmp_path)
    head, gpu, on_demand = estimate.shape.node_types
    assert (estimate.shape.kind, estimate.shape.provider, estimate.shape.name) == ("RayCluster", "kuberay", "pods")
    assert (head.is_head, head.least, head.most, head.cpus, head.memory) == (True, 1, 1, 0, 12 * 2**30)
    assert (gpu.name, gpu.least, gpu.most, gpu.cpus, gpu.gpus) == ("gpu", 0, 2, 4, 1)  # cores are rounded up, as by Ray
    assert (gpu.instance, gpu.is_spot, on_demand.is_spot) == ("g6.xlarge", True, None)
    assert gpu.start.environment["RAY_AUTH_MODE"] == "token"


def test_labels_of_pods_are_what_their_machines_are(tmp_path):
    text, _ = broken(KUBERAY, "instance-type: g6.xlarge", "instance-type: g5.xlarge")
    assert [one[2].split(",")[0] for one in said(text, tmp_path)] == ["gpu is g5.xlarge"]
    text, _ = broken(KUBERAY, "capacity-type: spot", "capacity-type: on-demand")
    assert [one[2].split(",")[0] for one in said(text, tmp_path)] == ["gpu is on-demand"]


def test_clusters_of_several_kinds_in_one_file(tmp_path):
    service = KUBERAY.replace("kind: RayCluster", "kind: RayService").replace("{name: pods}", "{name: served}")
    head, spec = service.split("spec:\n", 1)
    service = head + "spec:\n  rayClusterConfig:\n" + "".join(f"  {line}\n" for line in spec.splitlines())
    sent = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: x}\n"
    sent += "spec: {clusterSelector: {a: b}, metadata: {team: x}}\n"
    estimates, findings = checked(f"{KUBERAY}---\n{service}---\n{sent}---\n", tmp_path)
    assert [(one.shape.kind, one.shape.name) for one in estimates] == [("RayCluster", "pods"), ("RayService", "served")]
    assert findings == []


def parts(value, at=()):
    yield at
    for key, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from parts(member, (*at, key))


ANYTHING = st.sampled_from([None, 0, -1, True, 1.5, "x", "", [], [None], ["x"], {}, {"a": 1}, {"a": None}])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.data())
def test_whatever_stands_in_a_manifest_is_told_and_never_falls_over(tmp_path, data):
    whole = yaml.safe_load(KUBERAY)
    at = data.draw(st.sampled_from([one for one in parts(whole) if one]))
    part = broken_up = copy.deepcopy(whole)
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = data.draw(ANYTHING)
    try:
        _, findings = checked(yaml.safe_dump(broken_up), tmp_path)
    except InvalidFile:
        return
    assert all(one.what and one.where for one in findings)
