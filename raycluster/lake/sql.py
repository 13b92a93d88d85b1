"""Keys and moments become SQL of bounded size, and a policy's filter one condition in brackets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from raycluster.errors import InvalidUse

_VALUES_A_FILTER = 1000  # 67 kB of SQL with ids


def quoted(text: str) -> str:
    """Return text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def is_whole(text: str) -> bool:
    """Tell whether text is Unicode: JSON and command lines can bring halves of characters, which Lance cannot take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def instant(moment: datetime) -> str:
    """Return a moment that knows its time zone as an SQL literal, in UTC."""
    return f"timestamp '{moment.astimezone(UTC).isoformat(sep=' ')}'"


def any_of(column: str, values: Iterable[str]) -> Iterator[str]:
    """Yield filters that together select the rows whose column has one of these values."""
    left = iter(values)
    while part := list(islice(left, _VALUES_A_FILTER)):
        yield f"{column} IN ({','.join(map(quoted, part))})"


def enclosed(text: str) -> str:
    """Return a policy's filter in brackets, once it is sure to be one whole condition.

    Lance ignores whatever follows a complete one, as in `a = 1; b = 2` or `a = 1 ANDD b = 2`; brackets make that an
    error, and keep the filter together when another is added; `$1` makes it panic (pylance 14.0.2). What people write
    goes through `expression.py`.

    Raises:
        InvalidUse: brackets or quotes that do not match, a comment, a semicolon, a placeholder, or nothing at all.
    """
    depth = 0
    quote = ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"`":
            quote = sign
        elif sign in ";$?" or text[place : place + 2] in ("--", "/*"):
            raise _no(text, f"{_sign(text, place)!r} at character {place + 1} does not belong there")
        else:
            depth += (sign == "(") - (sign == ")")
            if depth < 0:
                raise _no(text, f"the bracket at character {place + 1} closes nothing")
    if depth or quote:
        raise _no(text, f"a {quote or 'bracket'} is not closed")
    if not text.strip():
        raise _no(text, "it is empty")
    return f"({text})"


def _sign(text: str, place: int) -> str:
    return text[place : place + 2] if text[place] in "-/" else text[place]


def _no(text: str, reason: str) -> InvalidUse:
    return InvalidUse(f"{text!r} is no condition: {reason}", where="filter")
