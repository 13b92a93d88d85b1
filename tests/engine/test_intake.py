"""Posted batches become runs: coalesced, one at a time, durable, tried again apart; then for real, on a real Ray."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from PIL import Image

from raycluster.declare.workload import dump, parse_workload
from raycluster.engine import intake
from raycluster.engine.intake import Intake, declaration_for, declarer, name_for
from raycluster.engine.prepare import schema_of
from raycluster.errors import Busy, InvalidUse, NotFound
from raycluster.lake.batches import Batch
from raycluster.lake.commit import Change, commit
from raycluster.lake.deletion import Wanted, delete
from raycluster.lake.lake import Lake
from raycluster.stage import TRUSTED

# Stands in for `raycluster run`: it does what the words of its uris say, as the one whose name they hold.
STAND_IN = """
import json, os, signal, sys, time
from dataclasses import asdict
from datetime import datetime, UTC
from raycluster.engine.summary import Summary
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
import yaml
file, lake, run_id = sys.argv[2], Lake(sys.argv[4]), sys.argv[6]
declared = yaml.safe_load(open(file))
source = declared["spec"]["source"]["posted"]
uris = list(lake.batches().uris(source["dataset"], source["run"]))
name, folder = declared["metadata"]["name"], os.environ["SEEN"]
def tell(status, message=""):
    summary = Summary(run_id=run_id, workload=name, dataset="d", status=status, message=message)
    now = datetime.now(UTC)
    lake.runs().put(Run(run_id=run_id, workload=name, dataset="d", status=status, started_at=now,
                        finished_at=None if status == "running" else now, summary=asdict(summary)))
    return json.dumps(asdict(summary))
def note(what):
    with open(f"{folder}/{what}", "a") as notes:
        notes.write(json.dumps([run_id, sorted(uris)]) + "\\n")
if any("early" in uri for uri in uris):
    print(json.dumps({"error": {"code": "invalid", "message": "it is wrong", "fix": ""}}))
    note("began"); sys.exit(2)
def stop(*_):
    print(tell("stopped", "stopped: 0 of 1 objects are kept"))
    sys.stdout.flush(); note("stopped"); os._exit(1)
signal.signal(signal.SIGTERM, stop)
tell("running")
note("began")
if any("wait" in uri for uri in uris):
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.02)
if any("crash" in uri for uri in uris):
    os.kill(os.getpid(), signal.SIGKILL)
if any("fails" in uri for uri in uris):
    tell("failed", "the store is away")
    print(json.dumps({"error": {"code": "lake", "message": "the store is away", "fix": ""}}))
    note("ended"); sys.exit(1)
print(tell("done"))
note("ended")
"""


MARKING = {"use": "private_stages:Marking", "timeout": "2s"}


def workload(corpus: Path, name: str = "w", encode: Sequence[Any] = (MARKING,), **check: Any) -> str:
    return dump(
        parse_workload(
            dedent(f"""
            apiVersion: raycluster/v1
            kind: Workload
            metadata: {{name: {name}, labels: {{team: t}}}}
            spec:
              source: {{files: {{paths: ["{corpus}"], max_bytes: 1MB}}}}
              decode: {{text: {{}}, image: {{size: 32}}}}
              encode: {json.dumps(encode)}
              check: {json.dumps(check)}
              sink: {{dataset: d, index: []}}
            """)
        )
    )


def declare(lake: Lake, text: str) -> None:
    """Leave a dataset as a run of this workload does that has found nothing."""
    work = parse_workload(text)
    table = lake.table("d")
    table.create_or_check(schema_of(work))
    for fence in ("take", "release"):
        told = {"digest": "1", "yaml": text} if fence == "take" else {}
        change = Change(run_id="r0", workload=work.name, fence=fence, declaration=told)  # type: ignore[arg-type]
        table.set_live(commit(table, change).version)


def land(lake: Lake, batch_id: str, *uris: str, workload: str = "w", run_id: str = "") -> str:
    objects = tuple({"uri": uri} for uri in uris or (f"s3://b/{batch_id}",))
    lake.batches().claim(
        Batch(
            batch_id=batch_id,
            dataset="d",
            workload=workload,
            by="ann",
            at=datetime.now(UTC),
            digest="",
            objects=objects,
            run_id=run_id,
        )
    )
    return batch_id


def soon(holds: Callable[[], Any], seconds: float = 30) -> Any:
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "private_stages,filling_stages")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """What the stand-in has noted: each run with its uris."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setattr(intake, "_COMMAND", STAND_IN)
    monkeypatch.setattr(intake, "_PAUSE_SECONDS", 0.01)

    def noted(what: str) -> list[Any]:
        file = tmp_path / "seen" / what
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return noted


@pytest.fixture
def own(lake: Lake, tmp_path: Path, seen: Any) -> Iterator[Intake]:
    declare(lake, workload(tmp_path))
    started = Intake(lake)
    started.start()
    yield started
    started.stop()


def state(lake: Lake, batch_id: str) -> str:
    return lake.batches().require(batch_id).state


def test_a_run_is_told_of_before_it_begins_and_takes_the_batch(own: Intake, lake: Lake, seen: Any) -> None:
    run_id = own.submit("d", land(lake, "wait"))
    assert own.submit("d", "wait") == run_id
    assert lake.runs().get(run_id).status in ("queued", "running")
    assert lake.runs().get(run_id).workload == "w-uploads"
    (Path(os.environ["SEEN"]) / "go").touch()
    soon(lambda: state(lake, "wait") == "done")
    assert lake.runs().get(run_id).status == "done"
    assert seen("ended") == [[run_id, ["s3://b/wait"]]]
    assert own.submit("d", "wait") == run_id  # it is done, and not run again
    assert len(seen("began")) == 1


def test_what_lands_during_a_run_goes_into_one_run_after_it(own: Intake, lake: Lake, seen: Any) -> None:
    first = own.submit("d", land(lake, "wait"))
    soon(lambda: seen("began"))
    later = {own.submit("d", land(lake, f"b{number}")) for number in range(4)}
    assert len(later) == 1
    assert later != {first}
    assert lake.runs().get(later.copy().pop()).status == "queued"
    (Path(os.environ["SEEN"]) / "go").touch()
    soon(lambda: state(lake, "b3") == "done")
    assert [uris for _, uris in seen("ended")] == [["s3://b/wait"], [f"s3://b/b{number}" for number in range(4)]]


@pytest.mark.slow
def test_a_batch_that_kills_its_run_is_given_up_after_three_and_takes_no_other_with_it(
    own: Intake, lake: Lake, seen: Any
) -> None:
    own.submit("d", land(lake, "wait"))
    soon(lambda: seen("began"))
    together = own.submit("d", land(lake, "crash"))
    assert own.submit("d", land(lake, "good")) == together
    (Path(os.environ["SEEN"]) / "go").touch()
    soon(lambda: state(lake, "crash") == "failed" and state(lake, "good") == "done")
    assert "SIGKILL" in lake.batches().require("crash").message
    tried = [uris for _, uris in seen("began") if "s3://b/crash" in uris]
    assert tried == [["s3://b/crash", "s3://b/good"], ["s3://b/crash"], ["s3://b/crash"]]
    run = lake.runs().get(together)
    assert run.status == "failed"
    last = lake.batches().require("good").run_id
    assert f"run {last} goes on" in run.summary["message"]
    assert "SIGKILL" in lake.runs().get(lake.batches().require("crash").run_id).summary["message"]


def test_what_can_never_work_is_not_tried_again(own: Intake, lake: Lake, seen: Any) -> None:
    run_id = own.submit("d", land(lake, "early"))
    soon(lambda: state(lake, "early") == "failed")
    run = lake.runs().get(run_id)
    assert (run.status, run.summary["message"]) == ("failed", "it is wrong")
    assert run.finished_at is not None
    assert len(seen("began")) == 1
    assert own.submit("d", "early") == run_id


def test_a_declaration_that_was_rolled_back_is_missed_by_name(own: Intake, lake: Lake, seen: Any) -> None:
    run_id = own.submit("d", land(lake, "good", workload="gone"))
    soon(lambda: state(lake, "good") == "failed")
    assert "'gone'" in lake.batches().require("good").message
    assert lake.runs().get(run_id).status == "failed"
    assert seen("began") == []


@pytest.mark.slow
def test_what_may_pass_is_tried_three_times(own: Intake, lake: Lake, seen: Any) -> None:
    own.submit("d", land(lake, "fails"))
    soon(lambda: state(lake, "fails") == "failed")
    assert len(seen("began")) == 3
    assert lake.batches().require("fails").message == "the store is away"


def test_a_stop_ends_the_run_and_the_next_start_goes_on(own: Intake, lake: Lake, seen: Any) -> None:
    first = own.submit("d", land(lake, "wait"))
    soon(lambda: seen("began"))
    queued = own.submit("d", land(lake, "next"))
    own.stop()
    assert [run for run, _ in seen("stopped")] == [first]
    assert (state(lake, "wait"), state(lake, "next")) == ("landed", "landed")
    assert lake.runs().get(first).status == "stopped"
    assert lake.runs().get(queued).status == "queued"
    with pytest.raises(Busy):
        own.submit("d", land(lake, "late"))
    (Path(os.environ["SEEN"]) / "go").touch()
    again = Intake(lake)
    again.start()
    try:
        soon(lambda: {state(lake, one) for one in ("wait", "next", "late")} == {"done"})
    finally:
        again.stop()
    # the run that was told of and never began takes what the other one has left, too
    assert {lake.batches().require(one).run_id for one in ("wait", "next", "late")} == {queued}
    assert lake.runs().get(queued).status == "done"
    assert lake.runs().get(first).summary["message"].count(f"run {queued} goes on") == 1


def test_a_run_that_was_done_when_the_server_died_is_not_repeated(own: Intake, lake: Lake, seen: Any) -> None:
    run_id = own.submit("d", land(lake, "good"))
    soon(lambda: state(lake, "good") == "done")
    own.stop()
    lake.batches().put(Batch(**{**lake.batches().require("good").__dict__, "state": "landed"}))
    again = Intake(lake)
    again.start()
    again.stop()
    assert (state(lake, "good"), lake.batches().require("good").run_id) == ("done", run_id)
    assert len(seen("began")) == 1


def test_a_server_that_is_killed_takes_its_run_with_it(lake: Lake, tmp_path: Path, seen: Any) -> None:
    declare(lake, workload(tmp_path))
    land(lake, "wait")
    server = dedent(f"""
        import time
        from raycluster.engine import intake
        from raycluster.lake.lake import Lake
        dies_with_us = intake._COMMAND.partition("; from")[0]
        intake._COMMAND = dies_with_us + chr(10) + open({str(tmp_path / "stand_in.py")!r}).read()
        mine = intake.Intake(Lake({lake.uri!r}))
        mine.start()
        time.sleep(600)
    """)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    process = subprocess.Popen([sys.executable, "-c", server])
    try:
        soon(lambda: seen("began"))
    finally:
        process.kill()
        process.wait()
    soon(lambda: seen("stopped"))
    assert state(lake, "wait") == "landed"


def test_other_datasets_batches_are_not_found(own: Intake, lake: Lake) -> None:
    with pytest.raises(NotFound, match="no batch 'none'"):
        own.submit("d", "none")
    with pytest.raises(NotFound, match="not posted to 'other'"):
        own.submit("other", land(lake, "good"))


def test_the_declaration_is_the_datasets_own_with_another_source(lake: Lake, tmp_path: Path) -> None:
    declare(lake, workload(tmp_path, on_bad="fail", budget={"rate": 0.01}))
    made = parse_workload(declaration_for(lake, "d", "w", "r1"))
    assert (made.name, made.labels, made.sink.dataset) == ("w-uploads", {"team": "t"}, "d")
    assert (made.source.lake, made.source.dataset, made.source.run, made.source.max_bytes) == (
        lake.uri,
        "d",
        "r1",
        1_000_000,
    )
    assert (made.check.on_bad, made.check.budget.rate) == ("quarantine", None)
    assert [stage.name for stage in made.decode] == ["text", "image"]
    assert name_for("x" * 63) == "x" * 55 + "-uploads"
    assert name_for("x" * 54 + "-yyyyyyyy") == "x" * 54 + "-uploads"


def test_who_declares_is_clear_or_asked(lake: Lake, tmp_path: Path) -> None:
    lake.table("d").create_or_check(schema_of(parse_workload(workload(tmp_path))))
    with pytest.raises(InvalidUse, match="no workload") as caught:
        declarer(lake, "d")
    assert caught.value.where == "workload"
    declare(lake, workload(tmp_path))
    declare(lake, declaration_for(lake, "d", "w", "r1"))
    assert declarer(lake, "d") == declarer(lake, "d", "w") == "w"  # not by what posted objects were run with
    declare(lake, workload(tmp_path, name="my-uploads"))
    with pytest.raises(InvalidUse, match="written by my-uploads, w"):
        declarer(lake, "d")
    assert declarer(lake, "d", "my-uploads") == "my-uploads"
    with pytest.raises(NotFound, match="'w-uploads'"):
        declarer(lake, "d", "w-uploads")


@pytest.mark.parametrize("trusted_now", ["", "private_stages_2", "private"])
def test_a_private_stage_runs_on_no_dataset_s_word(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted_now: str
) -> None:
    declare(lake, workload(tmp_path))
    monkeypatch.setenv(TRUSTED, trusted_now)
    for ask in (lambda: declarer(lake, "d"), lambda: declaration_for(lake, "d", "w", "r1")):
        with pytest.raises(InvalidUse, match="'private_stages:Marking', whose code this server") as caught:
            ask()
        assert f"{TRUSTED}=private_stages" in caught.value.fix


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def real(lake: Lake, address: str) -> Iterator[Intake]:
    started = Intake(lake, address=address)
    yield started
    started.stop()


def posted(lake: Lake, batch_id: str, **files: bytes) -> str:
    named = [(name.replace("_", "."), io.BytesIO(content)) for name, content in files.items()]
    return land(lake, batch_id, *lake.batches().land("d", named))


def names(lake: Lake) -> set[str]:
    found = lake.table("d").open("live").to_table(columns=["uri"])["uri"].to_pylist()
    return {uri.rpartition("/")[2] for uri in found}


def command(lake: Lake, address: str, *more: str, verb: str = "run") -> dict[str, Any]:
    given = [sys.executable, "-m", "raycluster", verb, *more, "--lake", lake.uri, "--address", address, "--json"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=200)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_runs_beside_the_declared_workload(real: Intake, lake: Lake, address: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("one", "two"):
        (corpus / f"{name}.txt").write_text(f"{name} of the words that lie in the corpus\n")
    file = tmp_path / "w.yaml"
    file.write_text(workload(corpus, budget={"rate": 0.4}))
    first = command(lake, address, str(file))
    assert (first["status"], first["rows"]) == ("done", 2)

    own = posted(lake, "b1", red_png=png("red"), three_txt=b"three words were posted\n", broken_png=png("red")[:60])
    run_id = real.submit("d", own)
    soon(lambda: state(lake, own) != "landed", 200)
    run = lake.runs().get(run_id)
    assert (run.status, run.summary["objects"], run.summary["rows"], run.summary["quarantined"]) == ("done", 3, 2, 1)
    assert (run.workload, run.version) == ("w-uploads", lake.table("d").live())
    assert run.summary["cost_usd"] > 0
    assert names(lake) == {"one.txt", "two.txt", "red.png", "three.txt"}
    assert [row["uri"].rpartition("/")[2] for row in lake.quarantine("d").rows()] == ["broken.png"]

    # the declared workload goes on as if nothing had been: nothing vanishes, not even with --prune
    (corpus / "four.txt").write_text("four is new in the corpus\n")
    second = command(lake, address, str(file), "--prune")
    assert (second["status"], second["objects"], second["rows"], second["skipped"]) == ("done", 3, 1, 2)
    assert (second["replaced"], second["quarantined"]) == (0, 0)
    assert names(lake) == {"one.txt", "two.txt", "four.txt", "red.png", "three.txt"}

    # what is deleted stays away: from the corpus and from what was posted
    gone = delete(lake, "d", Wanted(by="ann", filter="uri LIKE '%/two.txt' OR uri LIKE '%/three.txt'"))
    assert (gone.objects, gone.rows, gone.live) == (2, 2, True)
    third = command(lake, address, str(file))
    assert (third["status"], third["objects"], third["rows"], third["skipped"]) == ("done", 3, 0, 3)
    assert names(lake) == {"one.txt", "four.txt", "red.png"}
    (corpus / "two.txt").write_text("two has changed since, and is another object\n")
    assert command(lake, address, str(file))["rows"] == 1
    assert "two.txt" in names(lake)

    # a second batch lists only itself
    other = posted(lake, "b2", five_txt=b"five came later\n")
    real.submit("d", other)
    soon(lambda: state(lake, other) != "landed", 200)
    assert lake.runs().get(lake.batches().require(other).run_id).summary["objects"] == 1


@pytest.mark.slow
def test_a_replay_finds_what_was_posted(real: Intake, lake: Lake, address: str, tmp_path: Path) -> None:
    declare(lake, workload(tmp_path / "none"))
    own = posted(lake, "b1", sad_txt=b"RAISE it says\n", good_txt=b"good words\n")
    real.submit("d", own)
    soon(lambda: state(lake, own) != "landed", 200)
    posted(lake, "b2", other_txt=b"other words\n")
    real.submit("d", "b2")
    soon(lambda: state(lake, "b2") != "landed", 200)
    (bad,) = lake.quarantine("d").rows()
    assert (bad["code"], bad["attempts"], bad["workload"]) == ("model_error", 1, "w-uploads")
    again = command(lake, address, "d", "--workload", "w-uploads", verb="replay")
    assert (again["workload"], again["objects"], again["quarantined"]) == ("w-uploads", 3, 1)
    (bad,) = lake.quarantine("d").rows()
    assert (bad["uri"].rpartition("/")[2], bad["attempts"]) == ("sad.txt", 2)


@pytest.mark.slow
def test_a_new_encoder_reaches_what_was_posted_before(real: Intake, lake: Lake, address: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "blue.png").write_bytes(png("blue"))
    file, counting, colours = tmp_path / "w.yaml", {"use": "filling_stages:Counting"}, {"use": "filling_stages:Colours"}
    file.write_text(workload(corpus, encode=[counting]))
    assert command(lake, address, str(file))["rows"] == 1
    own = posted(lake, "b1", red_png=png("red"))
    real.submit("d", own)
    soon(lambda: state(lake, own) != "landed", 200)
    file.write_text(workload(corpus, encode=[counting, colours]))
    assert command(lake, address, str(file))["filled"] == 1  # its own
    later = posted(lake, "b2", lime_png=png("lime"))
    real.submit("d", later)
    soon(lambda: state(lake, later) != "landed", 200)
    run = lake.runs().get(lake.batches().require(later).run_id)
    assert (run.status, run.summary["filled"], run.summary["rows"], run.summary["quarantined"]) == ("done", 1, 1, 0)
    rows = lake.table("d").open("live").to_table(columns=["uri", "colours"]).to_pylist()
    found = {row["uri"].rpartition("/")[2]: row["colours"] for row in rows}
    assert found == {"blue.png": [0, 0, 255], "red.png": [255, 0, 0], "lime.png": [0, 255, 0]}
