"""`ray up` accepts cluster.yaml, and AWS the nodes it would ask for."""

import copy
import ipaddress
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def written():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def prepared(written):
    """What `ray up` makes of it: defaults filled in, as it would be sent to the autoscaler."""
    return prepare_config(copy.deepcopy(written))


def test_ray_accepts_it(prepared):
    validate_config(prepared)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("idle_timout_minutes",), 5),
        (("available_node_types", "gpu", "resources", "GPU"), 0.5),
        (("max_workers",), "24"),
    ],
)
def test_ray_refuses_it_once_broken(prepared, at, value):
    part = prepared
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepared)


def test_aws_accepts_the_nodes(prepared):
    """Every node type is checked against the EC2 API's own description of RunInstances."""
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node_type in prepared["available_node_types"].items():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert ParamValidator().validate({**request, "InstanceTyp": "x"}, shape).has_errors()


def test_head_has_no_gpu_and_workers_scale(prepared):
    types = prepared["available_node_types"]
    head = types.pop(prepared["head_node_type"])
    assert "GPU" not in head["resources"]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert all(worker["max_workers"] > worker["min_workers"] for worker in types.values())
    gpu = [worker for worker in types.values() if worker["resources"].get("GPU")]
    assert [worker["node_config"]["InstanceMarketOptions"]["MarketType"] for worker in gpu] == ["spot"]
    assert any(not worker["resources"].get("GPU") for worker in types.values())
    assert sum(worker["max_workers"] for worker in types.values()) <= prepared["max_workers"]
    assert 0 < prepared["idle_timeout_minutes"] <= 15


def test_only_ssh_is_open_and_not_to_everybody(prepared):
    for permission in prepared["provider"]["security_group"]["IpPermissions"]:
        assert (permission["FromPort"], permission["ToPort"]) == (22, 22)
        for allowed in permission["IpRanges"]:
            assert ipaddress.ip_network(allowed["CidrIp"]).num_addresses <= 2**16
    start = " ".join(prepared["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    for node_type in prepared["available_node_types"].values():
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node_type["node_config"]["BlockDeviceMappings"])


def test_nodes_get_the_pinned_packages_and_not_the_checkouts_own_environment(written):
    assert any("requirements.txt" in command for command in written["setup_commands"])
    assert (ROOT / "requirements.txt").is_file()
    assert {".venv", ".git", ".raycluster", "corpus"} <= set(written["rsync_exclude"])
