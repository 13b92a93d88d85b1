"""Datasets of random vectors and real text, on a disk and on an S3 server."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycluster.declare.workload import Index
from raycluster.lake import index
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, Landed, commit
from raycluster.lake.follow import Follower
from raycluster.lake.heat import Heat
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table
from raycluster.row import object_id, row_id

WIDTH = 16
WORDS = ["cat", "dog", "piano", "river", "engine", "snow", "market", "lamp", "violin", "storm", "bread", "glass"]
MODALITIES = ("image", "audio", "text")


def schema(*more: pa.Field) -> pa.Schema:
    return dataset_schema(pa.schema(list(more)), WIDTH)


def make_rows(uris: Sequence[str], *, version: str = "1", pieces: int = 2, seed: int = 0) -> pa.RecordBatch:
    """Return `pieces` rows an object: a quarter have no vector, a quarter no text, a half no picture or time."""
    rng = np.random.default_rng(seed)
    owners = [(uri, object_id(uri, version)) for uri in uris for _ in range(pieces)]
    positions = [index % pieces for index in range(len(owners))]
    modalities = [MODALITIES[sum(uri.encode()) % 3] for uri, _ in owners]
    count = len(owners)
    # vectors: (rows, width) float32
    vectors = rng.standard_normal((count, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.record_batch(
        {
            "id": [row_id(oid, kind, at) for (_, oid), kind, at in zip(owners, modalities, positions, strict=True)],
            "object_id": [oid for _, oid in owners],
            "uri": [uri for uri, _ in owners],
            "sha256": ["0" * 64] * count,
            "modality": modalities,
            "media_type": ["x/y"] * count,
            "position": pa.array(positions, pa.int32()),
            "start_seconds": [float(index) if index % 2 else None for index in range(count)],
            "text": [" ".join(rng.choice(WORDS, 4)) if keep else None for keep in rng.random(count) > 0.25],
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), WIDTH, mask=pa.array(rng.random(count) < 0.25)
            ),
            "thumbnail": pa.array([f"picture {index}".encode() if index % 2 else None for index in range(count)]),
            "provenance": [{"run_id": "r", "workload": "w", "stages": ["s"], "models": []}] * count,
            "ingested_at": pa.array([index * 10**6 for index in range(count)], pa.timestamp("us", "UTC")),
        }
    )


@dataclass
class Writer:
    """A table with the columns of the tests, and the shortest way to put objects into it."""

    table: Table
    runs: int = field(default=0)

    width = WIDTH
    schema = staticmethod(schema)
    rows = staticmethod(make_rows)

    @staticmethod
    def ids_of(uris: Sequence[str], **made: Any) -> list[str]:
        return sorted(make_rows(uris, **made)["id"].to_pylist())

    def write(self, uris: Sequence[str], **made: Any) -> list[str]:
        sink = self.table.create_or_check(schema())
        return sink.write(iter([make_rows(uris, **made)]))

    def put(self, uris: Sequence[str], *, removed: Sequence[str] = (), base: int | None = None, **made: Any) -> Landed:
        self.runs += 1
        fragments = self.write(uris, **made)
        return commit(
            self.table,
            Change(run_id=f"run{self.runs}", workload="w", fragments=fragments, removed=removed, base=base),
        )

    def ids(self) -> list[str]:
        return sorted(self.table.open().to_table(columns=["id"])["id"].to_pylist())


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run an S3 server on loopback; return the URL of its bucket."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lake")
        yield "s3://lake"
        server.stop()


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake, once on a disk and once on an S3 server."""
    if request.param == "s3":
        bucket = request.getfixturevalue("s3")
        return Lake(f"{bucket}/{tmp_path.name}")
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake on a disk."""
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def writer(lake: Lake) -> Writer:
    return Writer(lake.table("d"))


@pytest.fixture
def anywhere(place: Lake) -> Writer:
    return Writer(place.table("d"))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """1,200 rows of 600 objects in two fragments, nothing indexed; not to be changed."""
    table = Lake(str(tmp_path_factory.mktemp("filled") / "lake")).table("d")
    writer = Writer(table)
    for half in range(2):
        landed = writer.put([f"f/{half}/{index}" for index in range(300)], seed=half)
    table.set_live(landed.version)
    return table


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """600 rows of 300 objects with features; the first half is indexed, the rest is not; not to be changed."""
    writer = Writer(Lake(str(tmp_path_factory.mktemp("measured") / "lake")).table("d"))
    kind = schema().field("features").type
    for half in range(2):
        rows = make_rows([f"m/{half}/{number}" for number in range(150)], seed=half)
        known = ({"width": number, "height": 7, "title": f"t{number}"} for number in range(rows.num_rows))
        features = pa.array([{one.name: have.get(one.name) for one in kind} for have in known], kind)
        fragments = writer.table.create_or_check(schema()).write(iter([rows.append_column("features", features)]))
        landed = commit(writer.table, Change(run_id=f"r{half}", workload="w", fragments=fragments))
        if not half:
            index.build(writer.table, (Index(column="vector", kind="ivf_flat"), Index(column="text", kind="fts")))
    writer.table.set_live(landed.version)
    return writer.table


@pytest.fixture
def copy(filled: Table, tmp_path: Path) -> Table:
    """The same dataset, to be changed."""
    shutil.copytree(filled.uri, tmp_path / "copy.lance")
    return Table("copy", str(tmp_path / "copy.lance"))


@pytest.fixture(scope="session")
def writer_of() -> type[Writer]:
    return Writer


@pytest.fixture(scope="session")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Table], Table]]:
    """Return a dataset whose live version's vectors are in memory."""
    followers = []

    def made(table: Table) -> Table:
        lake = Lake(str(Path(table.uri).parent))
        follower = Follower(lake, every=0.05, heat=Heat(tmp_path_factory.mktemp("hot"), 1 << 30))
        followers.append(follower)
        follower.start()
        limit = time.monotonic() + 60
        while not follower.table(table.name).hot("live") and time.monotonic() < limit:
            time.sleep(0.02)
        assert follower.table(table.name).hot("live"), follower.heat.told()
        return follower.table(table.name)

    yield made
    for one in followers:
        one.stop()
