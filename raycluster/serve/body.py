"""An object's bytes become an HTTP answer: whole or one range of it, in chunks, and nothing that a browser would run.

Source: RFC 9110, sections 13 (conditions) and 14 (ranges). Of several ranges at once the whole is sent, as 14.2 allows.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Any, cast
from urllib.parse import quote, unquote

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from raycluster.errors import Gone, RayclusterError
from raycluster.read._named import Unreachable
from raycluster.read._store import Changed, Found, Store, is_local, name_of, say
from raycluster.serve.answer import told
from raycluster.serve.reply import PRIVATE
from raycluster.serve.rows import HARMLESS, is_known

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.A)
_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}", re.A)
# What browsers run, or read instructions from, wherever it comes from.
_ACTIVE = re.compile(r"html|xml|svg|script|ecma|flash|java|wasm|multipart|message")
_SHOWN = ("image/", "audio/", "video/", "text/plain")
# For the API's document: what may be answered beside refusals.
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"*/*": {}}},
    206: {"description": "the range that was asked for", "content": {"*/*": {}}},
    304: {"description": "as it was"},
    307: {"description": "where the bytes are"},
    416: {"description": "the range begins behind the end"},
}
_NAME = 120  # characters of a file's name; the end is kept, since that is what programs go by


class Unsatisfiable(RayclusterError):
    """The range begins behind the object's end."""

    code, status = "range", 416


def named(media_type: str | None, uri: str) -> tuple[str, str]:
    """Return the type under which an object may leave, and its `Content-Disposition`: shown or saved, and its name."""
    kind = (media_type or "").lower()
    if not _TYPE.fullmatch(kind) or _ACTIVE.search(kind):
        kind = "text/plain" if kind.startswith(("text/", "application/xml", "application/xhtml", "image/svg")) else ""
        return kind or "application/octet-stream", f"attachment; {_file(uri)}"
    if kind.startswith("text/"):
        kind = "text/plain"
    return kind, f"{'inline' if kind.startswith(_SHOWN) else 'attachment'}; {_file(uri)}"


def _file(uri: str) -> str:
    last = name_of(uri)
    name = unquote(last) if is_local(uri) or uri.startswith("http") else last
    name = "".join(sign for sign in name if sign.isprintable() and sign not in '/\\"')[-_NAME:] or "object"
    safe = "".join(sign if sign.isascii() else "_" for sign in name)
    return f"filename=\"{safe}\"; filename*=UTF-8''{quote(name, safe='')}"


def body(store: Store, found: Found, asked: tuple[str, Headers], headers: dict[str, str]) -> Response:
    """Answer a request for an object.

    Args:
        store: where it lies.
        found: what lies there; size 0 where a server does not say.
        asked: the request's method and headers.
        headers: of the answer; `ETag` and `Content-Type` among them.

    Raises:
        Gone: it has changed since it was looked up.
        Unreachable: its store refuses.
    """
    method, conditions = asked
    headers = {**PRIVATE, **HARMLESS, "Accept-Ranges": "bytes" if found.size else "none", **headers}
    if is_known(conditions.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = _range(conditions, headers["ETag"], found.size)
    if wanted is not None and not wanted:
        return _unsatisfiable(found.size)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{found.size}"
    status, reach = (200, range(found.size)) if wanted is None else (206, wanted)
    if found.size:
        headers["Content-Length"] = str(len(reach))
    if method == "HEAD":
        return Response(status_code=status, headers=headers)
    chunks = store.part(found, reach.start, len(reach)) if found.size else store.stream(found)
    return _Stream(chunks, status_code=status, headers=headers)


def _range(conditions: Headers, tag: str, size: int) -> range | None:
    """Return the bytes that are asked for: None for all, an empty range where there are none of them."""
    said = _RANGE.fullmatch(conditions.get("range", ""))
    if not size or not said or not any(said.groups()) or conditions.get("if-range", tag) != tag:
        return None
    first, last = said.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    return range(start, stop)


def _unsatisfiable(size: int) -> Response:
    answer = told(Unsatisfiable(f"the object has {size} bytes", where="range"))
    answer.headers["Content-Range"] = f"bytes */{size}"
    return answer


class _Stream(StreamingResponse):
    """Chunks on their way: what fails before the first is told, what fails later ends the connection.

    Whoever is told no more, because he has left, keeps nothing open: the chunks are closed then and there.
    """

    def __init__(self, chunks: Iterator[bytes], **answer: Any) -> None:
        self.chunks = chunks
        try:
            first = next(chunks)
        except (Changed, FileNotFoundError) as error:
            raise Gone("the original has changed just now", fix="ask again") from error
        except Exception as error:  # clients of stores raise what they like, not only OSError
            raise Unreachable(f"the original cannot be read: {say(error)}", fix="try again later") from error
        super().__init__(chain([first], chunks), **answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(cast(Generator[bytes], self.chunks)):
            await super().__call__(scope, receive, send)
