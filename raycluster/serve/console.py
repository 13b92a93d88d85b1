"""The files of `console/` become the web page at `/`, as they lie in the package: nothing is built, nothing fetched.

The page is asked for anew each time; all else lies below the digest of all of it, and is kept for good by browsers and
proxies: another version has another address. The page holds no data: it asks the endpoints for that, as its user.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response

from raycluster.errors import NotFound

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
_PAGE = "index.html"
_PLACE = "DIGEST"  # what stands in the page for the address of the other files
_DIGITS = 16
# Scripts and styles come from this server only, none of them inline, so that no text of a corpus can become code.
# Pictures are fetched with the user's token and shown from memory (blob:); `frame-ancestors` keeps it out of frames.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class File:
    """A file of the console, as it is and as it travels."""

    content: bytes
    packed: bytes
    media_type: str

    @classmethod
    def of(cls, name: str, content: bytes) -> File:
        """Return a file by its name."""
        return cls(content, gzip.compress(content, mtime=0), _TYPES[PurePosixPath(name).suffix])


@dataclass(frozen=True)
class Console:
    """The page, and what it is made of."""

    digest: str
    page: File
    parts: Mapping[str, File]


@cache
def console() -> Console:
    """Read the console; once, because it is part of the program and a quarter of a megabyte."""
    found = dict(_read(files("raycluster.serve") / "console", ""))
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(f"{name} {len(found[name])}\n".encode() + found[name])
    digest = whole.hexdigest()[:_DIGITS]
    page = File.of(_PAGE, found.pop(_PAGE).replace(_PLACE.encode(), digest.encode()))
    return Console(digest, page, {name: File.of(name, content) for name, content in found.items()})


def _read(folder: Traversable, above: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for one in folder.iterdir():
        name = f"{above}{one.name}"
        found += _read(one, f"{name}/") if one.is_dir() else [(name, one.read_bytes())]
    return found


@router.get("/")
def page(request: Request) -> Response:
    """Return the page."""
    tag = f'"{console().digest}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=_HEADERS | headers)
    return _sent(console().page, request, headers)


@router.get("/console/{digest}/{name:path}")
def part(digest: str, name: str, request: Request) -> Response:
    """Return a script, a style, a licence.

    Raises:
        NotFound: no such file, or one of another version, which would not fit the rest.
    """
    found = console().parts.get(name) if digest == console().digest else None
    if found is None:
        raise NotFound(f"the console has no file {name!r} in version {digest!r}", fix="load the page again")
    return _sent(found, request, {"Cache-Control": "public, max-age=31536000, immutable"})


def _sent(file: File, request: Request, headers: Mapping[str, str]) -> Response:
    packs = "gzip" in request.headers.get("accept-encoding", "")
    more = {"Content-Encoding": "gzip"} if packs else {}
    content = file.packed if packs else file.content
    return Response(content, media_type=file.media_type, headers={**_HEADERS, **headers, **more})
