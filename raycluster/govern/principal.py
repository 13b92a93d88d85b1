"""Who asks: what is known of somebody once their credentials have been checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Somebody or something that asks."""

    subject: str
    roles: tuple[str, ...] = ()
    team: str | None = None

    def document(self) -> dict[str, Any]:
        """Return what a policy sees as `input.user`."""
        return {"subject": self.subject, "roles": list(self.roles), "team": self.team}


# Everybody, where no authentication is configured: then the application listens on loopback only.
ANONYMOUS = Principal(subject="anonymous")
