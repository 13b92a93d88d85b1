"""A price list and a node become a rate; the rate times a time is whole nano-dollars, and times add up."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycluster.account.rate import Node, Rate, apportion, egress_cost, rate, storage_cost
from raycluster.declare.prices import LOCAL, Egress, NodePrice, Prices, Storage
from raycluster.errors import InvalidUse

GIB = 2**30
HOUR = 3600 * 10**9
NODES = {"big": NodePrice(on_demand=806_400_000, spot=323_000_000), "gpu": NodePrice(on_demand=10**9, gpus=2)}
LISTED = Prices(name="listed", version="1", nodes=NODES)
UNITS = Prices(name="units", version="1", cpu_hour=100, gib_hour=10, gpu_hour={"default": 1000, "A100": 2000})
BIG = Node(type="big", cpus=16, memory=64 * GIB)


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**18), min_size=1).filter(any))
def test_parts_add_up_and_are_off_by_less_than_one(total, weights):
    parts = apportion(total, weights)
    assert sum(parts) == total
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if not weight)


def test_the_largest_remainder_gets_what_is_left():
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(7, [1, 5, 4]) == [1, 3, 3]  # 0.7, 3.5, 2.8


@given(
    st.fractions(0, 10**12, max_denominator=10**6),
    st.lists(st.integers(0, 2 * 10**18), min_size=2, unique=True).map(sorted),
)
def test_windows_that_follow_each_other_add_up_to_the_whole(hour, cuts):
    node = Rate(hour=hour, parts=(1, 0, 0))
    whole = node.between(cuts[0], cuts[-1])
    assert sum(node.between(start, end) for start, end in pairwise(cuts)) == whole
    assert abs(whole - hour * (cuts[-1] - cuts[0]) / HOUR) < 1


def test_a_listed_node_costs_its_price_by_market():
    assert rate(BIG, LISTED).hour == 806_400_000
    assert rate(Node(type="big", market="on_demand"), LISTED).hour == 806_400_000
    assert rate(Node(type="big", market="spot"), LISTED).hour == 323_000_000


def test_other_nodes_cost_what_they_have_by_the_unit_whatever_the_market():
    node = Node(type="any", market="spot", cpus=2.5, gpus=0.5, memory=3 * GIB // 2)
    assert rate(node, UNITS).hour == 250 + 500 + 15
    assert rate(Node(type=None, cpus=0.1), UNITS).hour == Fraction(0.1) * 100


@pytest.mark.parametrize(
    ("name", "dollars"), [("NVIDIA A100-SXM4-80GB", 2000), ("a100", 2000), ("NVIDIA L4", 1000), (None, 1000)]
)
def test_a_gpu_is_found_by_the_words_of_its_name(name, dollars):
    assert rate(Node(type=None, gpus=1, gpu_type=name), UNITS).hour == dollars


def test_the_entry_with_most_words_wins():
    by_gpu = {"default": 1, "A100": 2, "A100 80GB": 3, "L4": 4}
    prices = Prices(name="p", version="1", cpu_hour=0, gib_hour=0, gpu_hour=by_gpu)
    names = ["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA L40S", "NVIDIA L4"]
    assert [rate(Node(type=None, gpus=1, gpu_type=name), prices).hour for name in names] == [3, 2, 1, 4]


def test_a_node_s_price_divides_as_unit_prices_would():
    prices = Prices(name="p", version="1", nodes=NODES, cpu_hour=10, gib_hour=1, gpu_hour={"default": 100})
    cpu, gpu, memory = rate(Node(type="big", cpus=4, gpus=1, memory=60 * GIB), prices).parts
    assert (cpu / memory, gpu / memory) == (40 / 60, 100 / 60)


def test_without_unit_prices_it_divides_as_the_local_ones_would():
    cpu, gpu, memory = rate(BIG, LISTED).parts
    assert (Fraction(cpu, memory), gpu) == (Fraction(16 * LOCAL.cpu_hour, 64 * LOCAL.gib_hour), 0)


def test_what_the_list_says_that_a_node_has_counts_for_more():
    assert rate(Node(type="gpu", cpus=4, memory=GIB, gpus=0), LISTED).parts[1] > 0
    assert rate(Node(type="gpu", cpus=4, memory=GIB, gpus=9), LISTED) == rate(
        Node(type="gpu", cpus=4, memory=GIB), LISTED
    )


def test_a_node_of_nothing_is_all_cores():
    assert rate(Node(type="big"), LISTED).parts == (1, 0, 0)
    assert rate(Node(type=None), UNITS) == Rate(hour=Fraction(0), parts=(1, 0, 0))


@pytest.mark.parametrize(
    ("node", "prices", "says"),
    [
        (Node(type="m9.huge"), LISTED, "listed@1 has no price for nodes of type 'm9.huge'"),
        (
            Node(type="m9.huge"),
            LISTED,
            "add `m9.huge: {on_demand: PRICE}` to spec.nodes, or cpu_hour, gib_hour and gpu",
        ),
        (Node(type=None), LISTED, "has no price for nodes of unknown type\n  fix: add cpu_hour"),
        (Node(type="gpu", market="spot"), LISTED, "no spot price for nodes of type 'gpu'\n  fix: add `spot: PRICE` to"),
        (Node(type="big", market="future"), LISTED, "unknown market 'future'"),
        (
            Node(type="x", gpus=1),
            Prices(name="p", version="1", cpu_hour=1, gib_hour=1),
            "no price for nodes of type 'x'\n  fix: add `x: {on_demand: PRICE}` to spec.nodes, or gpu_hour to spec",
        ),
    ],
)
def test_says_which_price_is_missing_and_where_to_add_it(node, prices, says):
    with pytest.raises(InvalidUse) as caught:
        rate(node, prices)
    assert says in str(caught.value)


def test_storage_and_egress_to_the_nearest_nano_dollar():
    month = 730 * 3600
    prices = Prices(
        name="p", version="1", cpu_hour=1, gib_hour=1, storage=Storage(gib_month=23_000_000), egress=Egress(gib=90)
    )
    assert storage_cost(5 * GIB, month, prices) == 115_000_000
    assert storage_cost(GIB, 60, prices) == 525  # 525.11
    assert storage_cost(GIB // 2, month / 4, prices) == 23_000_000 // 8
    assert (egress_cost(3 * GIB, prices), egress_cost(GIB // 100, prices)) == (270, 1)  # 0.9
    assert storage_cost(2**70, month, prices) == 2**40 * 23_000_000


def test_storage_and_egress_without_a_price():
    with pytest.raises(InvalidUse, match="no price for storage"):
        storage_cost(1, 1, LISTED)
    with pytest.raises(InvalidUse, match="no price for egress"):
        egress_cost(1, LISTED)
