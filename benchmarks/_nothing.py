"""Numbers become objects without bytes, rows without payload, and a bucket that exists only in its listing.

What is left when nothing is read, decoded or encoded is what raycluster itself takes for each object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from raycluster.decode import Decode
from raycluster.read import Reference, Source
from raycluster.row import OBJECT, Media, Piece, object_id

A_FOLDER = 1000  # objects
_BATCH = 10_000  # as the listing of real files yields them


def key(number: int, a_folder: int = A_FOLDER) -> str:
    """Name an object, in the order of the numbers."""
    return f"{number // a_folder:07d}/recording-{number:010d}.wav"


def references(count: int, first: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield objects of schema `row.OBJECT`, made when they are asked for."""
    for start in range(first, first + count, _BATCH):
        numbers = range(start, min(first + count, start + _BATCH))
        columns = [
            [f"s3://bucket/corpus/{key(one)}" for one in numbers],
            [f"50000-{1_700_000_000_000_000_000 + one}" for one in numbers],
            [50_000] * len(numbers),
            [None] * len(numbers),
        ]
        yield pa.record_batch([pa.array(*pair) for pair in zip(columns, OBJECT.types, strict=True)], schema=OBJECT)


@dataclass(frozen=True, kw_only=True)
class Nothing(Source):
    """Objects of one letter each."""

    count: int

    def objects(self) -> Iterator[pa.RecordBatch]:
        """Yield so many references."""
        return references(self.count)

    def get(self, reference: Reference) -> Media:
        """Return the letter."""
        return Media(
            object_id=object_id(reference.uri, reference.version),
            uri=reference.uri,
            sha256="0" * 64,
            modality="text",
            media_type="text/plain",
            content=b"x",
        )

    def peek(self, reference: Reference, size: int = 4096) -> bytes:  # noqa: ARG002 - all are alike
        """Return the letter."""
        return b"x"


@dataclass(frozen=True, kw_only=True)
class Letter(Decode):
    """Makes a row of a letter."""

    @property
    def modality(self) -> str:
        """Return what it takes."""
        return "text"

    def decoder(self) -> Any:
        """Return a function that yields one piece."""
        return lambda _: iter([Piece(text="x")])


@contextmanager
def bucket(count: int, a_folder: int) -> Iterator[tuple[str, list[str]]]:
    """Serve the listing of a bucket `b` that holds nothing; yields its address, and the requests as they come."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(404, b"")

        def do_GET(self) -> None:
            asked.append(self.path)
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self._answer(200, _page(count, a_folder, query).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _page(count: int, a_folder: int, query: dict[str, str]) -> str:
    """Answer ListObjectsV2: the folders of the bucket, or the objects of one, a thousand a page."""
    prefix, start = query.get("prefix", ""), int(query.get("continuation-token", "0"))
    folder = prefix.removeprefix("corpus/").rstrip("/")
    if "delimiter" not in query:  # everything below, folder by folder
        whole = count
        said = [_OBJECT.format(key(one, a_folder)) for one in range(start, min(whole, start + 1000))]
    elif not prefix.startswith("corpus"):
        said, whole = [_FOLDER.format("corpus/")], 1
    elif folder:
        first = int(folder) * a_folder
        whole = min(a_folder, count - first)
        said = [_OBJECT.format(key(first + one, a_folder)) for one in range(start, min(whole, start + 1000))]
    else:
        whole = -(-count // a_folder)
        said = [_FOLDER.format(f"corpus/{one:07d}/") for one in range(start, min(whole, start + 1000))]
    size = min(int(query.get("max-keys", "1000")), len(said))
    more = start + size < whole
    token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
    head = f"<Name>b</Name><Prefix>{prefix}</Prefix><KeyCount>{size}</KeyCount><MaxKeys>1000</MaxKeys>"
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
    return f"{_HEAD}{head}{truncated}{''.join(said[:size])}</ListBucketResult>"


_HEAD = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
_FOLDER = "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>"
_OBJECT = (
    "<Contents><Key>corpus/{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0&quot;</ETag><Size>50000</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
