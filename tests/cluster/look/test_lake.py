"""Lakes that cannot be used, each for one reason, on a disk and on a real S3 server that misbehaves."""

import subprocess
import time
from pathlib import Path

import boto3
import pytest
from fronting import Front

from raycluster.lake import trial
from raycluster.lake.lake import Lake


def contents(store: Front, lake: str) -> list[str]:
    """List what lies in a lake; others have theirs in the same bucket."""
    client = boto3.client("s3", endpoint_url=store.url)
    return [one["Key"] for one in client.list_objects_v2(Bucket="lake", Prefix=lake).get("Contents", [])]


def worst(found: list) -> tuple[str, str, str]:
    return found[0].level, found[0].what, found[0].fix


def test_a_store_that_can_be_used_is_left_as_it_was(look, store: Front) -> None:
    found = look("lake", lake="s3://lake/here")
    assert {one.level for one in found} <= {"ok", "warning"}  # a busy machine makes it slow
    assert all(step in str(found) for step in ("list", "write", "read", "commit", "delete"))
    assert contents(store, "here") == []


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (("GET", 404, "NoSuchBucket"), "mend its name"),
        (("GET", 400, "ExpiredToken"), "renew the credentials"),
        (("GET", 403, "InvalidAccessKeyId"), "AWS_ACCESS_KEY_ID"),
        (("GET", 403, "RequestTimeTooSkewed"), "clock is wrong"),
        (("PUT", 403, "AccessDenied"), "PutObject"),
        (("POST", 403, "AccessDenied"), "DeleteObject"),
    ],
)
def test_a_refusal_is_told_in_the_store_s_own_word(look, store: Front, refusal: tuple, words: str) -> None:
    method, status, code = refusal
    store.refuse = lambda asked, _: (status, code) if asked == method else None
    level, what, fix = worst(look("lake", lake="s3://lake/refused"))
    assert (level, code in what, words in fix) == ("problem", True, True), (what, fix)
    assert ("list worked" in what) == (method == "PUT")
    store.refuse = lambda asked, _: None
    for name in contents(store, "refused"):  # what could not be deleted
        boto3.client("s3", endpoint_url=store.url).delete_object(Bucket="lake", Key=name)


def test_a_store_without_conditional_writes_is_found_out(look, store: Front) -> None:
    store.is_conditional = False
    level, what, fix = worst(look("lake", lake="s3://lake/here"))
    assert (level, "two writers" in what, "If-None-Match" in fix) == ("problem", True, True), what
    assert contents(store, "here") == []


def test_a_store_that_says_nothing_is_not_waited_for(look, store: Front) -> None:
    store.silence = 30.0
    started = time.monotonic()
    level, what, _ = worst(look("lake", lake="s3://lake/here"))
    assert (level, "does not answer" in what) == ("problem", True), what
    assert time.monotonic() - started < 25


def test_a_store_that_falls_silent_later_hides_nothing_that_was_found(look, store: Front) -> None:
    store.refuse = lambda asked, path: time.sleep(30) if asked == "PUT" else None
    found = look("lake", lake="s3://lake/here", seconds=5.0)  # less than the client waits for
    assert [one.level for one in found] == ["problem", "ok"]
    assert "gave no answer within 5 s, but for what is told above" in found[0].what


def test_an_endpoint_where_nobody_listens(look, store: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody:a-password@127.0.0.1:9")
    level, what, fix = worst(found := look("lake", lake="s3://lake/here"))
    assert (level, "refused" in what, "AWS_ENDPOINT_URL" in fix) == ("problem", True, True)
    assert "a-password" not in str(found)


def test_a_slow_store_is_a_warning(look, store: Front) -> None:
    store.refuse = lambda _, path: time.sleep(0.8) if path.endswith("/probe") else None
    found = look("lake", lake="s3://lake/here")
    assert "slow" in found[0].what
    assert found[0].level == "warning"


def test_there_is_no_lake_yet(look, tmp_path: Path) -> None:
    found = look("lake", lake=str(tmp_path / "not" / "there"))
    assert [one.level for one in found] == ["note", "ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_lake(look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert worst(look("lake", lake=str(tmp_path / "file")))[:2] == (
        "problem",
        "it is not a folder, so it cannot be a lake",
    )


def test_a_dataset_that_does_not_open(look, tmp_path: Path) -> None:
    Lake(str(tmp_path)).ledger()
    broken = tmp_path / "broken.lance" / "_versions"
    broken.mkdir(parents=True)
    (broken / "1.manifest").write_bytes(b"no manifest")
    level, what, _ = worst(look("lake"))
    assert (level, "broken.lance" in what) == ("problem", True)


def test_a_disk_without_room_and_in_memory(look, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount")
    try:
        found = {one.what: one.level for one in look("lake", lake=str(place))}
        (place / "filling").write_bytes(bytes(2 << 20))
        full = look("lake", lake=str(place))
    finally:
        subprocess.run(["umount", place], check=True)
    assert [level for what, level in found.items() if "memory, and gone" in what] == ["warning"]
    assert [level for what, level in found.items() if "are free on its disk" in what] == ["problem"]
    assert "No space left" in str([one.what for one in full if one.level == "problem"])


def test_probes_of_doctors_that_were_killed_are_removed(tmp_path: Path) -> None:
    old, new = (tmp_path / f"_doctor-{int(time.time() - age):x}-00" for age in (7200, 5))
    for one in (old, new):
        one.mkdir()
        (one / "probe").touch()
    steps = [step for step, _ in trial.trial(str(tmp_path))]
    assert steps == ["list", "write", "read", "commit", "delete"]
    assert list(tmp_path.iterdir()) == [new]
