"""Objects of any other store that fsspec knows (`az://`, `sftp://`, `hf://`, ...) become listings and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raycluster.errors import InvalidUse, MissingPackage
from raycluster.read._store import CHUNK_BYTES, Found, Store, in_order

# Where a store's listing may tell an object's version, best first; names as fsspec's implementations give them.
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "md5", "sha256", "blob_id")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class FsspecStore(Store):
    """One store of one scheme. Options and credentials come from fsspec's own configuration and environment."""

    def __init__(self, scheme: str, authority: str) -> None:
        self.scheme = scheme
        self.files = _filesystem(scheme, authority)

    def find(self, uri: str) -> Found:
        """Return the object or folder at a uri."""
        return self._found(self.files.info(uri))

    def children(self, uri: str) -> Iterator[Found]:
        """Yield the objects and folders directly in a folder."""
        listed = map(self._found, self.files.ls(uri, detail=True, refresh=True))
        inside = [found for found in listed if found.uri != uri]
        return iter(sorted(inside, key=lambda found: in_order(found.uri, is_folder=found.is_folder)))

    def read(self, uri: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        return bytes(self.files.cat_file(uri, start=start, end=start + length))

    def stream(self, found: Found) -> Iterator[bytes]:
        """Yield an object's bytes."""
        count = 0
        with self.files.open(found.uri, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                count += len(chunk)
                yield chunk
        if found.version and found.size and count != found.size:
            raise OSError(f"{count} of {found.size} bytes came: the connection broke, or it has changed")

    def open(self, uri: str) -> Any:
        """Return a seekable file."""
        return self.files.open(uri, "rb")

    def _found(self, details: dict[str, Any]) -> Found:
        uri = str(self.files.unstrip_protocol(details["name"])).rstrip("/")
        if details["type"] == "directory":
            return Found(uri, is_folder=True)
        size = int(details.get("size") or 0)
        etag = next((str(details[key]).strip('"') for key in _ETAGS if details.get(key)), None)
        changed = next((details[key] for key in _TIMES if details.get(key)), "")
        return Found(uri, etag or f"{size}-{changed}", size)


def _filesystem(scheme: str, authority: str) -> Any:
    import fsspec

    try:
        options = fsspec.get_filesystem_class(scheme)._get_kwargs_from_urls(f"{scheme}://{authority}/")
        return fsspec.filesystem(scheme, **options)
    except ValueError as error:
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise InvalidUse(f"{scheme}:// is not a known kind of store ({error})", fix=f"known: {known}") from error
    except ImportError as error:
        raise MissingPackage(f"{scheme}:// needs a package that is not installed ({error})", fix=str(error)) from error
