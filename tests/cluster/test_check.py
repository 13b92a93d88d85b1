"""A cluster file is right or wrong before money is spent, and its hour has a price."""

from __future__ import annotations

import json
import re
import socket
import sys

import pytest
from click.testing import CliRunner
from cluster_files import AWS, KUBERAY, LOCAL, OURS, PRICES, ROOT, broken, checked, job, prices_of, said

from raycluster import cli
from raycluster.cluster.check import check
from raycluster.cluster.file import load_cluster
from raycluster.declare.prices import LOCAL as UNIT_PRICES
from raycluster.declare.prices import parse_prices
from raycluster.declare.resource import files

GOOD = {"aws": AWS, "local": LOCAL, "kuberay": KUBERAY}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_left_alone(name, tmp_path):
    assert [one for one in said(GOOD[name], tmp_path) if one[0] != "note"] == []


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_our_own_files_are_right_and_hold_our_workloads(file):
    found = load_cluster(file)
    jobs = [job(one.read_text(), str(one)) for one in files(ROOT / "workloads") if "kind: Workload" in one.read_text()]
    assert len(jobs) >= 5
    estimates, findings = check(found, jobs, prices_of(file))
    assert estimates
    # what machines of one's own cost and have is not in their file
    allowed = {"warning", "note"} if file.stem == "on_premises" else {"note"}
    assert [one for one in findings if one.level not in allowed] == []


def test_nobody_is_asked(monkeypatch):
    """Ray's own preparation of a file wants neither network nor a provider's package."""

    def refuse(*_):
        raise AssertionError("a check went out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("boto3", "botocore", "googleapiclient", "azure", "kubernetes"):
        monkeypatch.setitem(sys.modules, name, None)
    for file in OURS:
        assert load_cluster(file).shapes


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "without token authentication"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens on 0.0.0.0"),
        ("upscaling_speed", "upscaling_sped", "unknown key 'upscaling_sped' | did you mean 'upscaling_speed'"),
        ("raycluster/node-type", "raycluster/node_type", "has no label raycluster/node-type"),
        ("export RAYCLUSTER_LAKE", "export AWS_SECRET_ACCESS_KEY=abc RAYCLUSTER_LAKE", "AWS_SECRET_ACCESS_KEY stands"),
    ],
)
@pytest.mark.parametrize("file", [one for one in OURS if one.stem != "kuberay"], ids=lambda file: file.name)
def test_our_own_files_once_broken_are_refused(file, old, new, what, tmp_path):
    text, _ = broken(file.read_text(), old, new)
    problems = [message for level, _, message in said(text, tmp_path, prices=prices_of(file)) if level == "problem"]
    if "node-type" not in old or file.stem != "on_premises":  # its price list prices sizes
        assert any(what in one for one in problems), problems


@pytest.mark.parametrize(
    ("old", "new", "level", "what"),
    [
        ("node-type: g6.xlarge, ", "node-type: p5.48xlarge, ", "problem", "gpu is g6.xlarge, and its label says p5"),
        ("node-type: g6.xlarge, ", "node-type: g6.xlargr, ", "problem", "did you mean 'g6.xlarge'?"),
        ("{raycluster/node-type: c7i.xlarge}", "{a: b}", "problem", "the bill would take it for 'local' | add"),
        ("market-type: spot", "market-type: on-demand", "problem", "gpu is spot, and the bill would take it for on-de"),
        ("market-type: spot", "market-type: cheap", "problem", "ray.io/market-type is 'cheap' | `spot` or `on-demand`"),
        ("min_workers: 1", "min_workers: 5", "problem", "cpu: at least 5, at most 4"),
        ("max_workers: 6", "max_workers: 3", "note", "7 workers together, max_workers is 3"),
        ("us-east-1", "eu-central-1", "warning", "the prices are aws-us-east-1's, the cluster is in eu-central-1"),
    ],
)
def test_what_the_bill_would_get_wrong(old, new, level, what, tmp_path):
    text, line = broken(AWS, old, new)
    found = [one for one in said(text, tmp_path) if what in one[2]]
    assert [(one[0], one[1]) for one in found] == [(level, line)], said(text, tmp_path)


def test_a_spot_type_needs_a_spot_price(tmp_path):
    without = parse_prices(
        "apiVersion: raycluster/v1\nkind: Prices\nmetadata: {name: p, version: v}\nspec:\n  currency: USD\n  nodes:\n"
        + "".join(f"    {name}: {{on_demand: 1}}\n" for name in PRICES.nodes)
    )
    found = [one for one in said(AWS, tmp_path, prices=without) if one[0] == "problem"]
    assert [(one[1], one[2].split(" | ")[0]) for one in found] == [
        (26, "p@v has no spot price for nodes of type 'g6.xlarge'")
    ]


def test_spot_alone_is_a_risk_and_a_spot_head_an_error(tmp_path):
    alone, _ = broken(AWS, "max_workers: 1\n", "max_workers: 0\n")
    assert any("every node type with a GPU is spot" in one[2] for one in said(alone, tmp_path) if one[0] == "warning")
    head, _ = broken(
        AWS, "{raycluster/node-type: m7i.xlarge}", "{raycluster/node-type: m7i.xlarge, ray.io/market-type: spot}"
    )
    assert any(one[0] == "problem" and "the head (head) is spot" in one[2] for one in said(head, tmp_path))


def test_an_hour_costs_what_the_nodes_cost(tmp_path):
    (estimate,), _ = checked(AWS, tmp_path)
    assert [one.most for one in estimate.offers] == [1, 3, 2, 1]  # six workers at most, the dearest first
    assert estimate.least == 300_000_000  # a head of 0.20 and a worker of 0.10
    assert estimate.most == 200_000_000 + 3 * 100_000_000 + 2 * 300_000_000 + 800_000_000
    assert estimate.most_on_demand == estimate.most + 2 * 500_000_000


def test_the_most_is_never_less_than_what_must_be_there(tmp_path):
    text, _ = broken(AWS, "min_workers: 1", "min_workers: 4")
    (estimate,), _ = checked(text, tmp_path)
    assert [one.most for one in estimate.offers] == [1, 4, 1, 1]  # two left, one of which is the dear one


def test_unit_prices_price_what_the_file_tells_the_size_of(tmp_path):
    (pods,), findings = checked(KUBERAY, tmp_path, prices=UNIT_PRICES)
    assert [one.level for one in findings] == []
    head = pods.offers[0]
    assert head.hour == 12 * 4_237_000  # no cores, 12 GiB
    (home,), findings = checked(LOCAL, tmp_path, prices=UNIT_PRICES)
    assert [one.hour for one in home.offers] == [None, round(8 * 31_611_000 + 8e9 / 2**30 * 4_237_000)]
    assert home.least is home.most is None
    assert [(one.level, one.what.split(":")[0]) for one in findings] == [("warning", "what head costs is not known")]


def test_a_cloud_priced_as_this_machine_is_told(tmp_path):
    found = said(AWS, tmp_path, prices=UNIT_PRICES)
    assert (
        "warning",
        4,
        f"priced by {UNIT_PRICES.ref}, which knows no machine of aws | --prices workloads/prices/aws.yaml",
    ) in found


def call(*words):
    answer = CliRunner().invoke(cli.main, ["cluster", "check", *map(str, words)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.output
    return answer


def test_the_verb_says_it_to_people_and_ends_as_validate_does(tmp_path):
    prices, file = ROOT / "workloads" / "prices" / "aws.yaml", ROOT / "cluster.yaml"
    answer = call(file, ROOT / "workloads", "--prices", prices)
    assert answer.exit_code == 0, answer.output
    assert re.search(r"cpu +m7i\.4xlarge +on-demand +16 +0 .* 1-16 +\$0\.81 +\$12\.90", answer.output)
    assert "an hour costs $1.21 at the smallest (2 nodes), $" in answer.output
    assert "aws-us-east-1@" in answer.output
    assert re.search(r"^right .*sample", answer.output, re.MULTILINE)
    bad = tmp_path / "bad.yaml"
    bad.write_text(AWS.replace("max_workers: 6", "max_worker: 6"))
    answer = call(bad)
    assert answer.exit_code == 2
    assert f"{bad}:2:1: unknown key 'max_worker'\n         fix: did you mean 'max_workers'?" in answer.output


def test_the_verb_prints_one_document(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(AWS)
    answer = call(file, "--json")
    told = json.loads(answer.stdout)
    (cluster,) = told["clusters"]
    assert told["valid"] is True
    assert (told["file"], told["prices"]) == (str(file), UNIT_PRICES.ref)
    assert {"head", "cpu", "gpu", "gpu_on_demand"} == {one["name"] for one in cluster["node_types"]}
    assert cluster["hour"]["least_nodes"] == 2
    file.write_text("a: [")
    assert json.loads(call(file, "--json").stdout)["error"]["code"] == "invalid_file"


def test_a_broken_workload_and_a_missing_file_are_told(tmp_path):
    wrong = tmp_path / "w.yaml"
    wrong.write_text("apiVersion: raycluster/v1\nkind: Workload\nmetadata: {name: x}\nspec: {}\n")
    assert call(ROOT / "cluster.yaml", wrong).exit_code == 2
    assert "labels.team is missing" in call(ROOT / "cluster.yaml", wrong).output
    assert call(tmp_path / "none.yaml").exit_code == 2
