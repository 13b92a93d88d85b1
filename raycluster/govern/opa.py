"""An OPA server elsewhere answers, from the same input document. Source: OPA's REST API, `POST /v1/data/{path}`.

Which policy it has in force, and since when, is the server's business: nothing it said is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3

from raycluster.errors import InvalidUse
from raycluster.govern.decision import LIMIT_SECONDS, PACKAGE, Undecided

_PATH = "/v1/data/data/" + PACKAGE.removeprefix("data.").replace(".", "/")
_CONNECTIONS = 64  # kept open: as many as a replica has requests


class Opa:
    """An OPA server."""

    name = "opa"
    revision = None
    problem: str | None = None

    def __init__(self, url: str) -> None:
        """Name the server: its root, or the whole URL of the policy's document."""
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InvalidUse(f"{url!r} is no URL", where="opa", fix="give one like http://127.0.0.1:8181")
        self._url = url if "/v1/data/" in url else url.rstrip("/") + _PATH
        self._http = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=False)

    def ask(self, document: dict[str, Any]) -> tuple[Any, str | None]:
        """Return the answer.

        Where a policy has no `columnMasks` for all columns at once, it is asked for a `columnMask` column by column.

        Raises:
            Undecided: none, not in time, or not as OPA's documentation has it.
        """
        until = time.monotonic() + LIMIT_SECONDS
        answer = self._post(document, until)
        masks = {}
        if isinstance(answer, dict) and answer.get("allow") is True and "columnMasks" not in answer:
            for column in document.get("columns", []):
                mask = self._post(document | {"column": column}, until)
                if isinstance(mask, Mapping) and "columnMask" in mask:
                    masks[column["name"]] = mask["columnMask"]
        return answer | {"columnMask": masks} if masks else answer, None

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def _post(self, document: dict[str, Any], until: float) -> Any:
        """Return the `result` of the policy's document for this input; None where it is undefined."""
        body = json.dumps({"input": document})
        for is_last in (False, True):
            left = until - time.monotonic()
            if left <= 0:
                raise Undecided(f"the OPA server took longer than {LIMIT_SECONDS:g} s")
            try:
                answer = self._http.request(
                    "POST", self._url, body=body, timeout=left, headers={"Content-Type": "application/json"}
                )
                break
            except urllib3.exceptions.ProtocolError as error:
                # A server may close a connection at the moment that it is used again.
                if is_last:
                    raise Undecided(f"the OPA server gave no answer: {error}") from error
            except urllib3.exceptions.HTTPError as error:
                raise Undecided(f"the OPA server gave no answer: {error}") from error
        if answer.status != 200:
            raise Undecided(f"the OPA server answered with status {answer.status}")
        if time.monotonic() > until:
            raise Undecided(f"the OPA server took longer than {LIMIT_SECONDS:g} s")
        try:
            return json.loads(answer.data)["result"]
        except (ValueError, TypeError, KeyError):
            raise Undecided("the OPA server's answer has no result: is the policy loaded?") from None
