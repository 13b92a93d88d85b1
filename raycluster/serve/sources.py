"""A URI that somebody posts becomes one that this server may read, or a refusal.

Whoever may add objects would otherwise read every file and address that the cluster can. What is compared is what will
be read: the URI is taken apart and written anew, so that two programs cannot understand it differently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from raycluster.errors import Forbidden, InvalidUse

_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_LONGEST = 4096  # characters
_DECODED = 3  # times: servers decode once, a proxy before them perhaps once more

Refuse = Callable[[str], InvalidUse]


class Address(NamedTuple):
    """A URI in its parts, as all of them are written here."""

    scheme: str
    authority: str  # host and port, or bucket
    path: str  # as compared: decoded where the scheme encodes
    uri: str  # as read

    def covers(self, other: Address) -> bool:
        """Tell whether another one is this one, or lies below it."""
        below = f"{self.path.rstrip('/')}/"
        same = (self.scheme, self.authority) == (other.scheme, other.authority)
        return same and (other.path == self.path or other.path.startswith(below))


def admitted(uri: str, sources: Sequence[str], *, where: str = "uri") -> str:
    """Return a URI as it will be read, if it lies below one of `sources`.

    Raises:
        InvalidUse: it is no URI, or one that can be read in two ways.
        Forbidden: it lies elsewhere.
    """
    address = taken_apart(uri, where=where)
    if any(taken_apart(source, where="sources").covers(address) for source in sources):
        return address.uri
    allowed = f"below {', '.join(sources)}" if sources else "from nowhere: upload the bytes instead"
    raise Forbidden(f"{uri!r} may not be read here", where=where, fix=f"objects may be posted by uri {allowed}")


def taken_apart(uri: str, *, where: str) -> Address:
    """Return a URI, or an absolute path, in its parts.

    Raises:
        InvalidUse: it is no URI, or one that can be read in two ways.
    """

    def refuse(reason: str) -> InvalidUse:
        shown = uri if len(uri) <= 200 else f"{uri[:200]}..."
        return InvalidUse(f"{shown!r} cannot be taken: {reason}", where=where, fix="write it plainly")

    if len(uri) > _LONGEST:
        raise refuse(f"it has more than {_LONGEST} characters")
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in uri):
        raise refuse("it holds a control character")
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator:
        if not uri.startswith("/"):
            raise refuse("it is neither a URI nor an absolute path")
        return _local(uri)
    if not _SCHEME.fullmatch(scheme):
        raise refuse(f"{scheme!r} is no scheme")
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/") or "\0" in path:
            raise refuse("it names another machine, or no path")
        return _local(path)
    if _climbs(rest):
        raise refuse("it leads up through `.` or `..`")
    return _web(scheme, rest, refuse) if scheme in _PORTS else _object(scheme, rest, refuse)


def _local(path: str) -> Address:
    real = os.path.realpath(path)  # through every link: what is compared is what is read
    return Address("file", "", real, "file://" + quote(os.fsencode(real), safe="/~"))


def _climbs(rest: str) -> bool:
    seen = rest
    for _ in range(_DECODED):
        if any(part in (".", "..") for part in re.split(r"[/\\?#]", seen)):
            return True
        seen = unquote(seen)
    return False


def _web(scheme: str, rest: str, refuse: Refuse) -> Address:
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise refuse(str(error)) from error
    if "@" in parts.netloc or "\\" in rest:
        raise refuse("it holds credentials, or a backslash")
    if not host or not host.isascii():
        raise refuse("its host is missing, or not in ASCII")
    decoded = unquote(parts.path)
    if decoded.count("/") != parts.path.count("/"):
        raise refuse("it holds an encoded slash")
    named = f"[{host}]" if ":" in host else host
    authority = named if port in (None, _PORTS[scheme]) else f"{named}:{port}"
    path = quote(decoded, safe="/~!$&'()*+,;=:@")
    query = f"?{parts.query}" if parts.query else ""
    return Address(scheme, authority, decoded, f"{scheme}://{authority}{path}{query}")


def _object(scheme: str, rest: str, refuse: Refuse) -> Address:
    # Keys are written raw: `%41` is three characters of a name, `?` and `#` are one.
    authority, _, path = rest.partition("/")
    if "@" in authority or not authority:
        raise refuse("it holds credentials, or no bucket")
    return Address(scheme, authority, f"/{path.rstrip('/')}", f"{scheme}://{authority}/{path.rstrip('/')}".rstrip("/"))
