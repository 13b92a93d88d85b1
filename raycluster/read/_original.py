"""The uri and id that a row remembers become the very object that was ingested, or a word on why it is not there.

A dataset may have been made by a stranger, and what lies at a uri may have changed: nothing is read unless the id
that uri and version make now is the row's. An empty local file has no version to speak of, and was never ingested.
"""

from __future__ import annotations

from raycluster.errors import Gone, InvalidUse, RayclusterError
from raycluster.read._named import Unreachable
from raycluster.read._store import ABSENT, Found, is_local, say
from raycluster.read._stores import store_of
from raycluster.row import object_id


class Unserved(InvalidUse):
    """It is there, and there is no way to serve it."""

    code, status = "unserved", 501


def original(uri: str, wanted: str, *, timeout: float) -> Found:
    """Return what lies at a uri, if it is still the object with the id `wanted`.

    Raises:
        Gone: it has vanished, or is another one now.
        Unserved: it is a cell of a table: a row does not say of which column.
        Unreachable: its store does not answer, or refuses.
    """
    found = _find(uri, timeout)
    table, sign, key = uri.rpartition("#")
    if found is None and sign and _find(table, timeout) is not None:
        fix = f"read it there: row {key} of {table}"
        raise Unserved("this object is a cell of a Parquet or Lance table, and those are not served", fix=fix)
    if found is None:
        raise Gone("the original is not there any more", fix="run its workload again to take it out")
    nothing = found.is_folder or found.version in ("", ABSENT) or (is_local(uri) and not found.size)
    if nothing or object_id(uri, found.version) != wanted:
        raise Gone("the original has changed since it was ingested", fix="run its workload again to take it in anew")
    return found


def _find(uri: str, timeout: float) -> Found | None:
    try:
        return store_of(uri, timeout=timeout).find(uri)
    except FileNotFoundError:
        return None
    except RayclusterError:
        raise
    except Exception as error:  # clients of stores raise what they like, not only OSError
        raise Unreachable(f"the original cannot be read: {say(error)}", fix="try again later") from error
