"""Two clocks become a finding: this machine's and its store's; those of a cluster's nodes are compared in `nodes`."""

from __future__ import annotations

from collections.abc import Iterator

from raycluster.cluster.look import Finding, Level, Site
from raycluster.cluster.look._endpoint import ask, endpoint

NOTABLE_SECONDS, HARMFUL_SECONDS = 2.0, 30.0  # tokens tolerate 60, and two machines may be off in opposite directions
FIX = "let the machine keep time: timedatectl set-ntp true, or install chrony; in a container mend the host"


def look(site: Site) -> Iterator[Finding]:
    """Compare with the time that the store of the lake tells."""
    url = endpoint(site.lake)
    if not url:
        yield Finding("note", "there is no store beyond this machine to compare its clock with")
        return
    try:
        skew = ask(url).skew
    except OSError:  # `lake` tells why
        return
    if skew is None:
        yield Finding("note", "the store tells no time to compare this clock with", url)
    else:
        yield verdict(skew, url)


def verdict(skew: float, where: str) -> Finding:
    """Say what a difference in seconds comes to; above zero the other clock is ahead."""
    off = abs(skew)
    if off < NOTABLE_SECONDS:
        return Finding("ok", "this clock and the store's agree", where)
    level: Level = "problem" if off >= HARMFUL_SECONDS else "warning"
    harm = "tokens are refused or outlive their end, windows of the bill are entered at the wrong time"
    harm += ", and S3 refuses requests from 15 minutes on" if off >= HARMFUL_SECONDS else ""
    direction = "behind" if skew > 0 else "ahead of"
    return Finding(level, f"this clock is {off:.0f} s {direction} the store's: {harm}", where, FIX)
