"""A file of hashed API tokens becomes the principals that they stand for.

A token is 32 random bytes, so that one sha256 is enough to keep it: there is nothing to guess. The file holds no
token, and is read again when it changes (`watch.py`).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from raycluster.declare.document import parse
from raycluster.errors import InvalidUse
from raycluster.govern.principal import Principal
from raycluster.govern.watch import Contents, Watched

_MARK = "rc_"  # by which people, and scanners of leaked secrets, know a token

Text = Annotated[str, Field(min_length=1)]


def _moment(value: Any) -> datetime | None:
    """Return a day or moment as YAML and people write it; without a time zone it is in UTC."""
    if not isinstance(value, str | None):
        raise ValueError("expected a day or a moment, like 2027-01-31 or 2027-01-31T12:00:00+01:00")
    moment = datetime.fromisoformat(value) if value else None
    return moment.replace(tzinfo=UTC) if moment and not moment.tzinfo else moment


@checked(frozen=True, kw_only=True)
class Entry:
    """Whom a token stands for."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    subject: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    roles: tuple[Text, ...] = ()
    team: Text | None = None
    expires: Annotated[datetime | None, BeforeValidator(_moment)] = None


@checked(frozen=True, kw_only=True)
class _File:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    tokens: tuple[Entry, ...]


@dataclass(frozen=True)
class Found:
    """What a token stands for, and until when."""

    principal: Principal
    expires: datetime | None


class TokenFile:
    """The tokens of one file."""

    def __init__(self, path: str, *, every: float = 1.0) -> None:
        """Read the file.

        Raises:
            InvalidFile: it is wrong; says where.
            InvalidUse: it cannot be read.
        """
        self._file = Watched(lambda: [Path(path)], _make, every=every)

    @property
    def problem(self) -> str | None:
        """Return why the file as it is now is not in force, if so."""
        return self._file.problem

    def find(self, token: str) -> Found | None:
        """Return what a token stands for, expired or not; None for one that nobody gave out."""
        asked, found = digest(token).encode(), None
        for known, entry in self._file.value.items():  # to the end, whether found or not: time tells nothing
            if hmac.compare_digest(asked, known):
                found = entry
        return found


def digest(token: str) -> str:
    """Return what the file holds of a token."""
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add(path: Path, principal: Principal, *, expires: datetime | None = None) -> str:
    """Make a new token, append it to a file, which need not exist yet, and return it: it is kept nowhere.

    Raises:
        InvalidUse: the file cannot be read or written, or is no file of tokens; it stays as it was.
    """
    try:
        before = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidUse(f"{path} cannot be read: {error}") from error
    if before.strip():
        _make({str(path): before.encode()})
    token = _MARK + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"subject": principal.subject, "sha256": digest(token)}
    entry |= {"roles": list(principal.roles)} if principal.roles else {}
    entry |= {"team": principal.team} if principal.team else {}
    entry |= {"expires": expires.isoformat()} if expires else {}
    # Appended as text, so that a person's comments and order stay.
    text = before if before.strip() else "tokens:\n"
    text = re.sub(r"(?m)^tokens:\s*\[\]\s*$", "tokens:", text)
    text += "" if text.endswith("\n") else "\n"
    text += "- " + yaml.safe_dump(entry, sort_keys=False, default_flow_style=True, width=1000)
    if digest(token).encode() not in _make({str(path): text.encode()}):
        raise InvalidUse(
            f"{path} does not end with its tokens", fix="let `tokens:` be its only key, one `- {...}` a line"
        )
    try:
        path.touch(mode=0o600)
        path.write_text(text)
    except OSError as error:
        raise InvalidUse(
            f"{path} cannot be written: {error.strerror}", fix="check the folder and its rights"
        ) from error
    return token


def _make(contents: Contents) -> Mapping[bytes, Found]:
    ((path, content),) = contents.items()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidUse(f"{path} cannot be read: {error}") from error
    document = parse(text, path)
    read = document.read(_File, _plain(document.value), ())
    found: dict[bytes, Found] = {}
    for index, entry in enumerate(read.tokens if read else ()):
        key = entry.sha256.encode()
        if key in found:
            document.report(f"the token of {entry.subject!r} stands twice", ("tokens", index, "sha256"))
        principal = Principal(subject=entry.subject, roles=entry.roles, team=entry.team)
        found[key] = Found(principal, entry.expires)
    document.finish()
    return found


def _plain(value: Any) -> Any:
    """Return YAML's days and moments as text, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.isoformat() if isinstance(value, date) else value
