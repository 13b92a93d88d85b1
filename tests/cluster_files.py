"""Files of clusters that are right, for tests to break, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raycluster.cluster.check import Estimate, check
from raycluster.cluster.file import load_cluster
from raycluster.cluster.fit import Job
from raycluster.cluster.look import Finding
from raycluster.declare import document, workload
from raycluster.declare.prices import Prices, load_prices, parse_prices

ROOT = Path(__file__).parent.parent
OURS = [ROOT / "cluster.yaml", *sorted((ROOT / "workloads" / "clusters").glob("*.yaml"))]

AWS = """\
cluster_name: small
max_workers: 6
idle_timeout_minutes: 5
provider: {type: aws, region: us-east-1}
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 0}
    labels: {raycluster/node-type: m7i.xlarge}
    node_config: &node
      InstanceType: m7i.xlarge
      SecurityGroupIds: [sg-0123456789abcdef0]
      IamInstanceProfile: {Name: least}
      MetadataOptions: {HttpTokens: required}
      BlockDeviceMappings: [{DeviceName: /dev/sda1, Ebs: {Encrypted: true}}]
  cpu:
    resources: {CPU: 4}
    labels: {raycluster/node-type: c7i.xlarge}
    min_workers: 1
    max_workers: 4
    node_config:
      <<: *node
      InstanceType: c7i.xlarge
  gpu:
    resources: {CPU: 4, GPU: 1}
    labels: {raycluster/node-type: g6.xlarge, ray.io/market-type: spot}
    max_workers: 2
    node_config:
      <<: *node
      InstanceType: g6.xlarge
      InstanceMarketOptions: {MarketType: spot}
  gpu_on_demand:
    resources: {CPU: 4, GPU: 1}
    labels: {raycluster/node-type: g6.xlarge}
    max_workers: 1
    node_config:
      <<: *node
      InstanceType: g6.xlarge
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
initialization_commands:
  - echo 'export RAY_AUTH_MODE=token RAY_RUNTIME_ENV_HOOK=raycluster.account.job.runtime_env' >> ~/.bashrc
setup_commands:
  - pip install -r requirements.txt
head_start_ray_commands:
  - ray stop
  - ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml
  - raycluster cluster account --lake $RAYCLUSTER_LAKE
worker_start_ray_commands:
  - ray start --address=$RAY_HEAD_IP:6379
"""

LOCAL = """\
cluster_name: home
provider: {type: local, head_ip: 192.0.2.1, worker_ips: [192.0.2.2, 192.0.2.3]}
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
head_start_ray_commands:
  - >-
    RAY_AUTH_MODE=token RAY_RUNTIME_ENV_HOOK=raycluster.account.job.runtime_env
    ray start --head --num-cpus 0 --labels=raycluster/node-type=box
  - raycluster cluster account --lake $RAYCLUSTER_LAKE
worker_start_ray_commands:
  - RAY_AUTH_MODE=token RAY_RUNTIME_ENV_HOOK=raycluster.account.job.runtime_env
    ray start --address=$RAY_HEAD_IP:6379 --num-cpus=8 --memory 8000000000 --labels=raycluster/node-type=box
"""

KUBERAY = """\
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: pods}
spec:
  rayVersion: 2.60.0
  authOptions: {mode: token}
  enableInTreeAutoscaling: true
  headGroupSpec:
    labels: {raycluster/node-type: m7i.xlarge}
    rayStartParams: {num-cpus: "0"}
    template:
      spec:
        containers:
          - name: ray
            image: rayproject/ray:2.60.0-py311
            env: &env [{name: RAY_RUNTIME_ENV_HOOK, value: raycluster.account.job.runtime_env}]
            resources: {limits: {cpu: "3", memory: 12Gi}}
            lifecycle: {postStart: {exec: {command: [bash, -c, raycluster cluster account --lake s3://b/lake]}}}
  workerGroupSpecs:
    - groupName: gpu
      minReplicas: 0
      maxReplicas: 2
      labels: {raycluster/node-type: g6.xlarge, ray.io/market-type: spot}
      template:
        spec:
          nodeSelector: {node.kubernetes.io/instance-type: g6.xlarge, karpenter.sh/capacity-type: spot}
          containers:
            - name: ray
              image: rayproject/ray:2.60.0-py311
              env: *env
              resources: {limits: {cpu: 3500m, memory: 12Gi, nvidia.com/gpu: 1}}
    - groupName: gpu-on-demand
      minReplicas: 0
      maxReplicas: 2
      labels: {raycluster/node-type: g6.xlarge}
      template:
        spec:
          containers:
            - name: ray
              image: rayproject/ray:2.60.0-py311
              env: *env
              resources: {limits: {cpu: 3500m, memory: 12Gi, nvidia.com/gpu: 1}}
"""

PRICES = parse_prices(
    """\
apiVersion: raycluster/v1
kind: Prices
metadata: {name: aws-us-east-1, version: v1}
spec:
  currency: USD
  nodes:
    m7i.xlarge: {on_demand: 0.2, spot: 0.1, cpus: 4, memory: 16GiB}
    c7i.xlarge: {on_demand: 0.1, spot: 0.05}
    g6.xlarge: {on_demand: 0.8, spot: 0.3, cpus: 4, gpus: 1, memory: 16GiB}
    box: {on_demand: 0.5}
"""
)


def prices_of(file: Path) -> Prices:
    """Return the prices that a file of this repository is for."""
    name = {"cluster": "aws", "kuberay": "aws", "gcp": "gcp"}.get(file.stem, "local")
    return load_prices(ROOT / "workloads" / "prices" / f"{name}.yaml")


def job(text: str, name: str = "job.yaml") -> Job:
    """Return a workload as it is handed to a check."""
    read = document.parse(text, name)
    return Job(read, workload.build(read))


def checked(
    text: str, folder: Path, *, jobs: Sequence[Job] = (), prices: Prices = PRICES
) -> tuple[list[Estimate], list[Finding]]:
    """Return what is said of the text of a cluster file."""
    file = folder / "cluster.yaml"
    file.write_text(text)
    return check(load_cluster(file), jobs, prices)


def said(text: str, folder: Path, *, prices: Prices = PRICES) -> list[tuple[str, int, str]]:
    """Return the findings of a cluster file: level, line, and what is wrong with what to do."""
    _, findings = checked(text, folder, prices=prices)
    return [(one.level, int(one.where.split(":")[-2]), f"{one.what} | {one.fix}") for one in findings]


def broken(good: str, old: str, new: str) -> tuple[str, int]:
    """Return a text with a part replaced, and the line where the replacement begins."""
    assert good.count(old) >= 1, old
    before, after = good.split(old, 1)
    return before + new + after, before.count("\n") + 1 + (len(new) - len(new.lstrip("\n")))
