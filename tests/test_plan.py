"""Listings and what is known go in as lists, places and counts come out, and nothing stays behind on disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster import compare
from raycluster.compare import KNOWN
from raycluster.declare.workload import Sink, Workload
from raycluster.errors import Unplaceable
from raycluster.place import Cluster, place
from raycluster.plan import Count, Plan, make_plan, shards
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
    usual = {"modality": "image", "workload": "w", "settled": True, "bad": False, "again": facts.get("bad", False)}
    usual["outdated"] = False
    rows = [{"uri": uri, "object_id": object_id(uri, version)} | usual | facts for uri, version in objects]
    return pa.Table.from_pylist(rows, KNOWN).to_batches()


def plan_of(listed, already, *, facts=(), replay=False) -> Plan:
    given = [*known(*already), *facts]
    return make_plan(workload(), laptop(), listed=listing(*listed), known=given, replay=replay)


def done(plan: Plan) -> dict[str, list[str]]:
    """Return what each object to do replaces, by uri."""
    return dict(zip(plan.todo["uri"].to_pylist(), plan.todo["replaces"].to_pylist(), strict=True))


def test_every_object_has_one_state() -> None:
    plan = plan_of([("a", "1"), ("b", "2"), ("c", "1")], [("a", "1"), ("b", "1"), ("gone", "1")])
    assert plan.counts == {
        "new": {"unread": Count(objects=1, size=10)},
        "changed": {"unread": Count(objects=1, size=10)},
        "done": {"image": Count(objects=1, size=10)},
        "vanished": {"image": Count(objects=1, size=0)},
    }
    assert plan.listed == 3
    assert done(plan) == {"b": [object_id("b", "1")], "c": []}
    assert plan.todo["object_id"].to_pylist() == [object_id("b", "2"), object_id("c", "1")]
    assert plan.vanished.to_pylist() == [object_id("gone", "1")]


def test_what_is_to_be_done_keeps_the_order_of_the_listing() -> None:
    uris = [f"u{index * 7919 % 10_007}" for index in range(10_007)]
    plan = plan_of([(uri, "1") for uri in uris], [(uri, "0") for uri in sorted(uris)[::2]])
    assert plan.todo["uri"].to_pylist() == uris


def test_an_object_listed_twice_is_done_once() -> None:
    plan = plan_of([("a", "1"), ("b", "1"), ("a", "1"), ("a", "2")], [])
    assert plan.todo["uri"].to_pylist() == ["a", "b"]
    assert plan.todo["version"].to_pylist() == ["1", "1"]
    assert plan.listed == 2


def test_what_another_decoder_made_is_done_again_and_replaces_itself() -> None:
    facts = known(("a", "1"), ("b", "1"), outdated=True) + known(("c", "1"), modality="text", outdated=True)
    plan = plan_of([("a", "1"), ("b", "2"), ("c", "1"), ("d", "1"), ("e", "1")], [("d", "1")], facts=facts)
    assert done(plan) == {uri: [object_id(uri, "1")] for uri in "abc"} | {"e": []}
    assert (plan.objects("changed"), plan.objects("done"), plan.objects("new")) == (3, 1, 1)
    assert plan.outdated == {"image": 1, "text": 1}  # b has changed itself
    assert plan.reasons[0] == "image objects: 1 to work on again (another decoder made them)"


def test_what_decodes_a_video_decodes_its_sound() -> None:
    sound = known(("a", "1"), ("b", "1"), ("c", "1"), modality="audio", outdated=True)
    frames = known(("a", "1"), modality="video") + known(("b", "1"), modality="video", outdated=True)
    plan = plan_of([("a", "1"), ("b", "1"), ("c", "1")], [], facts=sound + frames)
    assert plan.todo["uri"].to_pylist() == ["b", "c"]
    assert plan.outdated == {"audio": 1, "video": 1}


def test_a_replay_leaves_what_another_decoder_made_alone() -> None:
    facts = known(("a", "1"), ("b", "1"), outdated=True) + known(("b", "1"), bad=True, settled=False)
    plan = plan_of([("a", "1"), ("b", "1")], [], facts=facts, replay=True)
    assert done(plan) == {"b": [object_id("b", "1")]}


def test_what_is_in_quarantine_is_done_only_where_it_is_settled() -> None:
    bad = known(("a", "1"), bad=True) + known(("b", "1"), bad=True, settled=False)
    plan = plan_of([("a", "1"), ("b", "1")], [], facts=bad)
    assert (plan.objects("done"), plan.todo["uri"].to_pylist(), plan.known_bad) == (1, ["b"], 1)


def test_an_object_with_bad_rows_in_quarantine_and_good_ones_in_the_dataset_is_done_and_bad() -> None:
    plan = plan_of([("a", "1")], [("a", "1")], facts=known(("a", "1"), bad=True, settled=False))
    assert (plan.objects("done"), plan.known_bad) == (1, 1)


def test_older_versions_that_a_death_has_left_in_quarantine_are_named() -> None:
    left = known(("a", "1"), ("b", "1"), bad=True, settled=False) + known(("a", "2"), bad=True, settled=False)
    plan = plan_of([("a", "2"), ("b", "2"), ("c", "1")], [("a", "2"), ("c", "1")], facts=left)
    assert plan.stale.to_pylist() == [object_id("a", "1")]
    assert done(plan) == {"b": [object_id("b", "1")]}  # which replaces its older version as always


def test_what_may_not_be_null_in_a_dataset_and_may_in_its_quarantine_goes_together() -> None:
    never_null = pa.schema([one.with_nullable(False) for one in KNOWN])
    (dataset,) = known(("a", "1"))
    facts = [pa.RecordBatch.from_arrays(dataset.columns, schema=never_null), *known(("b", "1"), bad=True)]
    assert plan_of([("a", "1"), ("b", "1")], [], facts=facts).objects("done") == 2


def test_a_bad_object_counts_only_while_the_source_lists_it() -> None:
    assert plan_of([("b", "1")], [], facts=known(("a", "1"), bad=True)).known_bad == 0


def test_an_object_tried_again_replaces_itself_and_all_its_older_versions() -> None:
    facts = known(("a", "0"), ("a", "1"), ("a", "2"), bad=True, settled=False)
    plan = plan_of([("a", "2")], [], facts=facts)
    assert (plan.objects("new"), done(plan)) == (1, {"a": sorted(object_id("a", one) for one in "012")})


def test_a_new_version_replaces_good_and_bad_rows_each_once() -> None:
    facts = known(("a", "1"), ("a", "1"), bad=True, settled=False)
    plan = plan_of([("a", "2")], [("a", "1"), ("a", "1")], facts=facts)
    assert (plan.objects("changed"), done(plan)) == (1, {"a": [object_id("a", "1")]})


def test_only_what_a_workload_brought_can_vanish_from_its_source() -> None:
    plan = plan_of([], [("mine", "1")], facts=known(("theirs", "1"), workload="other"))
    assert (plan.objects("vanished"), plan.vanished.to_pylist()) == (1, [object_id("mine", "1")])


def test_what_vanished_goes_with_all_that_is_known_of_it() -> None:
    plan = plan_of([], [("a", "2")], facts=known(("a", "1"), bad=True, settled=False, modality=None))
    assert {name: count.objects for name, count in plan.counts["vanished"].items()} == {"image": 1}
    assert plan.vanished.to_pylist() == sorted([object_id("a", "1"), object_id("a", "2")])


def test_a_sound_track_is_known_by_its_video() -> None:
    plan = plan_of([("a", "1")], [], facts=known(("a", "1"), modality="audio") + known(("a", "1"), modality="video"))
    assert plan.counts["done"] == {"video": Count(objects=1, size=10)}


def test_going_back_to_an_earlier_version_is_a_change_only_when_it_is_not_known() -> None:
    plan = plan_of([("a", "1")], [("a", "1"), ("a", "2")])
    assert plan.objects("done") == 1
    assert done(plan) == {}


def test_a_replay_plans_only_for_what_is_to_be_tried_again_whatever_else_is_known_of_it() -> None:
    listed = [("good", "1"), ("new", "1"), ("partly", "1"), ("settled", "1"), ("tried", "1"), ("fixed", "2")]
    listed += [("othercode", "1"), ("newer", "2")]
    facts = known(("partly", "1"), ("tried", "1"), ("fixed", "1"), bad=True, settled=False)
    facts += known(("settled", "1"), bad=True) + known(("othercode", "1"), bad=True, again=False)
    already = [("good", "1"), ("partly", "1"), ("gone", "1"), ("newer", "1")]
    plan = plan_of(listed, already, facts=facts, replay=True)
    assert done(plan) == {
        "partly": [object_id("partly", "1")],
        "settled": [object_id("settled", "1")],
        "tried": [object_id("tried", "1")],
        "fixed": [object_id("fixed", "1")],
    }
    # What is done counts, and so does what is bad of it: the budget judges the dataset that would become live.
    assert (plan.listed, plan.objects("done"), plan.objects("vanished"), plan.known_bad) == (6, 2, 0, 1)
    assert plan.vanished.to_pylist() == []


def test_what_was_looked_into_is_counted_under_its_modality() -> None:
    plan = plan_of([("a", "1"), ("b", "2"), ("c", "1"), ("d", "1")], [("b", "1")])
    told = plan.looked_into(["image", "text", "image"])
    assert told.counts["new"] == {"image": Count(objects=2, size=20), "unread": Count(objects=1, size=10)}
    assert told.counts["changed"] == {"text": Count(objects=1, size=10)}
    assert plan.counts["new"] == {"unread": Count(objects=3, size=30)}


URIS = st.sampled_from(["a", "b", "c", "ü'\"%", "d\0e"])
OBJECTS = st.tuples(URIS, st.sampled_from(["1", "2", "3"]))
FACTS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["good", "outdated", "bad", "settled"]),
        "modality": st.sampled_from(["image", "audio", "video"]),
        "workload": st.sampled_from(["w", "other"]),
    }
)


@settings(deadline=None, max_examples=60)  # a comparison takes 20 ms
@given(st.lists(OBJECTS, max_size=8), st.lists(st.tuples(OBJECTS, FACTS), max_size=12))
def test_any_comparison_is_that_of_a_loop_over_sets(listed, already) -> None:
    facts = []
    for one, fact in already:
        more = {"settled": fact["kind"] != "bad", "bad": fact["kind"] in ("bad", "settled")}
        more["outdated"] = fact["kind"] == "outdated"
        facts += known(one, **more, modality=fact["modality"], workload=fact["workload"])
    plan = plan_of(listed, [], facts=facts)
    first = dict(reversed(listed))
    ids = {uri: {object_id(*one) for one, _ in already if one[0] == uri} for uri, _ in listed}
    settled = {object_id(*one) for one, fact in already if fact["kind"] != "bad"}
    videos = {object_id(*one) for one, fact in already if fact["modality"] == "video"}
    outdated = {
        name
        for name, fact in ((object_id(*one), fact) for one, fact in already)
        if fact["kind"] == "outdated" and (fact["modality"] == "video" or name not in videos)
    }
    bad = {object_id(*one) for one, fact in already if fact["kind"] in ("bad", "settled")}
    named = {uri: object_id(uri, version) for uri, version in first.items()}
    finished = {uri for uri, name in named.items() if name in settled - outdated}
    assert done(plan) == {uri: sorted(ids[uri]) for uri in named if uri not in finished}
    changed = {uri for uri in named if uri not in finished and ids[uri] & settled}
    assert (plan.objects("done"), plan.objects("changed"), plan.listed) == (len(finished), len(changed), len(first))
    assert sum(plan.outdated.values()) == len({uri for uri, name in named.items() if name in outdated})
    assert plan.known_bad == len({uri for uri in finished if named[uri] in bad})
    gone = {one[0] for one, fact in already if fact["workload"] == "w"} - set(first)
    assert plan.objects("vanished") == len(gone)
    assert plan.vanished.to_pylist() == sorted({object_id(*one) for one, _ in already if one[0] in gone})


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder where temporary files of this test lie."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_plan_is_mapped_from_files_that_nobody_has_to_delete(scratch: Path) -> None:
    plan = plan_of([(f"u{index}", "2") for index in range(200_000)], [("u0", "1"), ("gone", "1")])
    assert list(scratch.iterdir()) == []
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(scratch) in line]
    assert mapped
    assert all(line.endswith("(deleted)") for line in mapped)
    assert (plan.todo["uri"][199_999].as_py(), plan.todo["replaces"][0].as_py()) == ("u199999", [object_id("u0", "1")])
    assert plan.vanished.to_pylist() == [object_id("gone", "1")]


def test_nothing_stays_on_disk_when_the_listing_fails_and_its_error_comes_out_as_it_is(scratch: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from listing(("a", "1"))
        assert list(scratch.iterdir())
        raise ConnectionResetError("the bucket is gone")

    with pytest.raises(ConnectionResetError, match="the bucket is gone"):
        make_plan(workload(), laptop(), listed=broken(), known=[])
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_a_comparison_larger_than_its_memory_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a million objects take 120 MB on either side as strings alone."""
    monkeypatch.setattr(compare, "_MEMORY", "64MB")
    number = 500_000
    uris = [f"s3://bucket/a/folder/with/a/long/name/{index:08d}/photo.jpg" for index in range(number)]
    plan = plan_of([(uri, "2") for uri in uris], [(uri, "1") for uri in reversed(uris)])
    assert plan.objects("changed") == number
    for index in (0, number // 3, number - 1):
        assert plan.todo["uri"][index].as_py() == uris[index]
        assert plan.todo["replaces"][index].as_py() == [object_id(uris[index], "1")]


def test_a_full_disk_is_said_and_nothing_stays(tmp_path: Path) -> None:
    """Real: a file system of 8 MB, which only the child sees."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not to be had here")
    child = tmp_path / "child.py"
    child.write_text(
        dedent("""
        import os
        import pyarrow as pa
        from raycluster.compare import KNOWN, compare
        from raycluster.errors import RayclusterError
        from raycluster.row import OBJECT

        def listed():
            for start in range(0, 10**6, 10_000):
                rows = [{"uri": f"{one:x}" * 9, "version": "1", "size": 1} for one in range(start, start + 10_000)]
                yield from pa.Table.from_pylist(rows, OBJECT).to_batches()

        try:
            compare(listed(), [], workload="w")
        except RayclusterError as error:
            print(error, os.listdir(os.environ["TMPDIR"]))
        """)
    )
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size=8m none {small} && TMPDIR={small} {sys.executable} {child}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(
        [*unshare, "sh", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert f"cannot compare the source with what is known, in {small}/raycluster-plan-" in ended.stdout
    assert "fix: free space there" in ended.stdout
    assert ended.stdout.endswith("[]\n")


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
@pytest.mark.parametrize("objects", [0, 1, 7, 100, 5000, 20_011])
def test_shards_hold_every_object_once(objects: int, sequential: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster.plan._DEALT_OBJECTS", 3000)
    plan = plan_of([(f"u{index}", "1") for index in range(objects)], [])
    dealt = [uri for shard in shards(plan, sequential=sequential) for uri in shard["uri"].to_pylist()]
    assert sorted(dealt) == sorted(plan.todo["uri"].to_pylist())
    assert not sequential or dealt == plan.todo["uri"].to_pylist()
    sizes = [shard.num_rows for shard in shards(plan, sequential=sequential)]
    if objects >= 5000:  # a worker's first is a small one, where the others are large
        workers = plan.pools[0].actors
        assert set(sizes[:workers]) == {32}
        assert min(sizes[workers:]) > 4 * 32
        del sizes[:workers]
    assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("large", ["in number", "in bytes"])
def test_beyond_a_number_of_shards_they_grow(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster.plan._MOST_SHARDS", 50)
    monkeypatch.setattr("raycluster.plan._SHARD_OBJECTS", 10 if large == "in number" else 10_000)
    monkeypatch.setattr("raycluster.plan._SHARD_BYTES", 100 if large == "in bytes" else 1 << 30)
    listed = [(f"u{index}", "1") for index in range(1000)]
    few = plan_of(listed[:400], [])
    assert len(list(shards(few, sequential=False))) == 40
    many = plan_of(listed, [])
    dealt = [shard["uri"].to_pylist() for shard in shards(many, sequential=False)]
    assert [len(one) for one in dealt] == [20] * 50
    assert len({uri for one in dealt for uri in one}) == 1000
    # rows that travel are held in memory, a shard at a time
    two = replace(many, pools=many.pools * 2)
    monkeypatch.setattr("raycluster.plan._TRAVELLING_OBJECTS", 10)
    assert len(list(shards(two, sequential=False))) == 100


def test_neighbours_are_dealt_to_different_shards() -> None:
    plan = plan_of([(f"{index:03d}", "1") for index in range(100)], [])
    dealt = [shard["uri"].to_pylist() for shard in shards(plan, sequential=False)]
    assert all(int(right) - int(left) == len(dealt) for shard in dealt for left, right in pairwise(shard))
