"""Objects that somebody posts become a batch in the lake and a run to follow; ids or a filter, objects that are gone.

The body of an upload goes to temporary files first, and to the lake when all of it is there: what breaks off leaves
nothing behind, and the content is known before anything is written, so that a request that is sent again is told from
another one under the same key.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from raycluster.engine.intake import declarer
from raycluster.errors import Conflict, InvalidUse, TooLarge
from raycluster.lake.batches import Batch, new_id
from raycluster.lake.deletion import Wanted, delete
from raycluster.serve.datasets import Name
from raycluster.serve.reply import PRIVATE, reply
from raycluster.serve.sent import Sent
from raycluster.serve.sources import admitted
from raycluster.serve.visit import Visit, Visitor

router = APIRouter(tags=["data"])

MOST_OBJECTS = 1000  # of one request
_MOST_IDS = 10_000  # of one deletion
_LONGEST_ENDING = 16  # characters of what follows the last dot, which is kept
_LONGEST_NAME = 120  # bytes, of the 255 that file systems allow
_ODD = '/\\:*?"<>|#%[]{}^~`'  # what paths, globs, URIs or other systems' names give a meaning

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["objects"],
                    "properties": {
                        "objects": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MOST_OBJECTS,
                            "items": {
                                "type": "object",
                                "properties": {name: {"type": "string"} for name in ("uri", "text", "name")},
                            },
                        }
                    },
                }
            },
        },
    }
}


class One(Sent):
    """One object of a JSON body: where it lies, or a text."""

    uri: str | None = None
    text: str | None = None
    name: str | None = None  # of a text


class Several(Sent):
    """A JSON body."""

    objects: Annotated[list[One], Field(min_length=1, max_length=MOST_OBJECTS)]


class Doomed(Sent):
    """What is to be deleted: rows' or objects' ids, or every object with a row for which `filter` holds."""

    ids: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field([], max_length=_MOST_IDS)
    filter: str | None = None
    why: Annotated[str, Field(max_length=1000)] = ""


@dataclass(frozen=True)
class Asked:
    """How a request wants its objects to be taken."""

    workload: Annotated[
        str | None, Query(description="by whose declaration, where several write to the dataset", max_length=63)
    ] = None
    idempotency_key: Annotated[
        str | None,
        Header(description="with it a request can be sent again, and adds nothing twice", pattern=r"^[ -~]{1,200}$"),
    ] = None


@dataclass(frozen=True)
class Brought:
    """What a request brings."""

    objects: list[tuple[str, IO[bytes] | None]] = field(default_factory=list)  # a name and its bytes, or a uri

    @property
    def files(self) -> list[tuple[str, IO[bytes]]]:
        """Return what came with the request."""
        return [(name, content) for name, content in self.objects if content is not None]

    @property
    def uris(self) -> list[str]:
        """Return what is only named."""
        return [uri for uri, content in self.objects if content is None]

    def digest(self, workload: str) -> str:
        """Return what tells it from another request; files are at their beginning afterwards."""
        parts: list[Any] = [workload]
        for name, content in self.objects:
            parts.append([name, content and hashlib.file_digest(content, "sha256").hexdigest()])  # type: ignore[arg-type]
            if content is not None:
                content.seek(0)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def landed(self, uris: list[str]) -> tuple[dict[str, Any], ...]:
        """Return what a batch says of its objects; `uris`: where the files lie now."""
        places = iter(uris)
        found = [
            {"uri": name} if content is None else {"uri": next(places), "name": name} for name, content in self.objects
        ]
        return tuple({one["uri"]: one for one in found}.values())  # a uri that is named twice is one object


@router.post("/v1/data/{name}", status_code=202, openapi_extra=_UPLOAD)
async def add(name: Name, request: Request, asked: Annotated[Asked, Depends()], visit: Visitor) -> JSONResponse:
    """Add objects: uploads, texts, or URIs below what the server allows. Answers with the run that takes them."""
    await run_in_threadpool(visit.add, name)
    async with AsyncExitStack() as opened:
        brought = await _read(request, visit, opened)
        batch = await run_in_threadpool(_land, visit, name, asked, brought)
    run_id = await visit.context.intake.submit(name, batch.batch_id)
    body = {"dataset": name, "run_id": run_id, "batch": batch.batch_id, "objects": batch.objects}
    return JSONResponse({**body, "follow": f"/v1/runs/{run_id}"}, status_code=202, headers=PRIVATE)


@router.delete("/v1/data/{name}")
def remove(name: Name, doomed: Doomed, visit: Visitor) -> JSONResponse:
    """Delete whole objects for good: no run brings them back. `live`: whether readers no longer see them."""
    visit.add(name)
    wanted = Wanted(
        by=visit.principal.subject,
        why=doomed.why,
        ids=tuple(dict.fromkeys(doomed.ids)),
        filter=doomed.filter,
        access=visit.read(name, "latest").access,
    )
    deleted = delete(visit.context.lake, name, wanted)
    visit.context.follower.catch_up(name)  # other gateways do so within `follow` seconds
    return reply(asdict(deleted))


async def _read(request: Request, visit: Visit, opened: AsyncExitStack) -> Brought:
    """Read a request's body; files stay open until `opened` closes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            return await _read_form(request, opened)
        if kind == "application/json":
            return await _read_json(request, visit, opened)
    except ClientDisconnect as error:
        raise InvalidUse("the request broke off") from error
    raise InvalidUse(
        f"objects cannot come as {kind or 'nothing'}",
        where="content-type",
        fix="send multipart/form-data with parts called `files`, or application/json",
    )


async def _read_form(request: Request, opened: AsyncExitStack) -> Brought:
    parser = MultiPartParser(request.headers, request.stream(), max_files=MOST_OBJECTS, max_fields=1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLarge(f"more than {MOST_OBJECTS} objects", where="files", fix="send them in parts") from error
        raise InvalidUse(f"the form cannot be read: {error.message}", where="files") from error
    brought = Brought()
    opened.push_async_callback(form.close)
    for field_name, part in form.multi_items():
        if not isinstance(part, UploadFile) or field_name != "files":
            raise InvalidUse(
                f"the form has a part {field_name[:100]!r}", where=field_name[:100], fix="send files, as `files`"
            )
        if not part.size:
            raise InvalidUse(f"{(part.filename or '')[:100]!r} is empty", where="files", fix="send what has bytes")
        brought.objects.append((safe(part.filename or ""), part.file))
    if not brought.objects:
        raise InvalidUse("the form has no file in it", where="files", fix="send one or more, as `files`")
    return brought


async def _read_json(request: Request, visit: Visit, opened: AsyncExitStack) -> Brought:
    settings, body = visit.context.settings, bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.most_body:
            raise TooLarge(f"the body has more than {settings.most_body} bytes", fix="upload files, or send less")
    try:
        several = Several.model_validate_json(bytes(body))
    except ValidationError as error:
        wrong = [one | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False, include_context=False)]
        raise RequestValidationError(wrong) from error
    brought = Brought()
    for at, one in enumerate(several.objects):
        where = f"objects.{at}"
        if (one.uri is None) == (one.text is None) or (one.uri is not None and one.name is not None):
            fix = '{"uri": ...}, or {"text": ..., "name": ...}, whose name may be left out'
            raise InvalidUse(f"{where} is not one object", where=where, fix=fix)
        if one.uri is not None:
            brought.objects.append((admitted(one.uri, settings.sources, where=f"{where}.uri"), None))
            continue
        if not (one.text or "").strip():
            raise InvalidUse("the text is empty", where=f"{where}.text", fix="leave it out")
        content = opened.enter_context(io.BytesIO((one.text or "").encode()))
        brought.objects.append((safe(one.name or "text.txt"), content))
    return brought


def safe(name: str) -> str:
    """Return a file's name as every store can have it: its last part, in Unicode, without signs that mean something."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    plain = "".join("_" if sign in _ODD or unicodedata.category(sign)[0] == "C" else sign for sign in last).strip(" .")
    stem, dot, ending = plain.rpartition(".")
    if not stem or len(ending) > _LONGEST_ENDING:
        stem, dot, ending = plain, "", ""
    room = _LONGEST_NAME - len(f"{dot}{ending}".encode())
    return (stem.encode()[:room].decode(errors="ignore") + dot + ending) or "unnamed"


def _land(visit: Visit, name: str, asked: Asked, brought: Brought) -> Batch:
    """Write a batch into the lake, or find it there; once it is, it runs, whatever becomes of this process."""
    lake, subject, key = visit.context.lake, visit.principal.subject, asked.idempotency_key
    batches, workload = lake.batches(), declarer(lake, name, asked.workload)
    digest = brought.digest(workload)
    named = hashlib.sha256(json.dumps([subject, name, key]).encode()).hexdigest()[:32]
    if key is not None and (there := batches.get(named)) is not None:
        return _same(there, digest)
    landed = batches.land(name, brought.files)
    batch = Batch(
        batch_id=new_id() if key is None else named,
        dataset=name,
        workload=workload,
        by=subject,
        at=datetime.now(UTC),
        digest=digest,
        objects=brought.landed(landed),
    )
    there = batches.claim(batch)
    if there is not batch:  # the same request came twice, at the same moment
        batches.discard(name, landed)
        return _same(there, digest)
    lake.deletions(name).restore(brought.uris)  # who asks for it by name wants it
    return batch


def _same(there: Batch, digest: str) -> Batch:
    if there.digest != digest:
        raise Conflict(
            "something else was posted under this key before", where="Idempotency-Key", fix="send it under a new key"
        )
    return there
