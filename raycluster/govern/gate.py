"""A request's credentials and target become a decision: who asks, whether they may, and what they may see.

The one door that `serve/` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from raycluster.govern.principal import ANONYMOUS, Principal
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake

Method = Literal["GET", "POST"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Where authentication and policy come from; what is None is not configured."""

    issuer: str | None = None  # of JWTs
    audience: str | None = None
    jwks: str | None = None  # URL or file
    tokens: str | None = None  # file of hashed API tokens
    policy: str | None = None  # .rego file, or a folder of them
    opa: str | None = None  # URL of an OPA server, instead of `policy`

    @property
    def authenticates(self) -> bool:
        """Tell whether anybody is asked who they are."""
        return bool(self.issuer or self.jwks or self.tokens)


class Gate:
    """Decides, for one process that serves."""

    def __init__(self, rules: Rules, lake: Lake) -> None:
        self.rules, self.lake = rules, lake

    def identify(self, authorization: str | None) -> Principal:
        """Return who sends this `Authorization` header.

        Raises:
            Unauthenticated: nobody known does.
        """
        return ANONYMOUS

    def permit(self, principal: Principal, method: Method, path: Sequence[str]) -> None:
        """Let a request pass.

        Raises:
            Forbidden: the policy says no, or says nothing, or cannot be asked.
        """

    def access(self, principal: Principal, name: str, columns: pa.Schema) -> Access:
        """Let somebody read a dataset with these columns; return what of it they may see.

        Raises:
            Forbidden: as `permit`, for GET on ["data", name].
        """
        self.permit(principal, "GET", ("data", name))
        return EVERYTHING
