"""What a policy answers becomes a decision; whatever has not exactly the right shape is a no.

The answer is the document of the package `data.access.policy`: `allow`, and, of a dataset that is read, `rowFilters`
and `columnMasks` (or `columnMask`, by column) as in Trino's plug-in for OPA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from raycluster.errors import InvalidUse
from raycluster.lake.sql import enclosed

PACKAGE = "data.access.policy"  # as a policy file says it; the document is `data.data.access.policy`
LIMIT_SECONDS = 1.0  # for one answer, whoever gives it


class Undecided(Exception):
    """No answer, or none that can be understood: the reason is for the log only."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether something may be done, and what of it may be seen."""

    allowed: bool
    filters: tuple[str, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """What answers for a policy."""

    name: str

    @property
    def revision(self) -> str | None:
        """Return which policy is in force, where that is known."""

    @property
    def problem(self) -> str | None:
        """Return why the policy as it is now written is not in force, if so."""

    def ask(self, document: dict[str, Any]) -> tuple[Any, str | None]:
        """Return the answer to an input document, and the revision of the policy that gave it.

        Masks by column are in it as `columnMask`, by the names of `columns` in the document.

        Raises:
            Undecided: no answer.
        """

    def close(self) -> None:
        """Let go of what it holds."""


def decide(answer: Any) -> Decision:
    """Return the decision that an answer makes.

    Raises:
        Undecided: it has another shape.
    """
    if not isinstance(answer, dict):
        raise Undecided("the policy says nothing")
    allow = answer.get("allow")
    if not isinstance(allow, bool | None):
        raise Undecided(f"allow is {type(allow).__name__}, not true or false")
    if not allow:
        return Decision(allowed=False)
    single, several = answer.get("columnMask", {}), answer.get("columnMasks", {})
    if not isinstance(single, dict) or not isinstance(several, dict):
        raise Undecided("columnMasks is no object of expressions by column")
    if single and several:
        raise Undecided("the policy defines both columnMask and columnMasks: one of them must go")
    filters = answer.get("rowFilters", [])
    if not isinstance(filters, list):
        raise Undecided("rowFilters is no set or list")
    masks = {name: _expression(mask, f"the mask of {name}") for name, mask in (single or several).items()}
    return Decision(allowed=True, filters=tuple(_expression(one, "a row filter") for one in filters), masks=masks)


def _expression(value: Any, what: str) -> str:
    """Return the SQL of a filter or mask: `{"expression": SQL}`, or the text by itself."""
    if isinstance(value, dict) and set(value) == {"expression"}:
        value = value["expression"]
    if not isinstance(value, str):
        raise Undecided(f"{what} is not {{'expression': SQL}}")
    try:
        enclosed(value)  # whole, so that none of it is ignored, or joins with another
    except InvalidUse as error:
        raise Undecided(f"{what}: {error.message}") from error
    return value
