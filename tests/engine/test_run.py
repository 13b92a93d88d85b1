"""Real runs on a real Ray: what is new, changed, vanished, bad, deadly or too much."""

import threading
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import ray.data
from PIL import Image
from ray.data.checkpoint import CheckpointConfig

from raycluster.account.terms import Terms
from raycluster.declare.workload import Workload, parse_workload
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.engine.summary import Summary
from raycluster.errors import InvalidUse, NotFound, RolledBack, RunFailed, Unplaceable
from raycluster.lake.deletion import Wanted, delete
from raycluster.lake.lake import Lake
from raycluster.lake.rollback import roll_back

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(300)]


def workload(
    corpus: Path,
    *,
    check: str = "{}",
    encode: str = "[{use: 'private_stages:Marking', timeout: 2s}]",
    text: str = "{chunk: 200}",
    only: str = "*",
) -> Workload:
    return parse_workload(
        dedent(f"""
        apiVersion: raycluster/v1
        kind: Workload
        metadata: {{name: w, labels: {{team: t}}}}
        spec:
          source: {{files: {{paths: ["{corpus}"], include: ["{only}"]}}}}
          decode: {{text: {text}, image: {{size: 32}}}}
          encode: {encode}
          check: {check}
          sink: {{dataset: d}}
        """)
    )


def run(work: Workload, lake: Lake, *allow: str, **terms) -> Summary:
    return execute(prepare(work, lake), lake, terms=Terms(allow=frozenset(allow), **terms))


def ids(lake: Lake, version: int | str = "live") -> list[str]:
    return sorted(lake.table("d").open(version).to_table(columns=["id"])["id"].to_pylist())


def marks(lake: Lake) -> dict[str, str]:
    rows = lake.table("d").open("live").to_table(columns=["uri", "mark"]).to_pylist()
    return {row["uri"].rsplit("/", 1)[1]: row["mark"] for row in rows}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(12):
        (folder / f"t{index:02d}.txt").write_text(f"word{index} and some more of them, as in every sentence.\n")
    for index in range(3):
        Image.new("RGB", (64, 48), (80 * index, 10, 200)).save(folder / f"p{index}.png")
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_a_run_reads_only_what_is_new_or_changed(corpus: Path, lake: Lake) -> None:
    first = run(workload(corpus), lake)
    assert (first.status, first.objects, first.rows, first.quarantined, first.skipped) == ("done", 15, 15, 0, 0)
    assert marks(lake)["t05.txt"] == "word5"
    before = ids(lake)

    again = run(workload(corpus), lake)
    assert (again.rows, again.skipped, ids(lake)) == (0, 15, before)

    (corpus / "t05.txt").write_text("changed text, longer than it was before.\n")
    (corpus / "new.txt").write_text("fresh words arrive.\n")
    (corpus / "t00.txt").unlink()
    third = run(workload(corpus), lake)
    assert (third.objects, third.rows, third.skipped, third.replaced) == (15, 2, 13, 1)
    assert marks(lake)["t05.txt"] == "changed"
    assert "t00.txt" in marks(lake)  # what vanished stays until it is pruned
    assert len(ids(lake)) == 16

    pruned = run(workload(corpus), lake, "prune")
    assert (pruned.rows, pruned.replaced, len(ids(lake))) == (0, 1, 15)


def test_what_another_decoder_made_is_made_again_and_nothing_else(corpus: Path, tmp_path: Path, lake: Lake) -> None:
    for index in range(12):
        (corpus / f"t{index:02d}.txt").write_text(f"word{index} and a few more of them in a sentence. " * 6)
    assert run(workload(corpus), lake).rows == 15
    before = ids(lake)

    some = run(workload(corpus, text="{chunk: 32}", only="t0*"), lake)  # as far as a run came that was stopped
    assert (some.objects, some.skipped, some.replaced) == (10, 0, 10)
    changed = workload(corpus, text="{chunk: 32, timeout: 50s}")
    plan = prepare(changed, lake)
    assert (plan.objects("changed"), plan.objects("done")) == (2, 13)
    assert plan.reasons == ["text objects: 2 to work on again (another decoder made them)"]
    rest = execute(plan, lake)
    assert (rest.skipped, rest.replaced) == (13, 2)
    undisturbed = Lake(str(tmp_path / "undisturbed"))
    run(changed, undisturbed)
    assert ids(lake) == ids(undisturbed)
    assert len(ids(lake)) > 2 * len(before)
    assert run(changed, lake).skipped == 15


def test_ids_are_the_same_in_every_lake(corpus: Path, tmp_path: Path) -> None:
    one, two = Lake(str(tmp_path / "one")), Lake(str(tmp_path / "two"))
    run(workload(corpus), one)
    run(workload(corpus), two)
    assert ids(one) == ids(two)


def test_bad_media_land_in_quarantine_and_nothing_else_does(corpus: Path, lake: Lake) -> None:
    (corpus / "empty.png").write_bytes(b"")
    (corpus / "half.png").write_bytes((corpus / "p1.png").read_bytes()[:60])
    (corpus / "raise.txt").write_text("please RAISE an error.\n")
    summary = run(workload(corpus), lake)
    assert (summary.rows, summary.quarantined, summary.objects) == (15, 3, 18)
    found = {row["uri"].rsplit("/", 1)[1]: (row["code"], row["stage"]) for row in lake.quarantine("d").rows()}
    assert found == {
        "empty.png": ("empty", "read"),
        "half.png": ("truncated", "image"),
        "raise.txt": ("model_error", "private_stages"),
    }
    again = run(workload(corpus), lake)
    assert (again.skipped, again.quarantined) == (18, 0)


def test_a_modality_nobody_asked_for_is_said_so(corpus: Path, lake: Lake) -> None:
    (corpus / "table.csv").write_text("time,temperature\n" + "\n".join(f"{i},{i * 0.5}" for i in range(50)))
    summary = run(workload(corpus), lake)
    assert summary.codes == {"unsupported": 1}
    assert "decodes only text, image" in lake.quarantine("d").rows()[0]["message"]


def test_what_is_bad_is_tried_again_when_the_declaration_changes(corpus: Path, lake: Lake) -> None:
    images_only = parse_workload(
        "{apiVersion: raycluster/v1, kind: Workload, metadata: {name: w, labels: {team: t}}, spec: {source: "
        f"{{files: {{paths: ['{corpus}']}}}}, decode: {{image: {{size: 32}}}}, sink: {{dataset: d, index: []}},"
        " encode: [{use: 'private_stages:Marking'}]}}"
    )
    assert run(images_only, lake).codes == {"unsupported": 12}
    second = run(workload(corpus), lake)
    assert (second.rows, second.skipped, len(ids(lake))) == (12, 3, 15)
    assert run(workload(corpus), lake).skipped == 15


def test_a_bad_object_that_is_gone_no_longer_counts(corpus: Path, lake: Lake) -> None:
    work = workload(corpus, check="{budget: {count: 0}}")
    (corpus / "bad.png").write_bytes(b"")
    with pytest.raises(RunFailed):
        run(work, lake)
    (corpus / "bad.png").unlink()
    assert run(work, lake).status == "done"
    assert len(ids(lake)) == 15


def test_an_object_that_becomes_bad_leaves_the_dataset(corpus: Path, lake: Lake) -> None:
    run(workload(corpus), lake)
    (corpus / "t00.txt").write_bytes(b"")
    summary = run(workload(corpus), lake)
    assert (summary.quarantined, summary.replaced) == (1, 1)
    assert "t00.txt" not in marks(lake)


def test_pruning_takes_only_what_this_workload_brought(corpus: Path, lake: Lake, tmp_path: Path) -> None:
    run(workload(corpus), lake)
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.txt").write_text("other words come.\n")
    theirs = replace(workload(other), name="theirs")
    run(theirs, lake, "prune")
    assert len(ids(lake)) == 16
    (other / "o.txt").unlink()
    with pytest.raises(InvalidUse, match="lists nothing"):
        run(theirs, lake, "prune")


def test_live_does_not_show_another_workloads_unfinished_work(corpus: Path, lake: Lake, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.txt").write_text("other words come.\n")
    theirs = replace(workload(other), name="theirs")
    run(theirs, lake)
    shown = lake.table("d").live()
    (corpus / "bad.png").write_bytes(b"")
    with pytest.raises(RunFailed):
        run(workload(corpus, check="{budget: {count: 0}}"), lake)
    (other / "p.txt").write_text("more words come.\n")
    summary = run(theirs, lake)
    assert (summary.status, lake.table("d").live()) == ("done", shown)
    assert "unfinished work" in summary.message
    run(workload(corpus), lake)
    assert len(ids(lake)) == 17


@pytest.mark.slow
def test_a_crash_a_kill_and_a_hang_cost_their_objects_only(corpus: Path, lake: Lake) -> None:
    for name, text in {"segfault": "a SEGFAULT here", "killed": "now KILLED", "hang": "let it HANG"}.items():
        (corpus / f"{name}.txt").write_text(text + "\n")
    summary = run(workload(corpus), lake)
    assert (summary.status, summary.rows, summary.quarantined) == ("done", 15, 3)
    found = {row["uri"].rsplit("/", 1)[1]: row["code"] for row in lake.quarantine("d").rows()}
    assert found == {"segfault.txt": "corrupt", "killed.txt": "out_of_memory", "hang.txt": "timeout"}
    assert {row["stage"] for row in lake.quarantine("d").rows()} == {"private_stages"}


def test_too_many_bad_objects_fail_the_run_and_live_stays(corpus: Path, lake: Lake) -> None:
    work = workload(corpus, check="{budget: {rate: 0.1}}")
    run(work, lake)
    live = lake.table("d").live()
    for index in range(4):
        (corpus / f"bad{index}.png").write_bytes(b"")
    with pytest.raises(RunFailed, match=r"bad.*more than check\.budget allows \(10\.0%\)"):
        run(work, lake)
    assert lake.table("d").live() == live
    assert lake.runs().recent()[0].status == "failed"
    # Nor does running again make them good: they are judged with the dataset that would become live.
    with pytest.raises(RunFailed, match="of 19 objects are bad"):
        run(work, lake)
    assert lake.table("d").live() == live


def test_ray_datas_own_checkpoints_are_refused(corpus: Path, lake: Lake, tmp_path: Path) -> None:
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="object_id", checkpoint_path=str(tmp_path / "checkpoints"))
    try:
        with pytest.raises(InvalidUse, match="loses rows"):
            run(workload(corpus), lake)
    finally:
        context.checkpoint_config = None
    assert not lake.table("d").exists()
    assert run(workload(corpus), lake).rows == 15


def test_what_was_rolled_back_is_not_silently_redone(corpus: Path, lake: Lake) -> None:
    run(workload(corpus), lake)
    before = set(ids(lake))
    (corpus / "late.txt").write_text("late words come.\n")
    run(workload(corpus), lake)
    roll_back(lake, "d", to=None, by="ann", why="late is wrong")
    assert set(ids(lake)) == before
    with pytest.raises(RolledBack, match="late is wrong"):
        run(workload(corpus), lake)
    assert set(ids(lake)) == before
    assert run(workload(corpus), lake, "redo").rows == 1
    assert len(ids(lake)) == 16


def test_a_count_is_a_budget_too(corpus: Path, lake: Lake) -> None:
    (corpus / "bad.png").write_bytes(b"")
    with pytest.raises(RunFailed, match="1 of 16 objects are bad"):
        run(workload(corpus, check="{budget: {count: 0}}"), lake)


def test_on_bad_fail_names_the_object(corpus: Path, lake: Lake) -> None:
    (corpus / "bad.png").write_bytes(b"")
    with pytest.raises(RunFailed, match=r"bad\.png: empty"):
        run(workload(corpus, check="{on_bad: fail}"), lake)
    assert lake.table("d").live() is None


def test_a_stage_that_only_this_process_can_import_is_said_with_what_to_do(
    corpus: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("from private_stages import Marking\nclass Mine(Marking): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunFailed, match="No module named 'only_here'") as caught:
        run(workload(corpus, encode="[{use: 'only_here:Mine'}]"), lake)
    assert "PYTHONPATH" in caught.value.fix


def test_on_bad_drop_records_nothing_but_the_count(corpus: Path, lake: Lake) -> None:
    (corpus / "bad.png").write_bytes(b"")
    summary = run(workload(corpus, check="{on_bad: drop}"), lake)
    assert (summary.quarantined, summary.dropped, summary.codes) == (0, 1, {"empty": 1})
    assert lake.quarantine("d").rows() == []


def test_a_plan_changes_nothing(corpus: Path, lake: Lake) -> None:
    plan = prepare(workload(corpus), lake, peeks=True)
    assert {name: count.objects for name, count in plan.counts["new"].items()} == {"image": 3, "text": 12}
    assert not Path(lake.uri).exists()


def test_what_cannot_be_placed_is_refused_before_anything_is_written(corpus: Path, lake: Lake) -> None:
    work = workload(corpus, encode="[{use: 'private_stages:Marking', needs: {gpu: 1}}]")
    with pytest.raises(Unplaceable, match="1 GPU"):
        run(work, lake)
    assert not Path(lake.uri).exists()


def test_a_missing_path_is_said_before_anything_is_written(tmp_path: Path, lake: Lake) -> None:
    with pytest.raises(InvalidUse, match="nowhere"):
        run(workload(tmp_path / "nowhere"), lake)
    assert not Path(lake.uri).exists()


def test_an_index_on_no_column_is_refused(corpus: Path, lake: Lake) -> None:
    text = "[{column: vectr, kind: ivf_rq}]"
    work = parse_workload(
        f"{{apiVersion: raycluster/v1, kind: Workload, metadata: {{name: w, labels: {{team: t}}}}, spec: {{source: "
        f"{{files: {{paths: ['{corpus}']}}}}, decode: {{text: {{}}}}, sink: {{dataset: d, index: {text}}}}}}}"
    )
    with pytest.raises(InvalidUse, match="vectr"):
        run(work, lake)


def test_nothing_live_is_not_found(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lake.existing("d")


def test_a_stage_with_its_own_actors_makes_a_second_pool_and_the_same_rows(
    corpus: Path, lake: Lake, tmp_path: Path
) -> None:
    (corpus / "raise.txt").write_text("please RAISE an error.\n")
    (corpus / "empty.txt").write_bytes(b"")
    (corpus / "long.txt").write_text("One sentence of some words to fill a chunk. " * 400)
    apart = workload(corpus, encode="[{use: 'private_stages:Marking', actors: 1}]")
    plan = prepare(apart, lake)
    assert [pool.name for pool in plan.pools] == ["text+image", "private_stages"]
    summary = execute(plan, lake)
    assert (summary.objects, summary.quarantined, summary.codes) == (18, 2, {"empty": 1, "model_error": 1})
    together = Lake(str(tmp_path / "together"))
    run(workload(corpus), together)
    assert ids(lake) == ids(together)
    assert marks(lake) == marks(together)


@pytest.mark.slow
def test_a_crash_in_a_later_pool_costs_its_object_only(corpus: Path, lake: Lake) -> None:
    (corpus / "segfault.txt").write_text("a SEGFAULT here\n")
    summary = run(workload(corpus, encode="[{use: 'private_stages:Marking', actors: 1}]"), lake)
    assert (summary.status, summary.rows, summary.codes) == ("done", 15, {"corrupt": 1})


def test_others_see_how_far_a_run_has_come_while_it_goes_on(corpus: Path, lake: Lake) -> None:
    work = workload(corpus, encode="[{use: 'private_stages:Slow'}]")
    runs, told = lake.runs(), []
    over = threading.Event()

    def watch() -> None:  # as a server does: it knows nothing but the lake
        while not over.wait(0.2):
            told.extend(lake.progress().get(one.run_id) for one in runs.recent(status="running"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        summary = run(work, lake)
    finally:
        over.set()
        watcher.join()
    found = [one for one in told if one and one.get("stages")]
    assert found, told
    assert {one["objects"] for one in found} == {15}
    assert [one["done"] for one in found] == sorted(one["done"] for one in found)
    assert found[-1]["stages"]["text"]["rows"] > 0
    assert found[-1]["stages"]["text"]["rate"] > 0
    assert lake.progress().get(summary.run_id) is None


def test_what_is_deleted_while_a_run_has_it_in_hand_does_not_come_back(corpus: Path, lake: Lake) -> None:
    run(workload(corpus), lake)
    plan = prepare(workload(corpus, text="{chunk: 100}"), lake)  # another decoder: all texts are worked on again
    assert plan.todo.num_rows == 12
    gone = delete(lake, "d", Wanted(by="ann", filter="uri LIKE '%t05.txt' OR uri LIKE '%p1.png'"))
    assert (gone.objects, gone.live) == (2, True)
    done = execute(plan, lake)
    assert (done.status, done.rows) == ("done", 12)
    found = set(marks(lake))
    assert len(found) == 13
    assert not found & {"t05.txt", "p1.png"}
    again = run(workload(corpus, text="{chunk: 100}"), lake)
    assert (again.rows, again.skipped, again.objects) == (0, 15, 15)


def test_a_run_goes_by_the_id_that_was_told_before(corpus: Path, lake: Lake) -> None:
    done = execute(replace(prepare(workload(corpus), lake), run_id="told-before"), lake)
    assert (done.run_id, lake.runs().get("told-before").status) == ("told-before", "done")
    assert lake.table("d").last_runs()["w"]["run_id"] == "told-before"
