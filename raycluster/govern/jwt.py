"""A JSON Web Token becomes the principal whom its issuer names in it.

Only asymmetric signatures count, made with a key that the issuer publishes and by an algorithm of that key's kind: no
`none`, no shared secret, and no key that the token brings along (RFC 8725).
"""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from raycluster.govern.keys import Key
from raycluster.govern.principal import Principal

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
LEEWAY_SECONDS = 60  # by which clocks may differ
MOST_CHARACTERS = 16_384  # of a token; servers take headers of 16 to 64 kB


class Refused(Exception):
    """A token that does not hold: the reason is for the log only."""


class Finder(Protocol):
    """Where keys are found."""

    def find(self, kid: str | None) -> Key | None:
        """Return the key with this id."""


class _Registry(JWSRegistry):
    """joserfc's, which warns at each token about EdDSA, a name that issuers still use, and takes short headers only."""

    max_header_length = MOST_CHARACTERS

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]  # one of ALGORITHMS: looked at before


class Issuer:
    """Who signs tokens for one audience, with keys that it publishes."""

    def __init__(self, issuer: str, audience: str, keys: Finder) -> None:
        self._keys = keys
        self._registry = _Registry(algorithms=ALGORITHMS, strict_check_header=False)
        self._claims = JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    def principal(self, token: str) -> Principal:
        """Return whom a token names.

        Raises:
            Refused: it does not hold.
        """
        if len(token) > MOST_CHARACTERS:
            raise Refused(f"a token of {len(token)} characters")
        header = _header(token)
        if (algorithm := header.get("alg")) not in ALGORITHMS:
            raise Refused(f"signed by {algorithm!r:.40}, which is none of {', '.join(ALGORITHMS)}")
        kid = header.get("kid")
        if not isinstance(kid, str | None):
            raise Refused("its kid is no text")
        if (key := self._keys.find(kid)) is None:
            raise Refused(f"no key {kid!r:.80} is known")
        try:
            claims = jwt.decode(token, key, ALGORITHMS, self._registry).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return _principal(claims)


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError as error:
        raise Refused(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise Refused("its header is no JSON object")
    return header


def _principal(claims: dict[str, Any]) -> Principal:
    team = claims.get("team")
    if not isinstance(team, str | None):
        raise Refused("its team is no text")
    return Principal(subject=claims["sub"], roles=_roles(claims), team=team)


def _roles(claims: dict[str, Any]) -> tuple[str, ...]:
    """Return the first of `roles`, `groups` (Entra, Okta) and `realm_access.roles` (Keycloak) that there is."""
    realm = claims.get("realm_access")
    nested = realm.get("roles") if isinstance(realm, dict) else None
    given = (claims.get("roles"), claims.get("groups"), nested)
    roles: Any = next((found for found in given if found is not None), [])
    if isinstance(roles, str):
        roles = [roles]
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Refused("its roles are no list of texts")
    return tuple(roles)
