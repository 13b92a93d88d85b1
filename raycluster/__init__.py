"""raycluster: mixed media corpora become searchable, versioned Lance datasets on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycluster.client import Client

__version__ = "0.1.0"


def connect(url: str | None = None, *, token: str | None = None, timeout: float = 60.0) -> Client:
    """Return a client of a raycluster server: `raycluster.connect("http://127.0.0.1:8000").search("photos", text=...)`.

    Args:
        url: of the server; otherwise RAYCLUSTER_URL, or http://127.0.0.1:8000.
        token: an API token or a JWT; otherwise RAYCLUSTER_TOKEN, or none.
        timeout: seconds for an answer, and between two pieces of one.
    """
    from raycluster.client import Client

    return Client(url, token=token, timeout=timeout)
