"""Objects of S3 and Google Cloud Storage become listings and bytes, through Arrow's native clients.

Credentials, region and endpoint come from the environment, as for every tool of these clouds: AWS_ACCESS_KEY_ID and
its kin, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL for other makers' S3, AWS_NO_SIGN_REQUEST=1 for public buckets.
Arrow's listings carry no etag, so that an object's version is its size and modification time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from raycluster.read._store import CHUNK_BYTES, Changed, Found, Store, in_order


class ArrowStore(Store):
    """One bucket."""

    def __init__(self, scheme: str, bucket: str, timeout: float) -> None:
        self.scheme = scheme
        self.files = _s3(bucket, timeout) if scheme == "s3" else _gs(timeout)

    def find(self, uri: str) -> Found:
        """Return the object or prefix at a uri."""
        found = self.files.get_file_info(self._path(uri))
        if found.type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"{uri} does not exist")
        return self._found(found)

    def children(self, uri: str) -> Iterator[Found]:
        """Yield what lies directly below a prefix; on GCS all objects below it, in one piece.

        Arrow does not list folders of GCS that have no object of their own, so that going down folder by folder would
        miss what is in them. Delete this when https://github.com/apache/arrow/issues/35993 is closed.
        """
        everything = self.scheme == "gs"
        listed = self.files.get_file_info(pafs.FileSelector(self._path(uri), recursive=everything))
        if everything:
            listed = [found for found in listed if found.type == pafs.FileType.File]
        listed.sort(key=lambda found: in_order(found.path, is_folder=found.type == pafs.FileType.Directory))
        return map(self._found, listed)

    def read(self, uri: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes, by one ranged request."""
        with self.files.open_input_file(self._path(uri)) as file:
            wanted = min(length, file.size() - start)
            return bytes(file.read_at(wanted, start)) if wanted > 0 else b""

    def stream(self, found: Found) -> Iterator[bytes]:
        """Yield an object's bytes."""
        with self.files.open_input_stream(self._path(found.uri)) as file:
            if _has_changed(file.metadata(), found.version):
                raise Changed
            count = 0
            while chunk := file.read(CHUNK_BYTES):
                count += len(chunk)
                yield chunk
        if found.size and count != found.size:
            raise OSError(f"{count} of {found.size} bytes came: the connection broke, or it has changed")

    def open(self, uri: str) -> Any:
        """Return a random access file."""
        return self.files.open_input_file(self._path(uri))

    def _path(self, uri: str) -> str:
        return uri.removeprefix(f"{self.scheme}://")

    def _found(self, found: Any) -> Found:
        uri = f"{self.scheme}://{found.path}"
        if found.type == pafs.FileType.Directory:
            return Found(uri, is_folder=True)
        return Found(uri, f"{found.size}-{found.mtime_ns}", found.size)


def _has_changed(metadata: dict[str, bytes] | None, version: str) -> bool:
    """Say whether a response's headers contradict the version that was listed; no where they do not tell."""
    size, modified = (metadata or {}).get("Content-Length"), (metadata or {}).get("Last-Modified")
    listed_size, _, listed_time = version.partition("-")
    if size is None or modified is None or not listed_time.isdecimal():
        return False
    # Headers give whole seconds, some makers' listings fractions of them.
    seconds = datetime.strptime(modified.decode(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    return size.decode() != listed_size or int(seconds) != int(listed_time) // 10**9


def endpoint_and_region(bucket: str) -> tuple[str | None, str]:
    """Return where a bucket is asked for, None at AWS itself, and the region that its requests are signed for."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = pafs.resolve_s3_region(bucket)
    return endpoint, region or "us-east-1"


def _s3(bucket: str, timeout: float) -> pafs.S3FileSystem:
    endpoint, region = endpoint_and_region(bucket)
    return pafs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        anonymous=os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"),
        connect_timeout=min(timeout, 10.0),
        request_timeout=timeout,
    )


def _gs(timeout: float) -> pafs.GcsFileSystem:
    # The client retries for as long as it is told to; without a limit a wrong project name takes 15 minutes.
    from datetime import timedelta

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=timeout))
    scheme, _, host = emulator.rpartition("://")
    return pafs.GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=host, retry_time_limit=timedelta(seconds=timeout)
    )
