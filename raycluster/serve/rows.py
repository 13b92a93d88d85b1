"""A dataset becomes its rows: one by its id, with its picture, or page after page, as JSON or as an Arrow stream."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from raycluster.errors import NotFound
from raycluster.lake import query
from raycluster.lake.query import Page
from raycluster.lake.sql import quoted
from raycluster.lake.table import LIVE
from raycluster.serve.context import Seen
from raycluster.serve.datasets import Name
from raycluster.serve.reply import PRIVATE, plain, reply
from raycluster.serve.visit import Visitor

router = APIRouter(tags=["rows"])

ARROW = "application/vnd.apache.arrow.stream"
_ROWS_A_PIECE = 256  # of an answer: 2 MB of vectors

RowId = Annotated[str, Path(alias="id", description="of a row", pattern=r"^[\w.:-]{1,128}$")]
Version = Annotated[
    str,
    Query(description="a version's number or tag, or `latest`", pattern=r"^(\d{1,18}|[A-Za-z][\w.-]{0,63})$"),
]
Columns = Annotated[str | None, Query(description="names, with commas between; `features.width` too", max_length=4000)]

# Browsers are not to guess what a stranger's bytes are, run them, or lend them to other sites.
HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Asked:
    """The row that a URL names."""

    name: Name
    id: RowId
    version: Version = LIVE


@dataclass(frozen=True)
class Paging:
    """The rows that a URL asks for."""

    limit: Annotated[int, Query(description="rows of a page")] = 100
    after: Annotated[str | None, Query(description="`next` of the page before", pattern=r"^[\w.:-]{1,128}$")] = None
    filter: Annotated[str | None, Query(description="an SQL condition", max_length=10_000)] = None
    columns: Columns = None
    version: Version = LIVE

    def page(self, version: int | str) -> Page:
        """Return what the lake is asked."""
        columns = _names(self.columns)
        return Page(limit=self.limit, after=self.after, filter=self.filter, columns=columns, version=version)


@router.get("/v1/datasets/{name}/rows/{id}")
def row(visit: Visitor, asked: Annotated[Asked, Depends()], columns: Columns = None) -> JSONResponse:
    """Return one row, all its columns but the picture, or those that are named."""
    seen = visit.read(asked.name, asked.version)
    number, version = fixed(seen, asked.version)
    found = query.row(seen.table, asked.id, version=version, access=seen.access)
    if columns is not None:
        page = Page(limit=1, filter=f"id = {quoted(asked.id)}", columns=_names(columns), version=version)
        found = query.rows(seen.table, page, access=seen.access).to_pylist()[0]
    return reply({"dataset": asked.name, "version": number, "row": found})


@router.get(
    "/v1/datasets/{name}/rows/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}}, 304: {"description": "as it was"}},
)
def thumbnail(
    visit: Visitor, asked: Annotated[Asked, Depends()], if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """Return the picture of a row, JPEG or PNG."""
    seen = visit.read(asked.name, asked.version)
    number, version = fixed(seen, asked.version)
    picture = query.thumbnail(seen.table, asked.id, version=version, access=seen.access)
    if picture is None:
        raise NotFound(f"row {asked.id!r} of dataset {asked.name!r} has no picture")
    tag = f'"{asked.id}-{number}"'
    headers = {**PRIVATE, **HARMLESS, "ETag": tag}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type=_kind(picture), headers=headers)


@router.get(
    "/v1/data/{name}", response_class=Response, responses={200: {"content": {"application/json": {}, ARROW: {}}}}
)
def rows(
    visit: Visitor, name: Name, paging: Annotated[Paging, Depends()], accept: Annotated[str, Header()] = ""
) -> Response:
    """Return a page of rows in the order of their ids, as JSON, or as an Arrow stream to who accepts one.

    In an Arrow stream `dataset`, `version` and `next` are metadata of the schema.
    """
    seen = visit.read(name, paging.version)
    number, version = fixed(seen, paging.version)
    found = query.rows(seen.table, paging.page(version), access=seen.access)
    full = 0 < paging.limit <= found.num_rows
    facts = {"dataset": name, "version": number, "next": found["id"][-1].as_py() if full else None}
    headers = {**PRIVATE, "Vary": "Accept, Authorization"}
    if ARROW in accept:
        return StreamingResponse(_arrow(found, facts), media_type=ARROW, headers=headers)
    return StreamingResponse(_json(found, facts), media_type="application/json", headers=headers)


def fixed(seen: Seen, version: str) -> tuple[int, int | str]:
    """Return a version's number, and how to ask for it: what is live stays at hand, other tags may move."""
    number = int(seen.table.open(version, cached=True).version)
    return number, LIVE if version == LIVE else number


def is_known(header: str, tag: str) -> bool:
    """Tell whether an `If-None-Match` names what would be sent."""
    known = {one.strip().removeprefix("W/") for one in header.split(",")}
    return tag in known or "*" in known


def _names(columns: str | None) -> tuple[str, ...] | None:
    return None if columns is None else tuple(name.strip() for name in columns.split(","))


def _kind(picture: bytes) -> str:
    if picture.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/png" if picture.startswith(b"\x89PNG\r\n\x1a\n") else "application/octet-stream"


def _json(found: pa.Table, facts: dict[str, Any]) -> Iterator[bytes]:
    """Yield a page in pieces: its vectors, as numbers of Python, take ten times the room."""
    yield json.dumps(facts)[:-1].encode() + b', "rows": ['
    between = b""
    for batch in filter(len, found.to_batches(max_chunksize=_ROWS_A_PIECE)):
        yield between + json.dumps(plain(batch.to_pylist()), allow_nan=False)[1:-1].encode()
        between = b", "
    yield b"]}"


def _arrow(found: pa.Table, facts: dict[str, Any]) -> Iterator[bytes]:
    schema = found.schema.with_metadata({name: str(fact or "") for name, fact in facts.items()})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in found.to_batches(max_chunksize=_ROWS_A_PIECE):
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()
