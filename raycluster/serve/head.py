"""A request's head becomes the value of one of its fields."""

from __future__ import annotations

from starlette.types import Scope


def field(scope: Scope, name: bytes) -> str | None:
    """Return a field's value, the first where it is said twice; `name` in lower case, as servers hand it over."""
    for said, value in scope["headers"]:
        if said == name:
            found: str = value.decode("latin-1")
            return found
    return None
