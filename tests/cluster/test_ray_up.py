"""A `ray up` file becomes a shape; what Ray would not take is said with its line."""

from __future__ import annotations

import copy

import pytest
import yaml
from cluster_files import AWS, LOCAL, broken, checked, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycluster.errors import InvalidFile


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("max_workers: 6", "max_worker: 6", "unknown key 'max_worker' | did you mean 'max_workers'?"),
        ("min_workers: 1", "min_worker: 1", "unknown key 'min_worker' | did you mean 'min_workers'?"),
        ("max_workers: 6", 'max_workers: "6"', "max_workers: expected integer, found '6'"),
        ("GPU: 1", "GPU: 0.5", "available_node_types.gpu.resources.GPU: expected integer, found 0.5"),
        ("type: aws", "type: awz", "unknown provider 'awz' | did you mean 'aws'?"),
        ("node_type: head", "node_type: haed", "head_node_type 'haed' is no node type | did you mean 'head'?"),
        ("min_workers: 1", "min_workers: 9", "Ray refuses it: The specified global `max_workers` is smaller"),
        ("file_mounts", "docker: {image: x}\nfile_mounts", "Ray refuses it: Must provide a container & image name"),
    ],
)
def test_what_ray_does_not_take(old, new, what, tmp_path):
    text, line = broken(AWS, old, new)
    ((level, where, message),) = said(text, tmp_path)
    assert level == "problem"
    assert message.startswith(what)
    assert where == (1 if "Ray refuses" in what else line)


def test_several_mistakes_are_told_together(tmp_path):
    text = AWS.replace("max_workers: 6", "max_worker: 6").replace("idle_timeout_minutes: 5", "idle_timeout_minutes: x")
    assert [one[1] for one in said(text, tmp_path)] == [2, 3]


def test_a_missing_node_type_or_head(tmp_path):
    text = AWS.replace("head_node_type: head\n", "")
    assert [one[2].split(" | ")[0] for one in said(text, tmp_path)] == ["missing key 'head_node_type'"]
    text = "cluster_name: x\nprovider: {type: aws}\n"
    assert [one[2].split(" | ")[0] for one in said(text, tmp_path)] == ["missing key 'available_node_types'"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("head_ip: 192.0.2.1, ", "", "provider: no machines | give `head_ip: ADDRESS`"),
        (
            "file_mounts",
            "available_node_types: {a: {resources: {}, node_config: {}}}\nfile_mounts",
            "available_node_typ",
        ),
    ],
)
def test_machines_of_ones_own(old, new, what, tmp_path):
    text, line = broken(LOCAL, old, new)
    ((level, where, message),) = said(text, tmp_path)
    assert (level, where) == ("problem", 2 if "provider" in what else line)
    assert message.startswith(what)


def test_what_ray_says_in_passing_is_passed_on(tmp_path):
    found = said("min_workers: 5\n" + LOCAL, tmp_path)
    assert [one[0] for one in found] == ["warning"]
    assert "Ray says: The value of `min_workers` supplied (5) is greater" in found[0][2]


def test_the_shape_of_a_cloud(tmp_path):
    (estimate,), _ = checked(AWS, tmp_path)
    shape = estimate.shape
    assert (shape.kind, shape.provider, shape.name, shape.most_workers) == ("ray up", "aws", "small", 6)
    head, cpu, gpu, _ = shape.node_types
    assert head.is_head
    assert (head.least, head.most, head.cpus) == (1, 1, 0)
    assert (cpu.least, cpu.most, cpu.instance, cpu.is_spot) == (1, 4, "c7i.xlarge", False)
    assert (gpu.least, gpu.most, gpu.gpus, gpu.is_spot) == (0, 2, 1, True)
    assert gpu.start.environment["RAY_AUTH_MODE"] == "token"
    assert shape.where((*gpu.at, "node_config", "MetadataOptions")).endswith(":14:7")  # where its anchor stands


def test_the_shape_of_machines_of_ones_own(tmp_path):
    (estimate,), _ = checked(LOCAL, tmp_path)
    head, worker = estimate.shape.node_types
    assert (head.least, head.most, head.cpus, head.gpus, head.memory) == (1, 1, 0, None, None)
    assert (worker.least, worker.most, worker.cpus, worker.memory) == (2, 2, 8, 8_000_000_000)
    assert head.labels == worker.labels == {"raycluster/node-type": "box"}


@pytest.mark.parametrize(
    ("provider", "node", "instance"),
    [
        ("gcp", "{machineType: n2-standard-4, scheduling: {provisioningModel: SPOT}}", "n2-standard-4"),
        ("gcp", "{machineType: n2-standard-4, scheduling: [{preemptible: true}]}", "n2-standard-4"),
        ("azure", "{azure_arm_parameters: {vmSize: Standard_D4s_v5, priority: Spot}}", "Standard_D4s_v5"),
    ],
)
def test_spot_in_other_clouds(provider, node, instance, tmp_path):
    text = f"""\
cluster_name: x
provider: {{type: {provider}, region: here}}
head_node_type: head
max_workers: 1
available_node_types:
  head: {{resources: {{CPU: 1}}, node_config: {node}}}
"""
    (estimate,), findings = checked(text, tmp_path)
    assert (estimate.shape.head.instance, estimate.shape.head.is_spot) == (instance, True)
    assert any("the head (head) is spot" in one.what for one in findings)


def parts(value, at=()):
    yield at
    for key, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from parts(member, (*at, key))


ANYTHING = st.sampled_from([None, 0, -1, True, 1.5, "x", "", [], [None], ["x"], {}, {"a": 1}, {"a": None}])


@pytest.mark.parametrize("good", [AWS, LOCAL], ids=["aws", "local"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.data())
def test_whatever_stands_in_a_file_is_told_and_never_falls_over(good, tmp_path, data):
    whole = yaml.safe_load(good)
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
