"""URIs that a list or a column names become found objects: each once, in their order, many asked for at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from raycluster.errors import InvalidUse, RayclusterError
from raycluster.read._store import ABSENT, Busy, Found, Refused, is_local, say, shown
from raycluster.read._stores import store_of

# URIs of a list asked for at once: hides the 20 to 80 ms that a store takes for an answer.
_ASKED_AT_ONCE = 32
_WINDOW = 512

# Seconds before each further try: a restarted server or a lost connection is back within a few.
_PAUSES = (0.5, 2.0)


class Unreachable(RayclusterError):
    """A store does not answer; the same command may succeed later."""

    code, status, retryable = "unreachable", 503, True


class _Closed(InvalidUse):
    """A store refuses to tell of an object."""


class Once:
    """Says which uris are new. It grows by about 80 bytes of memory a uri, however long that is; 130 while it doubles.

    It keeps digests of 16 bytes: among a thousand million uris two share one with a chance of 1 in 10**21.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def is_first(self, uri: str) -> bool:
        """Say whether this uri has not been asked about before."""
        before = len(self.seen)
        self.seen.add(hashlib.blake2b(uri.encode(errors="surrogatepass"), digest_size=16).digest())
        return len(self.seen) > before


def look_up(uris: Iterable[str], *, once: Once, timeout: float, posted: bool = False) -> Iterator[Found]:
    """Yield what lies at each uri, each once, in order, many asked at once.

    What is not there has the version `ABSENT`.

    Args:
        uris: in any number.
        once: what was listed already, of the whole source.
        timeout: seconds to wait for a store.
        posted: whoever named them may not be trusted. Redirects are not followed, and what a store refuses to tell of
            is called absent, so that one uri does not keep the others from being read.

    Raises:
        InvalidUse: a store refuses to tell.
        Unreachable: a store has not told, after some tries; to call it absent would condemn an object that is there.
    """

    def find(uri: str) -> Found:
        try:
            return _find(uri, timeout, redirects=not posted)
        except _Closed:
            if not posted:
                raise
            return Found(uri, ABSENT)

    remaining = filter(once.is_first, uris)
    with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="raycluster-list") as pool:
        while window := list(islice(remaining, _WINDOW)):
            answers = map(find, window) if all(map(is_local, window)) else pool.map(find, window)
            for uri, found in zip(window, answers, strict=True):
                # A store may name a thing differently than it was asked for: that name is listed, and counts too.
                if found.uri == uri or once.is_first(found.uri):
                    yield found


def _find(uri: str, timeout: float, *, redirects: bool) -> Found:
    """Return what lies at a uri, asking again where the way to it may be at fault."""
    for pause in _PAUSES:
        try:
            return _ask(uri, timeout, redirects=redirects)
        except Unreachable as error:
            if isinstance(error.__cause__, Busy):
                raise
            time.sleep(pause)
    return _ask(uri, timeout, redirects=redirects)


def _ask(uri: str, timeout: float, *, redirects: bool) -> Found:
    try:
        return store_of(uri, timeout=timeout, redirects=redirects).find(uri)
    except FileNotFoundError:
        return Found(uri, ABSENT)
    except RayclusterError:
        raise
    except (PermissionError, Refused) as error:
        message = f"{shown(uri)} cannot be looked up: {say(error)}; nothing was changed"
        raise _Closed(message, fix="grant access, or no longer name it in the source") from error
    except Exception as error:  # clients of stores raise what they like, not only OSError
        message = f"{shown(uri)} cannot be looked up: {say(error)}; nothing was changed"
        raise Unreachable(message, fix="run again when it answers, or no longer name it in the source") from error
