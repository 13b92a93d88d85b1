"""JSON that a client sends becomes a model: no field that is not known, and never very many of them.

Pydantic makes an error of every unknown field: a body of a million held up all else for half a minute.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_MOST_FIELDS = 100


class Sent(BaseModel):
    """What every body that is read as JSON has in common."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few(cls, said: Any) -> Any:
        if isinstance(said, dict) and len(said) > _MOST_FIELDS:
            raise ValueError(f"there are {len(said)} fields")
        return said
