"""Each way into a cluster, or to what is secret, is said with its line; references to secrets are not."""

from __future__ import annotations

import pytest
from cluster_files import AWS, KUBERAY, LOCAL, broken, said


@pytest.mark.parametrize(
    ("good", "change", "told"),
    [
        (AWS, ("ray start --head", "ray start --head --dashboard-host=0.0.0.0"), ("problem", "listens on 0.0.0.0")),
        (AWS, ("ray start --head", "ray start --head --dashboard-host 10.0.0.5"), ("problem", "listens on 10.0.0.5")),
        (AWS, ("ray start --head", "ray start --head --dashboard-host=[::]"), ("problem", "listens on [::]")),
        (
            LOCAL,
            (">-\n    RAY_AUTH_MODE=token", ">-\n    RAY_AUTH_MODE=disabled"),
            ("problem", "head: Ray starts without"),
        ),
        (
            KUBERAY,
            ("authOptions: {mode: token}", "authOptions: {mode: disabled}"),
            ("problem", "RAY_AUTH_MODE=disabled"),
        ),
        (AWS, ("SecurityGroupIds: [sg-0123456789abcdef0]", "KeyName: x"), ("problem", "Ray opens SSH to 0.0.0.0/0")),
        (AWS, ("HttpTokens: required", "HttpTokens: optional"), ("warning", "head answers IMDSv1")),
        (AWS, ("Encrypted: true", "Encrypted: false"), ("warning", "cpu has a disk that is not encrypted")),
        (AWS, ("IamInstanceProfile: {Name: least}", "KeyName: x"), ("warning", "all of EC2 and S3")),
        (AWS, ("file_mounts: {", "file_mounts: {~/.aws: ~/.aws, "), ("warning", "~/.aws goes to every node")),
        (
            KUBERAY,
            ("  headGroupSpec:\n", "  headGroupSpec:\n    serviceType: NodePort\n"),
            ("problem", "is a NodePort"),
        ),
        (
            KUBERAY,
            ("  headGroupSpec:\n", "  headGroupSpec:\n    enableIngress: true\n"),
            ("problem", "an address outside"),
        ),
        (
            KUBERAY,
            ("  headGroupSpec:\n", "  headGroupSpec:\n    headService: {spec: {type: LoadBalancer}}\n"),
            ("problem", "is a LoadBalancer"),
        ),
        (KUBERAY, ("      spec:\n", "      spec:\n        hostNetwork: true\n"), ("warning", "own addresses")),
    ],
)
def test_doors(good, change, told, tmp_path):
    level, what = told
    text, _ = broken(good, *change)
    assert what not in str(said(good, tmp_path))
    assert any(one[0] == level and what in one[2] for one in said(text, tmp_path)), said(text, tmp_path)


def test_a_door_is_said_with_its_line(tmp_path):
    rules = "{GroupName: x, IpPermissions: [\n    {FromPort: 22, IpRanges: [{CidrIp: 10.0.0.0/8}]},\n    "
    rules += (
        "{FromPort: 8265, IpRanges: [{CidrIp: 0.0.0.0/0}]},\n    {IpProtocol: '-1', Ipv6Ranges: [{CidrIpv6: '::/0'}]}]}"
    )
    text, line = broken(AWS, "region: us-east-1}", f"region: us-east-1, security_group: {rules}}}")
    found = [(one[1], one[2].split(" | ")[0]) for one in said(text, tmp_path) if one[0] == "problem"]
    assert found == [(line + 2, "port 8265 is open to everybody"), (line + 3, "every port is open to everybody")]


def test_a_group_that_seems_to_be_there_is_a_warning(tmp_path):
    text, _ = broken(AWS, "region: us-east-1}", "region: us-east-1, security_group: {GroupName: mine}}")
    text = text.replace("SecurityGroupIds: [sg-0123456789abcdef0]", "KeyName: x")
    assert [one[0] for one in said(text, tmp_path) if "SSH" in one[2]] == ["warning"]


def test_rays_own_start_command_opens_the_dashboard_where_a_file_has_none(tmp_path):
    text = AWS.replace("head_start_ray_commands", "worker_setup_commands")
    found = [one for one in said(text, tmp_path) if "Ray's own start command" in one[2]]
    assert [(one[0], one[1]) for one in found] == [("problem", 1)]


def test_a_token_must_come_to_the_nodes(tmp_path):
    text, _ = broken(AWS, "file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}\n", "")
    assert any(one[0] == "problem" and "no token comes there" in one[2] for one in said(text, tmp_path))
    text, _ = broken(text, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/mnt/token")
    assert [one for one in said(text, tmp_path) if one[0] == "problem"] == []


SECRETS = [
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI",
    "DB_PASSWORD='hunter2'",
    "curl https://me:hunter2@example.org",
    "ray start --redis-password=hunter2",
    "tool --api-token hunter2",
    "echo AKIAIOSFODNN7EXAMPLE",
    "echo ghp_0123456789012345678901234567890",
    "echo '-----BEGIN RSA PRIVATE KEY-----'",
]
REFERENCES = [
    "DB_PASSWORD=$DB_PASSWORD",
    "DB_PASSWORD=$(cat /run/secrets/db)",
    "RAY_AUTH_TOKEN_PATH=~/.ray/auth_token",
    "curl https://me:$PASSWORD@example.org",
    "ray start --redis-password=$REDIS",
    "echo https://example.org:443/@x",
    "# DB_PASSWORD=hunter2 would be wrong",
    "tokens=3 keys=4 monkey=5",
]


@pytest.mark.parametrize("command", SECRETS)
def test_a_secret_in_a_command_is_found_and_not_repeated(command, tmp_path):
    text, line = broken(AWS, "  - pip install", f'  - "{command}"\n  - pip install')
    found = [one for one in said(text, tmp_path) if one[0] == "problem"]
    assert len(found) == 1
    assert found[0][1] == line
    assert "stands in the file" in found[0][2]
    assert "hunter2" not in found[0][2]
    assert "AKIA" not in found[0][2]


@pytest.mark.parametrize("command", REFERENCES)
def test_a_reference_is_no_secret(command, tmp_path):
    text, _ = broken(AWS, "  - pip install", f'  - "{command}"\n  - pip install')
    assert [one for one in said(text, tmp_path) if one[0] == "problem"] == []


def test_secrets_in_manifests(tmp_path):
    text, line = broken(
        KUBERAY,
        "value: raycluster.account.job.runtime_env}",
        "value: raycluster.account.job.runtime_env}, {name: API_KEY, value: abc}",
    )
    assert [(one[1], one[2].split()[0]) for one in said(text, tmp_path) if one[0] == "problem"] == [(line, "API_KEY")]
    by_name = text.replace(
        "{name: API_KEY, value: abc}", "{name: API_KEY, valueFrom: {secretKeyRef: {name: x, key: key}}}"
    )
    assert [one for one in said(by_name, tmp_path) if one[0] == "problem"] == []
    secret = "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {user: me}\n"
    assert any("a Secret with its contents" in one[2] for one in said(KUBERAY + secret, tmp_path))


@pytest.mark.parametrize(
    ("kind", "spec", "is_door"),
    [
        ("Service", "{type: LoadBalancer, ports: [{port: 80, targetPort: 8265}]}", True),
        ("Service", "{type: NodePort, ports: [{port: 10001}]}", True),
        ("Service", "{type: LoadBalancer, ports: [{name: dashboard, port: 80}]}", True),
        ("Service", "{type: LoadBalancer, ports: [{port: 8000}]}", False),
        ("Service", "{type: ClusterIP, ports: [{port: 8265}]}", False),
        ("Ingress", "{rules: [{http: {paths: [{backend: {service: {name: h, port: {number: 8265}}}}]}}]}", True),
        ("Ingress", "{rules: [{http: {paths: [{backend: {service: {name: h, port: {number: 8000}}}}]}}]}", False),
    ],
)
def test_services_are_doors_where_they_lead_to_ray_itself(kind, spec, is_door, tmp_path):
    text = f"{KUBERAY}\n---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: door}}\nspec: {spec}\n"
    found = [one for one in said(text, tmp_path) if f"this {kind} gives" in one[2]]
    assert [(one[0], one[1]) for one in found] == ([("problem", text.count("\n"))] if is_door else [])
