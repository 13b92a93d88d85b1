"""The application over a small real lake, in this process: `gallery` is the dataset to ask, `other` another team's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from gallery import Piece, Raw, Told, corpus, put, rows_of, running, save
from starlette.testclient import TestClient

from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
from raycluster.read._store import name_of
from raycluster.row import object_id
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the objects of `gallery` lie, by the paths of `corpus`."""
    save(tmp_path / "corpus", corpus())
    return tmp_path / "corpus"


@pytest.fixture
def lake(tmp_path: Path, folder: Path) -> Lake:
    """A lake of two datasets, two bad objects and one run."""
    lake = Lake(str(tmp_path / "lake"))
    objects = corpus()
    version = put(lake, "gallery", rows_of(save(folder, objects), objects))
    secret = {"secret.txt": Raw(b"the vault is open", "text", "text/plain", (Piece("the vault is open"),))}
    put(lake, "other", rows_of(save(tmp_path / "vault", secret), secret))
    bad = [("broken/a.jpg", "image", "corrupt"), ("broken/b.xyz", None, "unsupported")]
    lake.quarantine("gallery").add(
        [
            {
                "object_id": object_id(uri, "1"),
                "uri": f"file:///{uri}",
                "modality": modality,
                "position": 0,
                "stage": "decode",
                "code": code,
                "message": f"{uri} is {code}",
            }
            for uri, modality, code in bad
        ],
        run_id="run1",
        workload="w",
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run(run_id="run1", workload="w", dataset="gallery", status="done", started_at=at, finished_at=at)
    lake.runs().put(Run(**{**run.__dict__, "version": version, "summary": {"rows": 15}}))
    return lake


@pytest.fixture
def ids(lake: Lake) -> dict[str, str]:
    """Return the id of every row of `gallery`: by its file's name, and `name@1` for its second piece, and so on."""
    found = lake.table("gallery").open("live").to_table(columns=["id", "uri", "position"]).to_pylist()
    return {
        unquote(name_of(one["uri"])) + (f"@{one['position']}" if one["position"] else ""): one["id"] for one in found
    }


@pytest.fixture
def context(lake: Lake) -> Iterator[Context]:
    """What one replica works with; nobody is asked who they are."""
    opened = Context.open(Settings(lake=lake.uri))
    yield opened
    opened.close()


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    """The application over the lake."""
    with TestClient(application(context)) as found:
        yield found


@pytest.fixture
def address(context: Context) -> Iterator[str]:
    """Serve the application on a free port, as a real server does: answers come in pieces, clients may leave."""
    with running(application(context)) as found:
        yield found


@pytest.fixture
def told(context: Context) -> Told:
    """A gate to fill: ann sees all of `gallery`, bob only pictures, cid no text, dan nothing but `other`."""
    gate = Told(
        allowed={
            "ann": {"gallery": EVERYTHING},
            "bob": {"gallery": Access(filters=("modality = 'image'",))},
            "cid": {"gallery": Access(masks={"text": "NULL"})},
            "dan": {"other": EVERYTHING},
        }
    )
    context.gate = gate
    return gate


@pytest.fixture
def ask(context: Context, told: Told) -> Iterator[Callable[..., Any]]:
    """Ask as somebody: `ask("bob", "/v1/datasets")`."""
    with TestClient(application(context)) as client:

        def by(subject: str, url: str, *, method: str = "GET", **more: Any) -> Any:
            headers = {"Authorization": f"Bearer {subject}", **more.pop("headers", {})}
            return client.request(method, url, headers=headers, **more)

        yield by
