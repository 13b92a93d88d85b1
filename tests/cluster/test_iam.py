"""What AWS lets a cluster's nodes do: as much as Ray, the lake and the logs need, and of nothing more than its own."""

import json
import re
from pathlib import Path

import pytest
import yaml

session = pytest.importorskip("botocore.session")
ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "workloads" / "clusters" / "iam"
# Permissions that are not named as the operation that asks for them; of PassRole, the parameter that hands over a role.
NAMED_OTHERWISE = {
    "s3:ListBucket": "s3:ListObjectsV2",
    "s3:ListMultipartUploadParts": "s3:ListParts",
    "iam:PassRole": "ec2:RunInstances",
}


def statements(name):
    return json.loads((POLICIES / f"{name}.json").read_text())["Statement"]


def allowed(name):
    return {action for one in statements(name) for action in one["Action"]}


@pytest.mark.parametrize("name", ["autoscaler", "bucket"])
def test_every_action_is_one_of_aws_and_none_is_a_pattern(name):
    services = session.get_session()
    for statement in statements(name):
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert "*" not in action
            service, operation = NAMED_OTHERWISE.get(action, action).split(":")
            assert operation in services.get_service_model(service).operation_names, action


@pytest.mark.parametrize("name", ["autoscaler", "bucket"])
def test_only_looking_is_allowed_everywhere(name):
    for statement in statements(name):
        assert statement["Resource"] != "*" or all(action.startswith("ec2:Describe") for action in statement["Action"])


def test_a_head_may_do_what_rays_provider_does_there():
    """Its calls of EC2, in the source of Ray, less what `cluster.yaml` rules out."""
    from ray.autoscaler._private.aws import node_provider

    source = Path(node_provider.__file__).read_text()
    calls = set(re.findall(r"\.(?:meta\.client|ec2_fail_fast|ec2)\.(\w+_\w+|instances\.filter)\b", source))
    operations = {
        "create_instances": "ec2:RunInstances",
        "create_tags": "ec2:CreateTags",
        "instances.filter": "ec2:DescribeInstances",
        "terminate_instances": "ec2:TerminateInstances",
    }
    elsewhere = {"describe_images"}  # CloudWatch's agent
    stopped = {"start_instances", "stop_instances"}  # cache_stopped_nodes
    assert calls == {*operations, *elsewhere, *stopped}
    assert yaml.safe_load((ROOT / "cluster.yaml").read_text())["provider"]["cache_stopped_nodes"] is False
    assert allowed("autoscaler") == {*operations.values(), "iam:PassRole"}


def test_a_head_starts_the_workers_of_the_file_and_no_others():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = {name: one for name, one in config["available_node_types"].items() if name != config["head_node_type"]}
    (run,) = [one for one in statements("autoscaler") if one["Sid"] == "StartWorkersOfTheseTypes"]
    limits = run["Condition"]["StringEquals"]
    assert set(limits["ec2:InstanceType"]) == {one["node_config"]["InstanceType"] for one in types.values()}
    assert limits["aws:RequestTag/ray-cluster-name"] == config["cluster_name"]
    (passed,) = [one for one in statements("autoscaler") if one["Action"] == ["iam:PassRole"]]
    profiles = {one["node_config"]["IamInstanceProfile"]["Name"] for one in types.values()}
    assert profiles == {passed["Resource"].rpartition("/")[2]}
    for one in statements("autoscaler"):
        for action in {"ec2:TerminateInstances"} & set(one["Action"]):
            assert one["Condition"]["StringEquals"] == {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}, (
                action
            )


def test_the_bucket_is_that_of_the_lake_and_the_logs():
    text = (ROOT / "cluster.yaml").read_text()
    lake, logs = re.search(r"RAYCLUSTER_LAKE=s3://(\S+)", text)[1], re.search(r"RAYCLUSTER_LOGS=:s3:(\S+)", text)[1]
    by_resource = {one["Resource"]: set(one["Action"]) for one in statements("bucket")}
    assert by_resource.keys() == {
        f"arn:aws:s3:::{part}"
        for part in (lake.split("/")[0], f"{lake}/*", f"{logs}/*", f"{lake.split('/')[0]}/corpus/*")
    }
    assert "s3:DeleteObject" in by_resource[f"arn:aws:s3:::{lake}/*"]
    assert "s3:DeleteObject" not in by_resource[f"arn:aws:s3:::{logs}/*"]


def test_only_machines_of_ec2_may_take_the_roles():
    (trust,) = json.loads((POLICIES / "trust.json").read_text())["Statement"]
    assert trust["Principal"] == {"Service": "ec2.amazonaws.com"}
    assert trust["Action"] == "sts:AssumeRole"
