"""Files for clusters: Ray and the providers take them, they differ only where they must, nobody else gets in."""

import copy
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.constants import AUTOSCALER_UTILIZATION_SCORER_KEY
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.util import prepare_config, validate_config

from raycluster.declare.prices import load_prices

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "workloads" / "clusters"
FILES = {"aws": ROOT / "cluster.yaml", "gcp": CLUSTERS / "gcp.yaml", "local": CLUSTERS / "on_premises.yaml"}
CLOUDS = ["aws", "gcp"]


def written(provider):
    return yaml.safe_load(FILES[provider].read_text())


def prepared(provider):
    """What `ray up` makes of it: defaults filled in, as it would be sent to the autoscaler."""
    return prepare_config(copy.deepcopy(written(provider)))


def environment(provider):
    """What a shell on a node has, once the commands before the set-up have been run."""
    lines = [line for line in written(provider)["initialization_commands"][0].splitlines() if line.startswith("export")]
    return dict(pair for line in lines for pair in re.findall(r"(\w+)=(\S+)", line))


def price(provider):
    return load_prices(environment(provider)["RAYCLUSTER_PRICES"].replace("$HOME/raycluster", str(ROOT)))


@pytest.mark.parametrize("provider", FILES)
def test_ray_accepts_it(provider):
    validate_config(prepared(provider))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("idle_timout_minutes",), 5),
        (("available_node_types", "gpu_spot", "resources", "GPU"), 0.5),
        (("max_workers",), "24"),
    ],
)
def test_ray_refuses_it_once_broken(at, value):
    whole = part = prepared("aws")
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_config(whole)


def test_aws_accepts_the_nodes():
    """Every node type is checked against the EC2 API's own description of RunInstances."""
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node_type in prepared("aws")["available_node_types"].items():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert ParamValidator().validate({**request, "InstanceTyp": "x"}, shape).has_errors()


@pytest.mark.parametrize("provider", CLOUDS)
def test_head_has_no_gpu_and_workers_scale(provider):
    config = prepared(provider)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert head["labels"]["ray.io/market-type"] == "on-demand"
    assert all(worker["max_workers"] > worker["min_workers"] for worker in types.values())
    assert {name for name, worker in types.items() if worker["resources"].get("GPU")} == {"gpu_spot", "gpu_on_demand"}
    assert types["gpu_spot"]["resources"] == types["gpu_on_demand"]["resources"]  # else the fit decides, not the price
    assert any(not worker["resources"].get("GPU") for worker in types.values())
    assert sum(worker["max_workers"] for worker in types.values()) == config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("provider", CLOUDS)
def test_labels_say_what_the_provider_is_asked_for(provider):
    instance = {"aws": "InstanceType", "gcp": "machineType"}[provider]
    for name, node_type in prepared(provider)["available_node_types"].items():
        told, asked = node_type["labels"], node_type["node_config"]
        assert told["raycluster/node-type"] == asked[instance]
        is_spot = "SPOT" in json.dumps(asked).upper()
        assert told["ray.io/market-type"] == ("spot" if is_spot else "on-demand")
        assert name.endswith("spot") == is_spot


@pytest.mark.parametrize("provider", CLOUDS)
def test_every_node_type_has_a_price_and_no_more_than_the_machine_has(provider):
    for node_type in prepared(provider)["available_node_types"].values():
        known = price(provider).nodes[node_type["labels"]["raycluster/node-type"]]
        assert known.on_demand > 0
        assert known.spot is not None
        resources = node_type["resources"]
        assert resources["CPU"] in (0, known.cpus)
        assert resources.get("GPU", 0) == (known.gpus or 0)
        # Ray keeps 30 % of the memory for objects; what is promised and those must fit in what the machine has.
        assert 0.55 < resources["memory"] / known.memory < 0.68


def test_machines_of_ones_own_say_what_they_are():
    head, worker = (written("local")[f"{role}_start_ray_commands"][1] for role in ("head", "worker"))
    for command in (head, worker):
        (labels,) = re.findall(r"--labels=(\S+)", command)
        assert dict(pair.split("=") for pair in labels.split(",")) == {
            "raycluster/node-type": "on-premises",
            "ray.io/market-type": "on-demand",
        }
    assert "--num-cpus=0" in head
    assert price("local").cpu_hour  # whatever its type is called


def test_nodes_on_aws_are_in_a_group_of_ones_own():
    """Ray adds SSH from everywhere to a group that it makes, or finds empty, whatever the file says beside it."""
    assert "security_group" not in written("aws")["provider"]
    for node_type in prepared("aws")["available_node_types"].values():
        assert len(node_type["node_config"]["SecurityGroupIds"]) == 1
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node_type["node_config"]["BlockDeviceMappings"])


@pytest.mark.parametrize("provider", FILES)
def test_nobody_gets_in_without_the_token(provider):
    config, text = written(provider), FILES[provider].read_text()
    assert environment(provider)["RAY_AUTH_MODE"] == "token"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["initialization_commands"]
    head = config["head_start_ray_commands"][1]
    assert re.findall(r"--dashboard-host=(\S+)", head) == ["127.0.0.1"]
    assert "umask 077; ray get-auth-token --generate > /dev/null" in text
    literal = r"(?i)(secret|password|access_key|account_key|auth_token)\w*['\"]?\s*[=:]\s*['\"]?(?!~)[\w/+]{8,}"
    assert not re.search(literal, text)
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|AIza[0-9A-Za-z_-]{35}", text)


@pytest.mark.parametrize("provider", FILES)
def test_meter_lake_and_logs_are_there_from_the_start(provider):
    config, told = written(provider), environment(provider)
    assert told["RAY_RUNTIME_ENV_HOOK"] == "raycluster.account.job.runtime_env"
    assert re.match(r"(s3|gs)://", told["RAYCLUSTER_LAKE"])
    assert told["RAYCLUSTER_LOGS"].startswith((":s3:", ":gcs:"))
    _, start, account = config["head_start_ray_commands"]
    assert "ray start --head" in start
    assert account == "raycluster cluster account --lake $RAYCLUSTER_LAKE --address auto"
    assert all("ulimit -n 65536" in one[1] and "--metrics-export-port=8090" in one[1] for one in starts(config))


def starts(config):
    return config["head_start_ray_commands"], config["worker_start_ray_commands"]


def test_the_meters_hook_can_be_loaded():
    assert callable(load_function_or_class(environment("aws")["RAY_RUNTIME_ENV_HOOK"]))


@pytest.mark.parametrize("provider", CLOUDS)
def test_ray_finds_what_chooses_between_spot_and_on_demand(provider):
    assert callable(load_function_or_class(environment(provider)[AUTOSCALER_UTILIZATION_SCORER_KEY]))


def test_files_differ_only_where_they_must():
    """Each is the file for AWS, but for what is named here."""
    own = {
        "gcp": {"provider", "available_node_types", "initialization_commands", "head_setup_commands"},
        "local": {
            *("provider", "available_node_types", "head_node_type", "auth", "max_workers", "idle_timeout_minutes"),
            *("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        },
    }
    aws = written("aws")
    for provider, keys in own.items():
        other = written(provider)
        assert {key for key in aws.keys() | other.keys() if aws.get(key) != other.get(key)} == keys
        assert aws["initialization_commands"][1:] == other["initialization_commands"][1:]
        for mine, theirs in zip(starts(aws), starts(other), strict=True):
            if mine != theirs:  # a machine of one's own says what it is, in the place of a node type
                extra = set(theirs[1].split()) - set(mine[1].split())
                assert {word.partition("=")[0] for word in extra} <= {"--num-cpus", "--labels"}
                assert [theirs[0], *theirs[2:]] == [mine[0], *mine[2:]]
    shared = {
        "RAYCLUSTER_LAKE",
        "RAYCLUSTER_LOGS",
        "RAYCLUSTER_PRICES",
        "RAY_AUTH_MODE",
        "RAY_RUNTIME_ENV_HOOK",
        "PATH",
    }
    assert all(shared <= environment(provider).keys() for provider in FILES)


def test_the_autoscaler_is_version_1_whatever_ray_up_exports():
    """`ray up` puts `export RAY_enable_autoscaler_v2=1` before each start command; what is nearer to it wins."""
    from ray.autoscaler._private.util import with_envs

    for provider in FILES:
        start = written(provider)["head_start_ray_commands"][1]
        (sent,) = with_envs([start], {"RAY_enable_autoscaler_v2": "1"})
        shown = subprocess.run(
            ["bash", "-c", f'ray() {{ echo "$RAY_enable_autoscaler_v2 $1"; }}; ({sent})'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout == "0 start\n"


def test_nodes_get_the_pinned_packages_and_what_the_package_is_built_of():
    config = written("aws")
    assert any("requirements.txt" in command for command in config["setup_commands"])
    assert "boto3==" in (ROOT / "requirements.txt").read_text()  # the autoscaler's, on AWS
    for here in config["file_mounts"].values():
        assert here.startswith("~") or (ROOT / here).exists()
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("README.md", "LICENSE"):
        assert f'"{name}"' in project
        assert name in config["file_mounts"].values()


class Node:
    """A node's home folder and shell: commands as `ray up` sends them, with some programs in place of the real ones."""

    def __init__(self, home):
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("x")
        (home / ".ray" / "auth_token").chmod(0o644)
        (home / ".bashrc").write_text("")

    def has(self, name, script):
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def run(self, command):
        """As ray/autoscaler/_private/command_runner.py wraps it."""
        wrapped = f"source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", wrapped],
            env={"HOME": str(self.home), "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path / "home")


@pytest.mark.parametrize("provider", FILES)
def test_every_later_command_sees_the_environment(node, provider):
    for _ in range(2):  # `ray up` again changes nothing
        for command in written(provider)["initialization_commands"]:
            node.run(command)
    lake = environment(provider)["RAYCLUSTER_LAKE"]
    assert node.run("echo $RAY_AUTH_MODE $RAYCLUSTER_LAKE").split() == ["token", lake]
    assert node.run("echo $PATH").startswith(f"{node.home}/venv/bin:{node.home}/.local/bin:")
    assert node.run("echo $RAYCLUSTER_PRICES").startswith(f"{node.home}/raycluster/workloads/prices/")
    assert (node.home / ".bashrc").read_text().count(".raycluster.sh") == 1
    assert stat.S_IMODE((node.home / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_logs_go_to_object_storage(node, tmp_path, monkeypatch):
    """The line that the set-up leaves in the node's crontab is run as cron runs it, against a store that speaks S3."""
    if not shutil.which("rclone") or not shutil.which("flock"):
        pytest.skip("rclone is not installed")
    moto = pytest.importorskip("moto.server")
    import boto3

    tab = tmp_path / "tab"
    tab.write_text("0 4 * * * backup\n")
    node.has("crontab", f'if [ "$1" = -l ]; then cat {tab}; else cat > {tab}.new; mv {tab}.new {tab}; fi')
    logs = tmp_path / "ray" / "session_2026-11-28_10-00-00_000001_7" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("started")
    (logs.parent / "sockets").mkdir()
    (logs.parent / "sockets" / "not-a-log").write_text("x")
    (tmp_path / "ray" / "session_latest").symlink_to(logs.parent)

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    try:
        for name, value in (("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "us-east-1")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        store = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        store.create_bucket(Bucket="raycluster-example")
        config = written("local")
        crontab = [one for one in config["setup_commands"] if "crontab" in one]
        for command in [*config["initialization_commands"], *crontab * 2]:
            command = command.replace("https://store.example.internal:9000", url)
            node.run(command.replace("/tmp/ray", str(tmp_path / "ray")))
        kept, line = tab.read_text().splitlines()
        assert kept == "0 4 * * * backup"
        assert line.startswith("* * * * * ")
        job = ["sh", "-c", line.removeprefix("* * * * * ")]
        subprocess.run(job, env={**os.environ, "HOME": str(node.home)}, check=True, capture_output=True, timeout=60)
        found = [one["Key"] for one in store.list_objects_v2(Bucket="raycluster-example")["Contents"]]
    finally:
        server.stop()
    (key,) = found
    assert key.startswith("logs/")
    assert key.endswith(f"/{logs.parent.name}/logs/raylet.out")
