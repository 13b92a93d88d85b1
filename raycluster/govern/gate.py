"""A request's credentials and target become a decision: who asks, whether they may, and what they may see.

The one door that `serve/` knows. Nothing that was decided is kept for another request: each asks the policy anew.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

import pyarrow as pa

from raycluster.errors import Forbidden, InvalidUse, Unauthenticated
from raycluster.govern.decision import Decision, Engine, Undecided, decide
from raycluster.govern.journal import Journal
from raycluster.govern.jwt import Issuer, Refused
from raycluster.govern.keys import KeyFile, KeyServer
from raycluster.govern.opa import Opa
from raycluster.govern.principal import ANONYMOUS, Principal
from raycluster.govern.rego import Rego
from raycluster.govern.tokens import TokenFile
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.decisions import Decided
from raycluster.lake.lake import Lake

log = logging.getLogger(__name__)

Method = Literal["GET", "POST"]
_MOST_TOLD_OF = 256  # schemas


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
        """Read keys, tokens and policy.

        Raises:
            InvalidUse: rules that contradict each other, a file that is wrong, a policy that is broken.
            MissingPackage: a policy, and no engine for it.
        """
        self.rules, self.lake = rules, lake
        self.told: Callable[[float], object] | None = None  # who is told how long each decision took, in seconds
        self._told_of: dict[int, tuple[pa.Schema, dict[str, str], list[dict[str, str]]]] = {}
        self._keys = _keys(rules)
        self._issuer = Issuer(rules.issuer or "", rules.audience or "", self._keys) if self._keys else None
        self._tokens = TokenFile(rules.tokens) if rules.tokens else None
        self._engine = _engine(rules)
        # On one's own machine, where nobody is asked who they are or told what they may, there is nothing to log.
        self._journal = Journal(lake.decisions()) if self._engine or rules.authenticates else None

    def identify(self, authorization: str | None) -> Principal:
        """Return who sends this `Authorization` header.

        Raises:
            Unauthenticated: nobody known does.
        """
        if not self.rules.authenticates:
            return ANONYMOUS
        try:
            return self._identify(authorization)
        except Refused as error:
            log.warning("credentials refused: %s", error)
        # One message for whatever is wrong: which part it was helps only those who guess.
        raise Unauthenticated(
            "credentials are missing, or do not hold",
            fix="send the header `Authorization: Bearer TOKEN` with an API token or a JWT that is valid here",
        )

    def permit(self, principal: Principal, method: Method, path: Sequence[str]) -> None:
        """Let a request pass.

        Raises:
            Forbidden: the policy says no, or says nothing, or cannot be asked.
        """
        self._decide(principal, {"method": method, "path": list(path)})

    def access(self, principal: Principal, name: str, columns: pa.Schema) -> Access:
        """Let somebody read a dataset with these columns; return what of it they may see.

        Raises:
            Forbidden: as `permit`, for GET on ["data", name].
        """
        known, asked = self._asked(columns)
        decision = self._decide(principal, {"method": "GET", "path": ["data", name], "columns": asked})
        # A policy may speak of columns that only other datasets have.
        masks = {name: mask for name, mask in decision.masks.items() if name in known or _leads(name, columns)}
        return Access(filters=decision.filters, masks=masks) if decision.filters or masks else EVERYTHING

    def _asked(self, columns: pa.Schema) -> tuple[dict[str, str], list[dict[str, str]]]:
        """Return columns as a policy is told of them; remembered by the schema itself, of which versions have one."""
        kept = self._told_of.get(id(columns))
        if kept is None or kept[0] is not columns:
            known = {column: str(kind) for column, kind in _columns(columns)}
            kept = columns, known, [{"name": column, "type": kind} for column, kind in known.items()]
            if len(self._told_of) >= _MOST_TOLD_OF:
                self._told_of.clear()
            self._told_of[id(columns)] = kept
        return kept[1], kept[2]

    @property
    def revision(self) -> str | None:
        """Return which policy is in force; None where there is none, or an OPA server keeps it."""
        return self._engine.revision if self._engine else None

    def problems(self) -> list[str]:
        """Return what an operator should know: files that are not in force as they are now, keys, the log."""
        parts = (self._keys, self._tokens, self._engine, self._journal)
        found = [part.problem for part in parts if part is not None and part.problem]
        if self._journal and self._journal.dropped:
            found.append(f"{self._journal.dropped} decisions are in no log")
        return found

    def close(self) -> None:
        """Write the decision log, and end what runs beside the requests."""
        if self._journal:
            self._journal.close()
        if self._engine:
            self._engine.close()

    def _identify(self, authorization: str | None) -> Principal:
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Refused("no `Authorization: Bearer TOKEN`")
        found = self._tokens.find(token) if self._tokens else None
        if found and found.expires and found.expires <= datetime.now(UTC):
            raise Refused(f"the API token of {found.principal.subject!r} expired at {found.expires:%Y-%m-%d %H:%M} UTC")
        if found:
            return found.principal
        if self._issuer is None or token.count(".") != 2:
            raise Refused("an API token that nobody gave out")
        return self._issuer.principal(token)

    def _decide(self, principal: Principal, question: dict[str, Any]) -> Decision:
        document = question | {"user": principal.document()}
        began = time.perf_counter()
        decision, revision, reason = Decision(allowed=self._engine is None), None, None
        if self._engine is not None:
            try:
                answer, revision = self._engine.ask(document)
                decision = decide(answer)
            except Undecided as error:
                reason = str(error)
                log.error("nothing was decided, so it is refused: %s", reason)
        took = time.perf_counter() - began
        if self.told:
            self.told(took)
        if self._journal:
            latency_us = round(took * 1e6)
            outcome = {"revision": revision, "reason": reason, "latency_us": latency_us}
            outcome |= {"allowed": decision.allowed, "filters": len(decision.filters), "masks": len(decision.masks)}
            self._journal.add(self._decided(principal, document, outcome))
        if not decision.allowed:
            raise Forbidden(
                "the policy in force does not allow this", fix="ask whoever keeps the policy for a role that may"
            )
        return decision

    def _decided(self, principal: Principal, document: dict[str, Any], outcome: dict[str, Any]) -> Decided:
        """Return the line of the decision log."""
        return Decided(
            decision_id=uuid.uuid4().hex,
            at=datetime.now(UTC),
            subject=principal.subject,
            team=principal.team,
            roles=principal.roles,
            method=document["method"],
            path=document["path"],
            input_digest=sha256(json.dumps(document, sort_keys=True).encode()).hexdigest(),
            engine=self._engine.name if self._engine else "none",
            **outcome,
        )


def _keys(rules: Rules) -> KeyFile | KeyServer | None:
    if not (rules.issuer or rules.jwks or rules.audience):
        return None
    if not rules.issuer or not rules.audience:
        raise InvalidUse(
            "JWTs need an issuer and an audience: without both, tokens made for others would hold here",
            where="audience" if rules.issuer else "issuer",
            fix="give --issuer URL and --audience NAME; --jwks is found through the issuer unless it is given",
        )
    if rules.jwks and "://" not in rules.jwks:
        return KeyFile(rules.jwks)
    return KeyServer(rules.issuer, rules.jwks)


def _engine(rules: Rules) -> Engine | None:
    if rules.policy and rules.opa:
        raise InvalidUse("a policy and an OPA server contradict each other", where="opa", fix="give one of them")
    if rules.policy:
        return Rego(rules.policy)
    return Opa(rules.opa) if rules.opa else None


def _leads(name: str, fields: Any) -> bool:
    """Tell whether a policy's name leads to a column, into a list too; upper and lower case are the same, as in SQL."""
    first, _, rest = name.partition(".")
    found = [field.type for field in fields if field.name.lower() == first.lower()]
    return any(not rest or not pa.types.is_struct(kind) or _leads(rest, kind) for kind in found)


def _columns(fields: Any, prefix: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """Yield names and types, those within a struct with dots."""
    for field in fields:
        yield prefix + field.name, "struct" if pa.types.is_struct(field.type) else field.type
        if pa.types.is_struct(field.type):
            yield from _columns(field.type, f"{prefix}{field.name}.")
