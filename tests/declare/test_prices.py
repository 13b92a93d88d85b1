"""The text of a price file becomes prices in nano-dollars, exactly, or all of its mistakes at once, with places."""

from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster.declare.document import parse
from raycluster.declare.prices import LOCAL, Egress, NodePrice, Owner, Prices, Shared, Storage, To, schema
from raycluster.declare.prices import load_prices as load
from raycluster.declare.prices import parse_prices as read
from raycluster.declare.resource import KINDS, load_resource
from raycluster.errors import InvalidFile, InvalidUse, NotFound

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "workloads/prices").glob("*.yaml"))
GOOD = """\
apiVersion: raycluster/v1
kind: Prices
metadata: {name: ours, version: "2026-11-01"}
spec:
  currency: USD
  nodes:
    m7i.4xlarge: {on_demand: 0.8064, spot: "0.32", cpus: 16, gpus: 0, memory: 64GiB}
    bare: {on_demand: 3}
  cpu_hour: 0.031611
  gib_hour: 0.004237
  gpu_hour: {default: 0.95, H100: 4.10}
  storage: {gib_month: 0.023}
  egress: {gib: 0.09}
  shared:
    idle: even
    system: {to: {team: platform, project: base}}
"""


def test_reads_every_key():
    prices = read(GOOD)
    assert prices == Prices(
        name="ours",
        version="2026-11-01",
        nodes={
            "m7i.4xlarge": NodePrice(on_demand=806_400_000, spot=320_000_000, cpus=16, gpus=0, memory=64 * 2**30),
            "bare": NodePrice(on_demand=3_000_000_000),
        },
        cpu_hour=31_611_000,
        gib_hour=4_237_000,
        gpu_hour={"default": 950_000_000, "H100": 4_100_000_000},
        storage=Storage(gib_month=23_000_000),
        egress=Egress(gib=90_000_000),
        shared=Shared(idle="even", system=To(to=Owner(team="platform", project="base"))),
    )
    assert prices.ref == "ours@2026-11-01"


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1))
@settings(max_examples=20, deadline=None)  # a file takes some milliseconds to read
def test_an_amount_is_what_the_file_says_digit_by_digit(amounts):
    texts = [f"{Decimal(amount).scaleb(-9):.9f}" for amount in amounts]
    entries = "".join(
        f"    n{place}: {{on_demand: {text}, spot: '{text}'}}\n" for place, text in enumerate(texts)
    )  # plain, and quoted
    nodes = read(GOOD.replace("    bare: {on_demand: 3}\n", entries)).nodes
    found = [(nodes[f"n{place}"].on_demand, nodes[f"n{place}"].spot) for place in range(len(amounts))]
    assert found == [(amount, amount) for amount in amounts]


def test_a_version_that_yaml_takes_for_a_date_is_the_text_of_it():
    assert read(GOOD.replace('"2026-11-01"', "2026-11-01")) == read(GOOD)


def test_what_nobody_owns_is_borne_by_the_cluster_s_users_or_stays_visible():
    shared = read(GOOD[: GOOD.index("  shared:")]).shared
    assert {shared.idle, shared.system, shared.startup, shared.background} == {"proportional"}
    assert {shared.other, shared.unexplained, shared.unattributed} == {"keep"}


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("on_demand: 0.8064", "on_demand: -0.8", "ours.yaml:7:19: spec.nodes.m7i.4xlarge.on_demand: '-0.8' is not an"),
        ("on_demand: 0.8064", "on_demand: .inf", "'.inf' is not an amount"),
        ("on_demand: 0.8064", "on_demand: true", "True is not an amount"),
        ("on_demand: 0.8064", "on_demand: [1]", "[1] is not an amount"),
        ("on_demand: 0.8064", "on_demand: 1:30", "'1:30' is not an amount"),
        ("on_demand: 0.8064", "on_demand: 0.12345678901", "nano-dollars"),
        ("on_demand: 0.8064, ", "", "ours.yaml:7:5: missing key 'on_demand'"),
        ("on_demand: 0.8064", "on_demnd: 0.8064", "did you mean 'on_demand'?"),
        ("{on_demand: 3}", "3", "ours.yaml:8:5: spec.nodes.bare: Input should be an object"),
        ("cpus: 16", "cpus: 0", "ours.yaml:7:52: spec.nodes.m7i.4xlarge.cpus: Input should be greater than 0"),
        ("gpus: 0", "gpus: -1", "greater than or equal to 0"),
        ("memory: 64GiB", "memory: 64", "has no unit"),
        ("currency: USD", "currency: EUR", "ours.yaml:5:3: spec.currency: Input should be 'USD'"),
        ("  currency: USD\n", "", "missing key 'currency'"),
        ("egress:", "egres:", "did you mean 'egress'?"),
        ("idle: even", "idle: evn", "ours.yaml:15:5: spec.shared.idle: 'evn' is no rule"),
        ("idle: even", "idle: 3", "spec.shared.idle: '3' is no rule"),
        ("idle: even", "idel: even", "did you mean 'idle'?"),
        ("{team: platform", "{tema: platform", "did you mean 'team'?"),
        ("{team: platform, project: base}", "{project: base}", "missing key 'team'"),
        ("{team: platform, ", "{team: '', ", "at least 1 character"),
        ("{to: {team", "{too: {team", "did you mean 'to'?"),
        ("default: 0.95, ", "", "ours.yaml:11:3: gpu_hour has no 'default'"),
        ("  gib_hour: 0.004237\n", "", "ours.yaml:9:3: cpu_hour without gib_hour prices half a node"),
        ("  cpu_hour: 0.031611\n", "", "gib_hour without cpu_hour prices half a node"),
        ("  cpu_hour: 0.031611\n  gib_hour: 0.004237\n", "", "ours.yaml:9:3: gpu_hour without cpu_hour and gib_hour"),
        ('version: "2026-11-01"', "version: 1.10", "ours.yaml:3:24: metadata.version: Input should be a valid string"),
        ('version: "2026-11-01"', "version: a b", "match pattern"),
        (', version: "2026-11-01"', "", "missing key 'version'"),
        ("kind: Prices", "kind: Price", "ours.yaml:2:1: kind"),
    ],
)
def test_says_what_is_wrong_and_where(was, becomes, says):
    assert was in GOOD
    with pytest.raises(InvalidFile) as caught:
        read(GOOD.replace(was, becomes, 1), "ours.yaml")
    assert says in str(caught.value)
    assert len(caught.value.problems) <= 2  # an unknown key may leave another missing


def test_a_list_without_any_node_is_none():
    with pytest.raises(InvalidFile, match=r"ours.yaml:4:1: prices no node(.|\n)*add `nodes: "):
        read(GOOD[: GOOD.index("  nodes:")], "ours.yaml")


def test_reports_several_mistakes_at_once():
    with pytest.raises(InvalidFile) as caught:
        read(GOOD.replace("0.8064", "-1").replace("idle: even", "idle: evn").replace("currency: USD", "currency: EUR"))
    assert len(caught.value.problems) == 3


def test_prices_in_python_hold_to_the_same_rules():
    with pytest.raises(InvalidUse, match="prices no node"):
        Prices(name="empty", version="1")
    with pytest.raises(InvalidUse, match="cpu_hour without gib_hour"):
        Prices(name="half", version="1", cpu_hour=1)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        load(tmp_path / "prices.yaml")


def test_the_shipped_local_prices_are_those_that_hold_without_a_file():
    assert load(ROOT / "workloads/prices/local.yaml") == LOCAL


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_lists_are_valid_and_spot_is_cheaper(path):
    prices = load_resource(path)
    assert isinstance(prices, Prices)
    assert prices.storage
    assert prices.egress
    assert all(node.spot < node.on_demand and node.cpus and node.memory for node in prices.nodes.values())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema())


def test_every_node_type_of_the_cluster_has_a_price():
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"].values()
    listed = load(ROOT / "workloads/prices/aws.yaml").nodes
    assert {node["node_config"]["InstanceType"] for node in types} <= set(listed)


def test_the_rule_that_the_readme_shows_is_valid():
    readme = (ROOT / "workloads/prices/README.md").read_text()
    shown = readme.split("```yaml\n")[1].split("```")[0]
    shared = read(GOOD[: GOOD.index("  shared:")] + shown).shared
    assert shared.idle == To(to=Owner(team="platform", project="capacity"))


@pytest.mark.parametrize(
    ("was", "becomes"),
    [("idle: even", "idle: evn"), ("on_demand: 0.8064, ", ""), ("egress:", "egres:"), ("0.09", "-1")],
)
def test_the_schema_takes_what_reading_takes(was, becomes):
    check = jsonschema.Draft202012Validator(schema())
    assert check.is_valid(parse(GOOD).value)
    assert not check.is_valid(parse(GOOD.replace(was, becomes)).value)


def test_prices_are_a_kind():
    assert KINDS["Prices"].build(parse(GOOD)) == read(GOOD)
    assert KINDS["Prices"].schema()["title"] == "Prices"
