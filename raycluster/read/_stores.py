"""A uri becomes the store that it lies in: one class a kind, imported when first met."""

from __future__ import annotations

import os
from functools import lru_cache

from raycluster.read._store import Store


def store_of(uri: str, *, timeout: float = 60.0, redirects: bool = True) -> Store:
    """Return the store that a uri lies in; clients are kept, one a bucket or host and process.

    Args:
        uri: of an object or a folder.
        timeout: seconds to wait for it.
        redirects: whether a web server may send on to another address.
    """
    scheme, _, rest = uri.partition("://")
    return _store(scheme, rest.partition("/")[0], timeout, redirects, os.getpid())


@lru_cache(maxsize=64)
def _store(scheme: str, authority: str, timeout: float, redirects: bool, process: int) -> Store:
    del process  # a forked child must not share its parent's connections
    if scheme == "file":
        from raycluster.read._local import LocalStore

        return LocalStore()
    if scheme in ("http", "https"):
        from raycluster.read._http import HttpStore

        return HttpStore(timeout, redirects=redirects)
    if scheme in ("s3", "gs"):
        from raycluster.read._arrow import ArrowStore

        return ArrowStore(scheme, authority, timeout)
    from raycluster.read._fsspec import FsspecStore

    return FsspecStore(scheme, authority)
