"""Temporary folder, shared memory and open files become findings: what Ray needs of this machine before it starts."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raycluster.cluster.look import Finding, Site
from raycluster.units import show_bytes

_SHARED = Path("/dev/shm")
_FULL_SHARE = 0.95  # of a disk: from here on Ray refuses to write objects to it (local_fs_capacity_threshold)
_NEARLY_SHARE = 0.90
_FEW_BYTES = 10 * 10**9
_STORE_SHARE = 0.3  # of memory: what Ray takes for its object store
_FILES, _FEW_FILES = 65_536, 4_096  # a node of many workers opens thousands of sockets
_LONGEST = 60  # bytes of Ray's own folder in front of its sockets' names, of the 107 that Unix allows


def look(_: Site) -> Iterator[Finding]:
    """Look at the places that Ray writes to, and at the kernel's limit of open files."""
    yield from _temporary()
    yield _shared()
    yield _files()


def _temporary() -> Iterator[Finding]:
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    if len(str(folder)) > 107 - _LONGEST:
        yield Finding(
            "problem", "the path is too long for the sockets that Ray makes in it", str(folder), "set RAY_TMPDIR=/tmp"
        )
    for place in dict.fromkeys((folder, Path(tempfile.gettempdir()))):
        if not os.access(place, os.W_OK):
            yield Finding("problem", "nothing can be written to the temporary folder", str(place), "set RAY_TMPDIR")
            continue
        disk = shutil.disk_usage(place)
        used = 1 - disk.free / disk.total
        told = f"{show_bytes(disk.free)} of {show_bytes(disk.total)} are free for Ray's sessions and spilled objects"
        fix = "free space there, or point RAY_TMPDIR to another disk"
        if used > _FULL_SHARE:
            yield Finding("problem", f"{told}: Ray writes no objects to a disk that is 95 % full", str(place), fix)
        elif used > _NEARLY_SHARE or disk.free < _FEW_BYTES:
            yield Finding("warning", f"{told}; at 95 % full it stops", str(place), fix)
        else:
            yield Finding("ok", told, str(place))


def _shared() -> Finding:
    if not _SHARED.is_dir():
        fix = "mount a tmpfs there; in a container --shm-size"
        return Finding("problem", "there is no shared memory, where Ray's objects lie", str(_SHARED), fix)
    disk = shutil.disk_usage(_SHARED)
    wanted = _STORE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if disk.total < wanted:
        what = f"shared memory holds {show_bytes(disk.total)}; Ray wants {show_bytes(wanted)} for objects, and takes a "
        what += "disk instead, ten times slower"
        fix = f"in a container --shm-size={wanted / 2**30:.0f}g (Kubernetes: emptyDir, medium: Memory), or "
        return Finding("warning", what, str(_SHARED), f"{fix}ray start --object-store-memory={disk.total * 9 // 10}")
    if disk.free < wanted / 2:
        what = f"{show_bytes(disk.free)} of {show_bytes(disk.total)} of shared memory are free: somebody holds the rest"
        return Finding(
            "warning", what, str(_SHARED), f"look who: ls -lS {_SHARED}, and which Ray still runs: ray status"
        )
    return Finding("ok", f"{show_bytes(disk.free)} of shared memory are free for objects", str(_SHARED))


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"a process may open {soft:,} files"
    if soft >= _FILES or soft == resource.RLIM_INFINITY:
        return Finding("ok", told)
    least = "" if hard >= _FILES else f" (here {hard:,} at most: raise `nofile` in /etc/security/limits.conf)"
    fix = f"ulimit -n {_FILES} before `ray start`{least}"
    if soft < _FEW_FILES:
        return Finding("warning", f"{told}: too few for a node of many workers, which then fail to start", fix=fix)
    return Finding("note", f"{told}, which does for a small node", fix=fix)
