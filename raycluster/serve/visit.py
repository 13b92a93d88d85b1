"""A request becomes a visit: a principal at one replica's door, through which every endpoint reaches the lake.

An endpoint takes a `Visit` and nothing else that leads to data, so that none can forget to ask the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from raycluster.errors import Forbidden, NotFound, RayclusterError
from raycluster.govern.principal import Principal
from raycluster.lake.table import LIVE, Table
from raycluster.serve.context import Context, Seen
from raycluster.serve.head import field
from raycluster.serve.known import PRINCIPAL


@dataclass(frozen=True)
class Visit:
    """One request by one principal."""

    context: Context
    principal: Principal

    def see(self, *path: str) -> None:
        """Let the principal read what is no dataset: `visit.see("runs")`.

        Raises:
            Forbidden: the policy does not allow it.
        """
        self.context.gate.permit(self.principal, "GET", path)

    def is_at_hand(self, name: str, version: int | str = LIVE) -> bool:
        """Tell whether `read` waits for nobody: neither for a store nor for a policy, which works elsewhere."""
        rules = self.context.gate.rules
        return version == LIVE and self.context.follower.holds(name) and not (rules.policy or rules.opa)

    def read(self, name: str, version: int | str = LIVE) -> Seen:
        """Let the principal read a dataset, whatever the URL.

        Raises:
            Forbidden: the policy does not allow it; said before whether there is such a dataset.
            NotFound: no such dataset or version.
        """
        asks_store = version != LIVE or not self.context.follower.holds(name)
        if asks_store:  # who may not read it learns nothing from how long that takes
            self.context.gate.permit(self.principal, "GET", ("data", name))
        try:
            table = self.context.follower.table(name)
            columns = table.schema(version)
        except RayclusterError as error:
            raise _plain(error) from None
        return Seen(table, self.context.gate.access(self.principal, name, columns))

    def sees_all_of(self, name: str) -> bool:
        """Tell whether a dataset that the principal may read hides nothing from them: sums tell of every row.

        Raises:
            Forbidden: they may not read it.
        """
        try:
            return self.read(name, "latest").access.sees_everything
        except NotFound:  # not there yet: the policy is asked about no column
            return self.context.gate.access(self.principal, name, pa.schema([])).sees_everything

    def add(self, name: str) -> Table:
        """Let the principal change a dataset.

        Raises:
            Forbidden: the policy does not allow it.
            NotFound: no such dataset.
        """
        self.context.gate.permit(self.principal, "POST", ("data", name))
        try:
            return self.context.follower.table(name)
        except RayclusterError as error:
            raise _plain(error) from None

    def may_read(self, name: str) -> bool:
        """Tell whether a dataset may be shown in a list."""
        try:
            self.context.gate.permit(self.principal, "GET", ("data", name))
        except Forbidden:
            return False
        return True


def _plain(error: RayclusterError) -> RayclusterError:
    """Return an error without the nearest name, which may be one that a principal is not to know of."""
    return NotFound(error.message, fix="list what there is: GET /v1/datasets") if isinstance(error, NotFound) else error


async def visited(request: Request) -> Visit:
    """Return whose request it is.

    Raises:
        Unauthenticated: it says nobody whom the gate knows.
    """
    return await visit_of(request.scope, request.app.state.context)


async def visit_of(scope: Scope, context: Context) -> Visit:
    """Return whose request it is, as `visited`."""
    known: Principal | None = scope.get(PRINCIPAL)
    if known is None:
        identify, authorization = context.gate.identify, field(scope, b"authorization")
        asks = context.gate.rules.authenticates  # and may ask the issuer for its keys
        known = await run_in_threadpool(identify, authorization) if asks else identify(authorization)
    return Visit(context, known)


Visitor = Annotated[Visit, Depends(visited)]
