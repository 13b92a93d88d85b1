"""JSON answers become typed values; what a newer server or a dataset's own columns add is kept in `extra`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class _Told:
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the answer says besides

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what a JSON object says."""
        known = {one.name for one in fields(cls)} - {"extra"}
        extra = {name: value for name, value in document.items() if name not in known}
        return cls(**{name: value for name, value in document.items() if name in known}, extra=extra)


@dataclass(frozen=True, kw_only=True)
class Hit(_Told):
    """A row that was found; columns asked for besides are in `extra`."""

    id: str
    uri: str | None = None
    modality: str | None = None
    score: float | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    text: str | None = None
    position: int | None = None
    why: Mapping[str, Any] | None = None  # with `explain=True`
    highlights: Any = None  # with `highlight=True`
    dataset: str | None = None  # of a search in several


@dataclass(frozen=True, kw_only=True)
class Answer(_Told):
    """What a search found, best first."""

    dataset: str | None = None  # of several, `extra["datasets"]` has the names and versions
    version: int | None = None
    took_ms: float | None = None
    hits: tuple[Hit, ...] = ()
    next: int | None = None  # the `offset` of the next page

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what a JSON object says."""
        return super().of({**document, "hits": tuple(Hit.of(one) for one in document["hits"])})


@dataclass(frozen=True, kw_only=True)
class Added(_Told):
    """Objects that were taken, and the run that works on them: `client.wait(added.run_id)`."""

    dataset: str
    run_id: str
    objects: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what a JSON object says."""
        return super().of({**document, "objects": tuple(document["objects"])})


@dataclass(frozen=True, kw_only=True)
class Deleted(_Told):
    """What was deleted."""

    dataset: str
    version: int
    objects: int
    rows: int
    live: bool  # whether readers no longer see it


@dataclass(frozen=True, kw_only=True)
class Run(_Told):
    """A run; `progress` while it goes on, `summary` once it has ended."""

    run_id: str
    dataset: str
    workload: str
    status: str  # queued, running, done, failed, stopped
    progress: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None
    stale: bool = False  # it says that it is running, and has been silent for long

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will happen."""
        return self.status not in ("queued", "running")
