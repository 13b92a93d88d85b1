"""URIs that a list or a column names become found objects: each once, in their order, many asked for at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from raycluster.read._store import ABSENT, Found, is_local
from raycluster.read._stores import store_of

# URIs of a list asked for at once: hides the 20 to 80 ms that a store takes for an answer.
_ASKED_AT_ONCE = 32
_WINDOW = 512


class Once:
    """Says which uris are new. It grows by about 80 bytes of memory a uri, however long that is; 130 while it doubles.

    It keeps digests of 16 bytes: among a thousand million uris two share one with a chance of 1 in 10**21.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def is_first(self, uri: str) -> bool:
        """Say whether this uri has not been asked about before."""
        before = len(self.seen)
        self.seen.add(hashlib.blake2b(uri.encode(errors="surrogateescape"), digest_size=16).digest())
        return len(self.seen) > before


def look_up(uris: Iterable[str], *, once: Once, timeout: float) -> Iterator[Found]:
    """Yield what lies at each uri, each once, in order, many asked at once.

    What is not there has the version `ABSENT`.

    Args:
        uris: in any number.
        once: what was listed already, of the whole source.
        timeout: seconds to wait for a store.
    """

    def find(uri: str) -> Found:
        try:
            return store_of(uri, timeout=timeout).find(uri)
        except OSError:
            return Found(uri, ABSENT)

    remaining = filter(once.is_first, uris)
    with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="raycluster-list") as pool:
        while window := list(islice(remaining, _WINDOW)):
            answers = map(find, window) if all(map(is_local, window)) else pool.map(find, window)
            for uri, found in zip(window, answers, strict=True):
                # A store may name a thing differently than it was asked for: that name is listed, and counts too.
                if found.uri == uri or once.is_first(found.uri):
                    yield found
