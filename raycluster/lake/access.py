"""What a policy lets one reader see of a dataset becomes part of every read: filters on rows, masks on columns.

Who decides is `govern/`; here is only what the decision looks like. `query.py` puts it inside the Lance query, before
ranking, so that neither hits nor counts tell of what is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Access:
    """Which rows and which values of a dataset one reader may see.

    `filters`: SQL conditions that all hold for each row that is seen. `masks`: column -> the SQL expression that is
    seen in its place, `NULL` or `substr(text, 1, 3)` say. They come from a policy and are trusted, unlike what a
    request brings.
    """

    filters: tuple[str, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)

    @property
    def sees_everything(self) -> bool:
        """Tell whether nothing is hidden."""
        return not self.filters and not self.masks


EVERYTHING = Access()
