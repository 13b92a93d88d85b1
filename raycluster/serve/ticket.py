"""A reader's right to one row's media becomes a ticket that a URL can carry: a browser's video sends no credentials.

Whoever may read a row asks for a ticket and gets a URL that holds for some minutes, for that row's original bytes and
nothing else. A ticket is signed, not kept: its key lies in the lake (`lake/secret.py`), so that any replica knows any
other's. It dies before its time when the row goes, or when the policy changes as far as the gate knows its revision.
"""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass

from raycluster.errors import Unauthenticated
from raycluster.lake.secret import secret
from raycluster.serve.context import Context

SECONDS = 600  # a film that is watched for longer is asked for again by whoever shows it
_DIGITS = 12


@dataclass(frozen=True)
class Grant:
    """The right to read the original bytes of one row, in the version that was asked for."""

    dataset: str
    row: str
    version: str


def issue(context: Context, grant: Grant) -> tuple[str, int]:
    """Return a ticket, and when it ends, in seconds since 1970; the caller has asked the policy."""
    ends = int(time.time()) + SECONDS
    return f"{ends}.{_mark(context, grant, ends)}", ends


def require(context: Context, grant: Grant, ticket: str) -> None:
    """Let whoever shows a ticket read what it was issued for.

    Raises:
        Unauthenticated: it is for something else, has ended, was made up, or the policy has changed since.
    """
    ends, _, mark = ticket.partition(".")
    said = int(ends) if ends.isascii() and ends.isdecimal() and len(ends) <= _DIGITS else 0
    holds = hmac.compare_digest(mark.encode(), _mark(context, grant, said).encode())
    if not holds or said <= time.time():
        raise Unauthenticated("the ticket does not hold, or no longer", fix="ask for another: .../media?ticket=new")


def _mark(context: Context, grant: Grant, ends: int) -> str:
    said = json.dumps(["media", grant.dataset, grant.row, grant.version, ends, context.gate.revision])
    return urlsafe_b64encode(hmac.digest(secret(context.lake, "tickets"), said.encode(), "sha256")).decode().rstrip("=")
