"""The uri and id that a row remembers become the very object that was ingested, or a word on why it is not there.

A dataset may have been made by a stranger, and what lies at a uri may have changed: nothing is read unless the id
that uri and version make now is the row's. That holds as far as a version cannot be guessed. So nothing is read
either where it could be: of an empty file, or of a web server that tells no more than a size. And a web server is not
followed to another address, which nobody allowed to read.
"""

from __future__ import annotations

from raycluster.errors import Gone, InvalidUse, RayclusterError
from raycluster.read._named import Unreachable
from raycluster.read._store import ABSENT, Found, Refused, Store, say
from raycluster.read._stores import store_of
from raycluster.row import object_id


class Unserved(InvalidUse):
    """It is there, and there is no way to serve it."""

    code, status = "unserved", 501


def original(uri: str, wanted: str, *, timeout: float) -> tuple[Store, Found]:
    """Return what lies at a uri, and the store to read it from, if it is still the object with the id `wanted`.

    Raises:
        Gone: it has vanished, or is another one now.
        Unserved: it is a cell of a table (a row does not say of which column), or its server tells too little.
        Unreachable: its store does not answer, or refuses.
    """
    store = store_of(uri, timeout=timeout, redirects=False)
    found = _find(store, uri)
    table, sign, key = uri.rpartition("#")
    if found is None and sign and _find(store, table) is not None:
        fix = f"read it there: row {key} of {table}"
        raise Unserved("this object is a cell of a Parquet or Lance table, and those are not served", fix=fix)
    if found is None:
        raise Gone("the original is not there any more", fix="run its workload again to take it out")
    is_web = uri.startswith("http")
    nothing = found.is_folder or found.version in ("", ABSENT) or not (found.size or is_web)
    if nothing or object_id(uri, found.version) != wanted:
        raise Gone("the original has changed since it was ingested", fix="run its workload again to take it in anew")
    if is_web and found.version == str(found.size):
        raise Unserved("its server tells neither an ETag nor a date, so that nobody can tell it from another object")
    return store, found


def _find(store: Store, uri: str) -> Found | None:
    try:
        return store.find(uri)
    except FileNotFoundError:
        return None
    except RayclusterError:
        raise
    except Refused as error:
        raise Unserved(f"the original cannot be read: {say(error)}") from error
    except Exception as error:  # clients of stores raise what they like, not only OSError
        raise Unreachable(f"the original cannot be read: {say(error)}", fix="try again later") from error
