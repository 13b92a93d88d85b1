"""A version in use becomes a tag that says by whom and until when: nobody removes it meanwhile.

Lance's own removal of old versions leaves tagged ones alone, so a lease needs no other protection. Readers that stay on
one version for long (a training run, a server between two looks at `live`) lease it. Whoever writes files without
holding a run's fence (index builds, compaction) leases too: what was written since is not taken for an orphan.

Tags know no compare-and-swap against a removal that is under way: lease what `live` or `previous` names, or what is
younger than `maintain` keeps; those are safe before the lease is there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from raycluster.errors import LakeError, NotFound
from raycluster.lake import store
from raycluster.lake.table import LEASE, Table

# Clocks of holders, drivers and stores may differ by so much. S3 refuses requests of clocks that are 15 minutes off;
# the rest is for machines on networks that nobody checks.
SKEW = timedelta(hours=1)

# No index takes longer to build, no compaction longer to write. Whoever dies without a word keeps newer orphans from
# being removed for so long.
_LONGEST_WRITE = timedelta(days=2)

# Lance allows letters, digits, '.', '-' and '_'. Others than ASCII it accepts, and then fails to list any tag at all.
_TAG = re.compile(re.escape(LEASE) + r"(?P<kind>read|write)\.(?P<until>\d{8}T\d{6}Z)\.[0-9a-f]+\.(?P<holder>.+)")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")
_MOMENT = "%Y%m%dT%H%M%SZ"
_LONGEST_HOLDER = 60  # characters: file systems allow 255 for the whole name


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One holder's claim on one version."""

    tag: str
    version: int
    holder: str
    taken: datetime
    until: datetime
    writes: bool  # the holder writes files that are not committed yet

    @property
    def is_over(self) -> bool:
        """Tell whether it has expired, by any clock."""
        return self.until + SKEW < datetime.now(UTC)


def lease(table: Table, version: int, *, holder: str, seconds: float) -> Lease:
    """Keep a version from being removed for so long; to prolong it, take another one and release the first.

    Raises:
        NotFound: there is no such version (any more).
    """
    return _take(table, version, kind="read", holder=holder, length=timedelta(seconds=seconds))


def release(table: Table, held: Lease) -> None:
    """Give a version back; one given back or expired already does not matter."""
    tags = table.open().tags
    try:
        tags.delete(held.tag)
    except (OSError, ValueError) as error:
        if held.tag in tags.list():
            raise LakeError(f"cannot release {held.tag} of {table.uri}: {store.plain(error)}") from error


@contextmanager
def writing(table: Table, holder: str) -> Iterator[None]:
    """Let `gc` know that files are being written here outside any run's fence."""
    held = _take(table, table.version(), kind="write", holder=holder, length=_LONGEST_WRITE)
    try:
        yield
    finally:
        with suppress(LakeError, NotFound):  # it expires; what was written matters more
            release(table, held)


def leases(table: Table) -> list[Lease]:
    """Return all leases, expired ones too."""
    found = ((_TAG.fullmatch(name), name, tag) for name, tag in table.open().tags.list().items())
    return [
        Lease(
            tag=name,
            version=int(tag["version"]),
            holder=said["holder"],
            taken=tag["created_at"],
            until=datetime.strptime(said["until"], _MOMENT).replace(tzinfo=UTC),
            writes=said["kind"] == "write",
        )
        for said, name, tag in found
        if said
    ]


def _take(table: Table, version: int, *, kind: str, holder: str, length: timedelta) -> Lease:
    now = datetime.now(UTC)
    until = (now + length).replace(microsecond=0)
    holder = _ODD.sub("-", holder).strip("-")[:_LONGEST_HOLDER] or "somebody"
    tag = f"{LEASE}{kind}.{until:{_MOMENT}}.{secrets.token_hex(4)}.{holder}"
    dataset = table.open(version)
    try:
        with store.explained(table.uri, "lease a version of"):
            dataset.tags.create(tag, version)
    except LakeError:
        table.open(version)  # says so if it was removed just now
        raise
    held = Lease(tag=tag, version=version, holder=holder, taken=now, until=until, writes=kind == "write")
    try:
        table.open(version)
    except NotFound:  # removed by somebody who had not seen the tag yet
        release(table, held)
        raise
    return held
