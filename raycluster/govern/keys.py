"""An issuer's published keys (JWKS, at a URL or in a file) become the one key that a token names.

Keys are fetched when a token names one that is not known, and every few minutes; the set as it was published last is
the whole truth, so that a key that was taken back is refused. An issuer that cannot be reached leaves the known keys
in force for an hour, and nobody is known by others.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from raycluster.errors import InvalidUse
from raycluster.govern.watch import Contents, Watched

log = logging.getLogger(__name__)

Key = RSAKey | ECKey | OKPKey
Keys = Mapping[str | None, Key]  # by kid; None: one that has none

FRESH_SECONDS = 300.0  # a key that was taken back is refused after that
STALE_SECONDS = 3600.0  # how long known keys hold when the issuer cannot be reached
# Between two fetches, whatever tokens name: strangers with made-up key ids cannot make us hammer the issuer. For so
# long a token with a new key may wait after a rotation, if somebody does try.
PAUSE_SECONDS = 10.0
_PATIENCE = (2.0, 3.0)  # seconds to connect, and between bytes
_WAIT_SECONDS = 2.0  # for a fetch that another request has begun
_MOST_BYTES = 1 << 20
_SHORTEST_RSA = 2048  # bits, as NIST SP 800-131A
_KINDS = ("RSA", "EC", "OKP")


class KeyFile:
    """The keys of a file."""

    def __init__(self, path: str, *, every: float = 1.0) -> None:
        """Read the file.

        Raises:
            InvalidUse: it cannot be read, or holds no key.
        """
        self._file = Watched(lambda: [Path(path)], _of_file, every=every)

    @property
    def problem(self) -> str | None:
        """Return why the file as it is now is not in force, if so."""
        return self._file.problem

    def find(self, kid: str | None) -> Key | None:
        """Return the key with this id; without one, the only key that there is."""
        return _pick(self._file.value, kid)


class KeyServer:
    """The keys that an issuer publishes: at `url`, or where its discovery document says."""

    def __init__(self, issuer: str, url: str | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        """Fetch the keys; an issuer that is not there yet is asked again when a token comes."""
        self.problem: str | None = None
        self._issuer, self._url, self._now = issuer, url, now
        self._lock = threading.Lock()
        self._keys: Keys = {}
        self._fetched = self._tried = -float("inf")
        for address in (issuer, url):
            if address and urlsplit(address).scheme != "https" and urlsplit(address).hostname not in _HERE:
                log.warning("%s is not https: whoever is on the way can sign tokens", address)
        self._fetch()

    def find(self, kid: str | None) -> Key | None:
        """Return the key with this id; without one, the only key that there is."""
        key = self._known(kid)
        is_due = key is None or self._now() - self._fetched > FRESH_SECONDS
        # Who has a key waits for nobody; who has none waits for the fetch that may bring it.
        if is_due and self._lock.acquire(timeout=0 if key else _WAIT_SECONDS):
            try:
                if self._now() - self._tried > PAUSE_SECONDS:
                    self._fetch()
            finally:
                self._lock.release()
            key = self._known(kid)
        return key

    def _known(self, kid: str | None) -> Key | None:
        return _pick(self._keys, kid) if self._now() - self._fetched <= STALE_SECONDS else None

    def _fetch(self) -> None:
        self._tried = self._now()
        try:
            self._keys = _of_set(_get(self._url or self._discover()), self._url or self._issuer)
            self._fetched, self.problem = self._now(), None
        except (requests.RequestException, InvalidUse) as error:
            self.problem = f"the keys of {self._issuer} cannot be fetched: {error}"
            log.error("%s; known keys hold for %.0f s after the last fetch", self.problem, STALE_SECONDS)

    def _discover(self) -> str:
        """Return where the issuer publishes its keys. Source: OpenID Connect Discovery 1.0, section 4."""
        document = _get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise InvalidUse(f"its discovery document is of the issuer {document.get('issuer')!r}")
        if not isinstance(url := document.get("jwks_uri"), str):
            raise InvalidUse("its discovery document has no jwks_uri")
        return url


_HERE = ("127.0.0.1", "::1", "localhost")


def _pick(keys: Keys, kid: str | None) -> Key | None:
    if kid is not None:
        return keys.get(kid)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _get(url: str) -> dict[str, Any]:
    """Return the JSON object at a URL."""
    with requests.get(url, timeout=_PATIENCE, stream=True, headers={"Accept": "application/json"}) as answer:
        answer.raise_for_status()
        text = answer.raw.read(_MOST_BYTES + 1, decode_content=True)
    if len(text) > _MOST_BYTES:
        raise InvalidUse(f"{url} answers with more than {_MOST_BYTES >> 20} MiB")
    return _object(text, url)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidUse(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidUse(f"{where} is no JSON object")
    return found


def _of_file(contents: Contents) -> Keys:
    ((path, text),) = contents.items()
    return _of_set(_object(text, path), path)


def _of_set(document: dict[str, Any], where: str) -> Keys:
    """Return the keys of a JWKS that can check signatures; others are passed over, as RFC 7517 section 5 has it."""
    found: dict[str | None, Key] = {}
    members = document.get("keys")
    for member in members if isinstance(members, list) else []:
        try:
            if (key := _import(member)) is not None:
                found[key.kid] = key
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.warning("a key of %s is passed over: %s", where, error)
    if not found:
        raise InvalidUse(f"{where} holds no key that can check signatures", fix='give a JWKS: {"keys": [...]}')
    return found


def _import(member: Any) -> Key | None:
    if not isinstance(member, dict) or member.get("kty") not in _KINDS or member.get("use", "sig") != "sig":
        return None
    if member["kty"] == "RSA" and len(str(member.get("n")).rstrip("=")) * 6 < _SHORTEST_RSA:
        raise ValueError(f"an RSA key of less than {_SHORTEST_RSA} bits")
    key = JWKRegistry.import_key(member)
    return key if isinstance(key, Key) else None
