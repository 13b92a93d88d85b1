"""What a cluster is told is what Ray Serve, Kubernetes and KubeRay take."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from kuberay_api import check, pods
from ray.serve.schema import ServeDeploySchema

from raycluster.account.hook import HOOK
from raycluster.account.owners import PAYER
from raycluster.errors import InvalidUse
from raycluster.govern.gate import Rules
from raycluster.serve.config import Door, ray_service, serve_config, written
from raycluster.serve.settings import Settings

REMOTE = Settings(
    lake="s3://bucket/lake",
    rules=Rules(issuer="https://login.example", audience="media"),
    sources=("s3://bucket/photos/", "https://example.org/"),
)


@pytest.fixture
def files(tmp_path: Path) -> Settings:
    """Settings all of whose rules are files of this machine."""
    (tmp_path / "tokens.yaml").write_text("tokens: []")
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "rules").mkdir()
    rules = Rules(
        issuer="https://login.example",
        audience="media",
        tokens=str(tmp_path / "tokens.yaml"),
        jwks=str(tmp_path / "keys.json"),
        policy=str(tmp_path / "rules"),
    )
    return Settings(lake="s3://bucket/lake", rules=rules)


def test_serve_takes_it():
    config = yaml.safe_load(written(serve_config(REMOTE, Door())))
    found = ServeDeploySchema.model_validate(config)
    (application,) = found.applications
    assert Settings.read(application.args) == REMOTE
    assert (found.http_options.host, found.http_options.port) == ("0.0.0.0", 8000)


def test_it_says_what_the_application_has():
    """Serve refuses a config that speaks of a deployment that the application has not."""
    from ray.serve._private.build_app import build_app

    from raycluster.serve import app

    (told,) = serve_config(REMOTE, Door())["applications"]
    built = build_app(app.build(told["args"]), name="x")
    assert {one["name"] for one in told["deployments"]} == {one.name for one in built.deployments}
    assert all(one["ray_actor_options"]["num_cpus"] > 0 for one in told["deployments"])


def test_replicas_are_metered():
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    (told,) = serve_config(REMOTE, Door())["applications"]
    assert told["runtime_env"]["env_vars"] == {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: HOOK}
    (told,) = serve_config(REMOTE, Door(), team="red")["applications"]
    assert told["runtime_env"]["env_vars"][PAYER] == '{"team": "red"}'


def test_strangers_are_not_let_in_without_being_asked_who_they_are():
    with pytest.raises(InvalidUse, match="nobody would be asked") as wrong:
        serve_config(Settings(lake="s3://bucket/lake"), Door())
    assert wrong.value.where == "--host"
    assert serve_config(Settings(lake="s3://bucket/lake"), Door("127.0.0.1"))["http_options"]["host"] == "127.0.0.1"


def test_kuberay_takes_it():
    manifest = yaml.safe_load(ray_service(REMOTE, Door(port=9000), "registry.example/raycluster:1"))
    check(manifest)
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
    assert manifest["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"
    assert all(one["spec"]["securityContext"]["runAsNonRoot"] for one in pods(manifest))
    assert [one["spec"]["containers"][0]["image"] for one in pods(manifest)] == ["registry.example/raycluster:1"] * 2
    inner = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert inner == serve_config(REMOTE, Door(port=9000))


@pytest.mark.parametrize("at", ["rayClusterConfig", "workerGroupSpecs", "containers"])
def test_what_kuberay_would_refuse_is_found(at):
    manifest = yaml.safe_load(ray_service(REMOTE, Door(), "image"))
    cluster = manifest["spec"]["rayClusterConfig"]
    places = {
        "rayClusterConfig": cluster,
        "workerGroupSpecs": cluster["workerGroupSpecs"][0],
        "containers": pods(manifest)[1]["spec"]["containers"][0],
    }
    places[at]["imige"] = "x"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest)


def test_pods_have_the_files_of_the_rules(files):
    text = ray_service(files, Door(), "image")
    manifest = yaml.safe_load(text)
    check(manifest)
    (told,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    rules = Settings.read(told["args"]).rules
    assert rules.tokens == "/etc/raycluster/tokens/tokens.yaml"
    assert rules.jwks == "/etc/raycluster/jwks/keys.json"
    assert rules.policy == "/etc/raycluster/policy"
    for pod in pods(manifest):
        mounted = {one["name"]: one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted == {name: f"/etc/raycluster/{name}" for name in ("tokens", "jwks", "policy")}
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        assert volumes["tokens"]["secret"] == {"secretName": "raycluster-tokens"}
        assert volumes["policy"]["configMap"] == {"name": "raycluster-policy"}
    made = [line for line in text.splitlines() if line.startswith("#")]
    assert f"#   kubectl create secret generic raycluster-tokens --from-file={files.rules.tokens}" in made
    assert f"#   kubectl create configmap raycluster-policy --from-file={files.rules.policy}" in made
    assert "[]" not in text.split("apiVersion")[0], "nothing secret is printed"


def test_a_file_that_is_not_there(files):
    Path(files.rules.tokens or "").unlink()
    with pytest.raises(InvalidUse, match=r"tokens\.yaml is not there") as wrong:
        ray_service(files, Door(), "image")
    assert wrong.value.where == "--tokens"


def test_pods_have_no_part_in_a_folder():
    with pytest.raises(InvalidUse, match="pods have no part in it") as wrong:
        ray_service(Settings(lake="/data/lake", rules=REMOTE.rules), Door(), "image")
    assert wrong.value.where == "--lake"
