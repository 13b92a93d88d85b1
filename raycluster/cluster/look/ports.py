"""Listening sockets become findings: the ports that raycluster and Ray take, who holds them, and who can reach them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from raycluster.cluster.look import Finding, Level, Site

_DASHBOARD, _SERVE = 8265, 8000
_PORTS = {
    _SERVE: "raycluster serve",
    _DASHBOARD: "Ray's dashboard and job API",
    6379: "Ray's head",
    8076: "Ray's object manager, in the cluster files",
    10001: "Ray's clients",
}
_ELSEWHERE = {
    _SERVE: "serve on another one: raycluster serve --port N",
    _DASHBOARD: "ray start --dashboard-port=N",
    6379: "ray start --port=N",
    8076: "ray start --object-manager-port=N",
    10001: "ray start --ray-client-server-port=N",
}
_LISTENS = "0A"  # TCP_LISTEN; /proc/net/tcp, proc(5)


class Socket(NamedTuple):
    """A listening socket."""

    host: str
    inode: str

    @property
    def is_public(self) -> bool:
        """Tell whether others than this machine can reach it."""
        return not ip_address(self.host).is_loopback


def look(_: Site) -> Iterator[Finding]:
    """Look at who listens where."""
    listening = _listening()
    free = [str(port) for port in _PORTS if port not in listening]
    if free:
        yield Finding("ok", f"ports that are free: {', '.join(free)}")
    names = _holders({one.inode for sockets in listening.values() for one in sockets})
    for port, sockets in listening.items():
        name = next((names[one.inode] for one in sockets if one.inode in names), "")
        yield _held(port, name)
        if port == _DASHBOARD and any(one.is_public for one in sockets):
            hosts = ", ".join(one.host for one in sockets if one.is_public)
            yield public_dashboard(f"{hosts}:{port}")


def public_dashboard(where: str) -> Finding:
    """Say that others can reach Ray's dashboard and job API."""
    fix = "ray start --dashboard-host=127.0.0.1, and reach it by `ray dashboard FILE`"
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return Finding("warning", "others can reach Ray's dashboard; only its token keeps them out", where, fix)
    what = "others can reach Ray's dashboard: without a token whoever does runs what they like here"
    return Finding("problem", what, where, f"{fix}; RAY_AUTH_MODE=token")


def _held(port: int, name: str) -> Finding:
    """Say who holds a port; Ray itself may."""
    by = name or "somebody whom this user may not see"
    if name.startswith(("ray", "gcs_server")):
        return Finding("note", f"port {port} ({_PORTS[port]}) is held by {by}: a Ray runs here")
    level: Level = "warning" if port in (_SERVE, _DASHBOARD, 6379) else "note"
    return Finding(level, f"port {port} ({_PORTS[port]}) is held by {by}", fix=f"stop it, or {_ELSEWHERE[port]}")


def _listening() -> dict[int, list[Socket]]:
    """Return the listening sockets of each of our ports."""
    found: dict[int, list[Socket]] = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with suppress(OSError):  # no IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                host, _, port = fields[1].partition(":")
                if fields[3] == _LISTENS and int(port, 16) in _PORTS:
                    found.setdefault(int(port, 16), []).append(Socket(_address(host, family), fields[9]))
    return found


def _address(text: str, family: int) -> str:
    """Return an address from the kernel's text of it: words of 32 bits, each in the machine's own order."""
    raw = bytes.fromhex(text)
    words = (raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return socket.inet_ntop(family, b"".join(words))


def _holders(inodes: set[str]) -> dict[str, str]:
    """Return by inode the name and pid of the process that holds a socket, as far as this user may see it."""
    found: dict[str, str] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").iterdir() if wanted else ():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended, or is somebody else's
                for held in (process / "fd").iterdir():
                    if inode := wanted.get(os.readlink(held)):
                        # Its name alone: a command line may hold what nobody should read.
                        found[inode] = f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return found
