"""Stores that fail under a run: a full disk is said, lost answers are looked up, and the next run goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import faulty
import pytest
from moto.server import ThreadedMotoServer
from survival import Reader, Trial, World

from raycluster.lake.lake import Lake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FULL = {
    "a run is entered": "after lance:LanceDataset.commit 1",
    "a fragment is written": "after raycluster.lake.runs:Runs.put 1",
    "rows are committed": "before lance:LanceDataset.commit 3",
    "bad rows are recorded": "before raycluster.lake.quarantine:Quarantine.add 1",
    "an index is built": "before raycluster.engine.run:build 1",
    "live is moved": "before raycluster.lake.table:Table.set_live 1",
}


@pytest.fixture
def disk(world: World, tmp_path: Path) -> Iterator[Trial]:
    """Begin a trial on a disk of 16 MB."""
    place = tmp_path / "lake"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    try:
        trial = Trial.begin(world, tmp_path)
        yield trial
        trial.clean()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # an agent may just be writing there


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_said_and_the_next_run_goes_on(disk: Trial, case: str) -> None:
    with Reader(disk) as reader:
        ballast = Path(disk.lake.uri) / "ballast"
        said = disk.end(disk.start(DRIVER_MOMENT=f"fill {FULL[case]}", FULL_FOLDER=disk.lake.uri))
        assert disk.taken.exists()
        assert said.get("error") == "LakeError", said
        assert "No space left" in said["message"]
        assert "free space" in said["message"]
        ballast.unlink()
        disk.recover(f"disk full while {case}")
    reader.require_nothing_wrong()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[faulty.Proxy]:
    """Serve S3 on a free port for readers, and behind an unreliable proxy for everybody else."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"]).create_bucket(Bucket="lake")
    with faulty.Proxy(host, port) as proxy:
        yield proxy
    server.stop()


@pytest.fixture
def bucket(world: World, store: faulty.Proxy, tmp_path: Path) -> Iterator[Trial]:
    """Begin a trial with an empty bucket."""
    trial = Trial(world=world, folder=tmp_path, lake=Lake(f"s3://lake/{tmp_path.name}"), begins_empty=True)
    trial.joins, trial.environment["AWS_ENDPOINT_URL"] = False, store.url  # its node's agent must know the store too
    yield trial
    trial.clean()


SCHEDULES = {
    "every other answer to a commit lost": faulty.on_commits("answer", set(range(2, 400, 2))),
    "every other commit refused as busy": faulty.on_commits("busy", set(range(2, 400, 2))),
    "every other commit cut off": faulty.on_commits("cut", set(range(2, 400, 2))),
    "5 % of all requests fail, in every way": faulty.at_random(1, 0.05),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_store_that_fails_costs_time_only(bucket: Trial, store: faulty.Proxy, case: str) -> None:
    store.schedule = SCHEDULES[case]
    with Reader(bucket) as reader:
        summary = bucket.run()
    print(f"\nDEATH | store: {case} | the run goes on | {dict(store.faults)} | {summary['seconds']} s")
    assert sum(count for fault, count in store.faults.items() if fault != "none") >= 3
    assert not reader.wrong, reader.wrong[:5]
    bucket.require_undisturbed()
    assert summary["rows"] == len(bucket.rows())


def test_a_driver_killed_with_its_lake_in_a_bucket(bucket: Trial) -> None:
    with Reader(bucket) as reader:
        bucket.die(bucket.start(DRIVER_MOMENT="kill after lance:LanceDataset.commit 4"))
        assert bucket.taken.exists()
        bucket.recover("driver, lake in a bucket: rows committed, nobody told")
    assert not reader.wrong, reader.wrong[:5]
