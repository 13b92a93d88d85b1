"""Plans are pure: listings and known ids go in as lists, places and counts come out."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pytest

from raycluster.declare.workload import Sink, Workload
from raycluster.errors import Unplaceable
from raycluster.place import Cluster, place
from raycluster.plan import KNOWN, make_plan, shards
from raycluster.row import OBJECT, object_id
from raycluster.units import Resources


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage as far as planning looks at it."""

    name: str
    needs: Resources = Resources()
    actors: int | None = None
    relies_on: tuple[str, ...] = ()
    writes: ClassVar[pa.Schema] = pa.schema([])


def workload(*encode: Step) -> Workload:
    sink = Sink(dataset="d")
    return Workload(name="w", labels={"team": "t"}, source=None, decode=(Step(name="image"),), encode=encode, sink=sink)


def laptop(cpu: float = 4, gpu: float = 0) -> Cluster:
    return Cluster(nodes=(Resources(cpu=cpu, gpu=gpu, memory=8 << 30),))


def listing(*objects: tuple[str, str]) -> list[pa.RecordBatch]:
    rows = [{"uri": uri, "version": version, "size": 10, "locator": None} for uri, version in objects]
    return pa.Table.from_pylist(rows, OBJECT).to_batches()


def known(*objects: tuple[str, str], **facts) -> list[pa.RecordBatch]:
    usual = {"modality": "image", "workload": "w", "settled": True, "bad": False}
    rows = [{"uri": uri, "object_id": object_id(uri, version)} | usual | facts for uri, version in objects]
    return pa.Table.from_pylist(rows, KNOWN).to_batches()


def plan_of(listed, already, cluster=None, facts=()):
    return make_plan(
        workload(),
        cluster or laptop(),
        listed=listing(*listed),
        known=[*known(*already), *facts],
        modalities=lambda batch: ["image"] * batch.num_rows,
    )


def test_every_object_has_one_state() -> None:
    plan = plan_of([("a", "1"), ("b", "2"), ("c", "1")], [("a", "1"), ("b", "1"), ("gone", "1")])
    assert {state: plan.objects(state) for state in plan.counts} == {"new": 1, "changed": 1, "done": 1, "vanished": 1}
    assert plan.listed == 3
    assert plan.todo["uri"].to_pylist() == ["b", "c"]
    assert plan.replaced == {object_id("b", "2"): (object_id("b", "1"),)}
    assert plan.vanished == (object_id("gone", "1"),)


def test_an_object_listed_twice_is_done_once() -> None:
    plan = plan_of([("a", "1"), ("b", "1"), ("a", "1"), ("a", "2")], [])
    assert plan.todo["uri"].to_pylist() == ["a", "b"]
    assert plan.listed == 2


def test_what_is_in_quarantine_is_done_only_where_it_is_settled() -> None:
    bad = known(("a", "1"), bad=True) + known(("b", "1"), bad=True, settled=False)
    plan = plan_of([("a", "1"), ("b", "1")], [], facts=bad)
    assert (plan.objects("done"), plan.todo["uri"].to_pylist(), plan.known_bad) == (1, ["b"], 1)


def test_a_bad_object_counts_only_while_the_source_lists_it() -> None:
    assert plan_of([("b", "1")], [], facts=known(("a", "1"), bad=True)).known_bad == 0


def test_a_new_version_takes_the_place_of_a_bad_one() -> None:
    plan = plan_of([("a", "2")], [], facts=known(("a", "1"), bad=True, settled=False))
    assert (plan.objects("new"), plan.replaced) == (1, {object_id("a", "2"): (object_id("a", "1"),)})


def test_only_what_a_workload_brought_can_vanish_from_its_source() -> None:
    plan = plan_of([], [("mine", "1")], facts=known(("theirs", "1"), workload="other"))
    assert plan.vanished == (object_id("mine", "1"),)


def test_going_back_to_an_earlier_version_is_a_change_only_when_it_is_not_known() -> None:
    plan = plan_of([("a", "1")], [("a", "1"), ("a", "2")])
    assert plan.objects("done") == 1
    assert plan.replaced == {}


def test_stages_without_gpu_share_a_pool_and_each_gpu_stage_has_its_own() -> None:
    steps = (
        Step(name="whisper"),
        Step(name="clip", needs=Resources(gpu=0.5)),
        Step(name="minilm"),
        Step(name="bounds"),
    )
    pools, problems = place(workload(*steps), laptop(cpu=8, gpu=1))
    assert [pool.name for pool in pools] == ["image+whisper", "clip", "minilm+bounds"]
    assert [pool.actors for pool in pools] == [3, 2, 3]
    pools, problems = place(workload(*steps, Step(name="siglip", needs=Resources(gpu=0.5))), laptop(cpu=8, gpu=1))
    assert [pool.actors for pool in pools] == [3, 1, 3, 1]  # two share the one GPU
    assert problems == []


def test_gpu_workers_leave_a_cpu_to_every_other_pool() -> None:
    pools, problems = place(workload(Step(name="clip", needs=Resources(gpu=0.25))), laptop(cpu=4, gpu=1))
    assert ([pool.actors for pool in pools], problems) == ([1, 3], [])


def test_a_stage_that_needs_no_cpu_is_placed() -> None:
    pools, problems = place(workload(Step(name="light", needs=Resources(cpu=0), actors=3)), laptop())
    assert (pools[1].actors, problems) == (3, [])


def test_more_gpus_than_there_are_are_refused() -> None:
    steps = (Step(name="clip", needs=Resources(gpu=1), actors=1), Step(name="siglip", needs=Resources(gpu=1)))
    _, problems = place(workload(*steps), laptop(cpu=8, gpu=1))
    assert problems == ["the pools ask for 2 GPUs (image 6 x 0, clip 1 x 1, siglip 1 x 1), the cluster has 1"]


def test_pools_that_cannot_run_side_by_side_are_refused() -> None:
    steps = (Step(name="clip", needs=Resources(gpu=0.5)), Step(name="minilm"))
    _, problems = place(workload(*steps), laptop(cpu=2, gpu=1))
    assert problems == ["the pools ask for 3 CPUs (image 1 x 1, clip 1 x 1, minilm 1 x 1), the cluster has 2"]


def test_a_gpu_stage_without_gpu_is_refused_by_name() -> None:
    pools, problems = place(workload(Step(name="clip", needs=Resources(gpu=1))), laptop())
    assert len(pools) == 2
    assert problems == ["clip needs 1 CPU, 1 GPU a worker: no node of this cluster has that (1 node(s): 4 CPU, 0 GPU)"]


def test_more_actors_than_fit_are_refused() -> None:
    _, problems = place(workload(Step(name="clip", needs=Resources(cpu=2), actors=3)), laptop())
    assert problems == ["clip wants 3 actors of 2 CPU: only 2 fit (1 node(s): 4 CPU, 0 GPU)"]
    plan = make_plan(
        workload(Step(name="clip", needs=Resources(cpu=2), actors=3)),
        laptop(),
        listed=[],
        known=[],
    )
    with pytest.raises(Unplaceable, match="only 2 fit"):
        plan.require_placeable()


def test_a_worker_must_fit_on_one_node() -> None:
    two_small = Cluster(nodes=(Resources(cpu=1, memory=1 << 30), Resources(cpu=1, memory=1 << 30)))
    _, problems = place(workload(Step(name="big", needs=Resources(cpu=2))), two_small)
    assert "no node" in problems[0]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("objects", [0, 1, 7, 100, 5000])
def test_shards_hold_every_object_once(objects: int, sequential: bool) -> None:
    plan = plan_of([(f"u{index}", "1") for index in range(objects)], [])
    dealt = [uri for shard in shards(plan, sequential=sequential) for uri in shard["uri"].to_pylist()]
    assert sorted(dealt) == sorted(plan.todo["uri"].to_pylist())
    sizes = [shard.num_rows for shard in shards(plan, sequential=sequential)]
    assert not sizes or max(sizes) - min(sizes) <= 1
