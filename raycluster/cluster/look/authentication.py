"""Ray's token authentication becomes findings: whether it is on, and whether the token is anybody's to read.

Ray takes the token from RAY_AUTH_TOKEN, else from the file that RAY_AUTH_TOKEN_PATH names, else from ~/.ray/auth_token.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from raycluster.cluster.look import Finding, Site

_GENERATE = "make one: ray get-auth-token --generate; then chmod 600 ~/.ray/auth_token, the same on every node"


def look(site: Site) -> Iterator[Finding]:
    """Look at the mode and the token."""
    mode, file = os.environ.get("RAY_AUTH_MODE", "").lower(), token_file()
    held = bool(os.environ.get("RAY_AUTH_TOKEN"))
    if not held and file.is_file():
        yield from _of_file(file)
        held = True
    if mode == "token" and not held:
        yield Finding("problem", "RAY_AUTH_MODE=token, and there is no token", str(file), _GENERATE)
    elif mode == "disabled" or not held:
        yield _off(site.address, mode)
    else:
        yield Finding("ok", "Ray's token authentication is on")


def token_file() -> Path:
    """Return where Ray reads its token."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"


def _of_file(file: Path) -> Iterator[Finding]:
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        what = f"others can use Ray's token: the file's mode is {mode:o}"
        yield Finding("problem", what, str(file), f"chmod 600 {file}; if others were here, make a new token too")
    if found.st_uid != os.geteuid() and os.geteuid():
        yield Finding("warning", "Ray's token belongs to another user", str(file), f"chown {os.geteuid()} {file}")
    try:
        empty = not file.read_text().strip()
    except OSError as error:
        yield Finding("problem", f"Ray's token cannot be read: {error.strerror}", str(file), f"chmod 600 {file}")
        return
    if empty:
        yield Finding("problem", "Ray's token is empty", str(file), _GENERATE)


def _off(address: str | None, mode: str) -> Finding:
    why = "RAY_AUTH_MODE=disabled" if mode == "disabled" else "there is no token"
    if address is None or _is_loopback(address):
        what = f"Ray's token authentication is off ({why}): on this machine alone nobody else needs to be kept out"
        return Finding("note", what)
    what = f"Ray's token authentication is off ({why}): whoever reaches the cluster runs what they like there"
    fix = f"export RAY_AUTH_MODE=token on every node, before `ray start`; {_GENERATE}"
    return Finding("warning", what, address, fix)


def _is_loopback(address: str) -> bool:
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")
