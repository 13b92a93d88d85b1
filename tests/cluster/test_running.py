"""What would not start, would not be metered, would be another Ray or would never end is said before it is paid for."""

from __future__ import annotations

import pytest
import ray
from cluster_files import AWS, KUBERAY, broken, checked, said

IMAGE = "rayproject/ray:2.60.0-py311"


@pytest.mark.parametrize(
    ("good", "change", "told"),
    [
        (AWS, ("--head --port", "--head --prot"), ("problem", "no option --prot | did you mean 'port'?")),
        (AWS, ("ray start --address", "ray stop --address"), ("problem", "worker_start_ray_commands never start Ray")),
        (KUBERAY, ("num-cpus:", "num-cpu:"), ("problem", "no option --num-cpu | did you mean 'num-cpus'?")),
        (AWS, ("RAY_RUNTIME_ENV_HOOK", "OTHER"), ("warning", "no meter where Ray starts")),
        (AWS, ("account.job.runtime_env", "account.other"), ("warning", "no meter where Ray starts")),
        (AWS, ("raycluster cluster account", "true"), ("warning", "nothing accounts for the cluster between runs")),
        (KUBERAY, ("raycluster cluster account", "true"), ("warning", "nothing accounts for the cluster between runs")),
        (AWS, ("-r requirements.txt", "'ray[default]==2.44.0'"), ("problem", "Ray 2.44.0, this package wants 2.60.0")),
        (AWS, ("pip install -r", "uv venv --python 3.9; uv"), ("problem", "Python 3.9, this package wants")),
        (KUBERAY, ("rayVersion: 2.60.0", "rayVersion: 2.9.0"), ("problem", "Ray 2.9.0, this package wants 2.60.0")),
        (KUBERAY, (IMAGE, "rayproject/ray:2.59.0-py311-gpu"), ("problem", "Ray 2.59.0, this package wants 2.60.0")),
        (KUBERAY, (IMAGE, "rayproject/ray:2.60.0-py310-cpu"), ("problem", "Python 3.10, this package wants")),
        (KUBERAY, (IMAGE, "rayproject/ray:2.60.0"), ("warning", "does not say which Python")),
        (KUBERAY, (IMAGE, "rayproject/ray:latest"), ("warning", "holds no version")),
        (
            AWS,
            ("file_mounts", "docker: {image: 'rayproject/ray:nightly', container_name: c}\nfile_mounts"),
            ("warning", "no version"),
        ),
        (AWS, ("idle_timeout_minutes: 5\n", ""), ("warning", "no idle_timeout_minutes: Ray takes 5")),
        (AWS, ("idle_timeout_minutes: 5", "idle_timeout_minutes: 240"), ("warning", "idle nodes stay for 240 minutes")),
        (
            KUBERAY,
            ("  head", "  autoscalerOptions: {idleTimeoutSeconds: 7200}\n  head"),
            ("warning", "stay for 120 min"),
        ),
    ],
)
def test_said_where_it_stands(good, change, told, tmp_path):
    level, what = told
    assert ray.__version__ == "2.60.0"
    text, line = broken(good, *change)
    found = [one for one in said(text, tmp_path) if what in one[2]]
    assert found, said(text, tmp_path)
    assert {one[0] for one in found} == {level}
    somewhere = {"nothing", "no meter", "no idle"}  # what is not there has no line of its own
    if not any(what.startswith(one) for one in somewhere) and "docker" not in change[1]:
        assert line in {one[1] for one in found} or "never start" in what


@pytest.mark.parametrize(
    "image", ["registry.example/raycluster:1", IMAGE, f"{IMAGE}-gpu", "rayproject/ray-ml:2.60.0-py312"]
)
def test_images_that_say_nothing_against_it(image, tmp_path):
    assert said(KUBERAY.replace(IMAGE, image), tmp_path) == []


def test_pods_that_do_not_scale_are_paid_for_until_they_are_deleted(tmp_path):
    fixed = KUBERAY.replace("minReplicas: 0", "minReplicas: 0\n      replicas: 2").replace(
        "Autoscaling: true", "Autoscaling: false"
    )
    assert [(one[0], one[1], one[2].split(":")[0]) for one in said(fixed, tmp_path)] == [
        ("warning", 7, "pods does not scale")
    ]
    (estimate,), _ = checked(fixed, tmp_path)
    assert [(one.node_type.least, one.most) for one in estimate.offers] == [(1, 1), (2, 2), (2, 2)]


def test_without_commands_of_its_own_a_cluster_gets_rays(tmp_path):
    text, _ = broken(AWS, "setup_commands:\n  - pip install -r requirements.txt\n", "")
    found = [one for one in said(text, tmp_path) if one[0] == "problem"]
    assert {one[1] for one in found} == {1}
    assert any("Ray 3.0.0.dev0" in one[2] and "as the file has no setup_commands" in one[2] for one in found)


def test_a_job_of_kuberay_ends_its_cluster_and_has_a_team(tmp_path):
    lines = KUBERAY.split("spec:\n", 1)[1].splitlines()
    spec = "\n".join(f"  {line}" for line in lines)
    start = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: pods}\nspec:\n  rayClusterSpec:\n"
    whole = f"{start}{spec}\n  shutdownAfterJobFinishes: true\n  metadata: {{team: x}}\n"
    assert said(whole, tmp_path) == []
    found = said(whole.replace("shutdownAfterJobFinishes: true", "entrypoint: x"), tmp_path)
    assert [(one[0], one[2].split(" | ")[0]) for one in found] == [
        ("warning", "the cluster of pods stays when its job has ended")
    ]
    found = said(whole.replace("team: x", "tema: x"), tmp_path)
    assert [(one[0], one[2].split(" | ")[0]) for one in found] == [("problem", "a job without a team is refused")]
