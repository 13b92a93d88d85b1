"""Files become the body of an upload, read while it is sent, so that none has to fit into memory.

Source: RFC 7578; names are escaped as browsers do (HTML, section 4.10.21.8). The length is known beforehand, and the
body can be read again, when a request has to be sent again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from raycluster.errors import InvalidUse

_CHUNK = 1 << 20  # bytes


class Form:
    """A multipart form of files called `files`: `content_type` is its type, iterating yields it."""

    def __init__(self, parts: Sequence[tuple[str, Path | bytes]]) -> None:
        """Look at what is to be sent.

        Args:
            parts: a name and where its bytes are.

        Raises:
            InvalidUse: a file that is none, or may not be read.
        """
        self._boundary = uuid.uuid4().hex
        self._parts = [(self._head(name), content, _size(content)) for name, content in parts]
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """Return the type of the body."""
        return f"multipart/form-data; boundary={self._boundary}"

    def __len__(self) -> int:
        return sum(len(head) + size + 2 for head, _, size in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for head, content, size in self._parts:
            yield head
            yield from [content] if isinstance(content, bytes) else _read(content, size)
            yield b"\r\n"
        yield self._end

    def _head(self, name: str) -> bytes:
        safe = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        line = f'Content-Disposition: form-data; name="files"; filename="{safe}"'
        return f"--{self._boundary}\r\n{line}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(
            errors="surrogateescape"
        )


def _size(content: Path | bytes) -> int:
    if isinstance(content, bytes):
        return len(content)
    try:
        with content.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InvalidUse(f"{content} cannot be read: {error.strerror}", where="files") from error


def _read(path: Path, size: int) -> Iterator[bytes]:
    """Yield as many bytes of a file as were announced."""
    left = size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise InvalidUse(f"{path} was shortened while it was sent", where="files", fix="send it once it is written")
