"""From a bucket into a lake in another bucket, through the command line, against a real S3 server on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {name: w, labels: {team: t}}
spec:
  source: {files: {paths: ["s3://media/in"], exclude: ["*.tmp"]}}
  decode: {text: {chunk: 200}}
  encode: [{use: "private_stages:Marking"}]
  sink: {dataset: d}
"""


@pytest.fixture
def store() -> Iterator[dict[str, str]]:
    """Serve S3 on a free port; return the environment that reaches it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


def raycluster(verb: list[str], environment: dict[str, str]) -> tuple[int, object]:
    command = [sys.executable, "-m", "raycluster", *verb, "--lake", "s3://lake/here", "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_bucket_becomes_a_lake_in_a_bucket(tmp_path: Path, store: dict[str, str]) -> None:
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=store["AWS_ENDPOINT_URL"], **keys)
    for bucket in ("media", "lake"):
        client.create_bucket(Bucket=bucket)
    for index in range(6):
        client.put_object(Bucket="media", Key=f"in/t{index}.txt", Body=f"word{index} and a few more.\n".encode())
    client.put_object(Bucket="media", Key="in/empty.txt", Body=b"")
    client.put_object(Bucket="media", Key="in/half.tmp", Body=b"not to be read")
    file = tmp_path / "w.yaml"
    file.write_text(WORKLOAD)

    status, summary = raycluster(["run", str(file)], store)
    assert (status, summary["rows"], summary["quarantined"], summary["objects"]) == (0, 6, 1, 7)
    client.put_object(Bucket="media", Key="in/t0.txt", Body=b"changed and longer than it was before.\n")
    status, summary = raycluster(["run", str(file)], store)
    assert (status, summary["rows"], summary["replaced"], summary["skipped"]) == (0, 1, 1, 6)
    status, described = raycluster(["datasets", "d"], store)
    assert (status, described["rows"], described["codes"]) == (0, 6, {"empty": 1})
    status, found = raycluster(["search", "d", "changed", "--mode", "text"], store)
    assert [hit["uri"] for hit in found["hits"]] == ["s3://media/in/t0.txt"]
