"""An OPA server elsewhere answers, from the same input document. Source: OPA's REST API, `POST /v1/data/{path}`.

Masks of single columns are asked for by one ad-hoc query (`POST /v1/query`), or, where a server does not offer that,
column by column.
Which policy it has in force, and since when, is the server's business: nothing it said is kept.
"""

from __future__ import annotations

import json
import time
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
        root, _, path = self._url.partition("/v1/data/")
        self._query_url, self._document = f"{root}/v1/query", "data." + path.strip("/").replace("/", ".")
        self._http = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=False)

    def ask(self, document: dict[str, Any]) -> tuple[Any, str | None]:
        """Return the answer, masks by column in it as `columnMask`.

        Raises:
            Undecided: none, not in time, or not as OPA's documentation has it.
        """
        until = time.monotonic() + LIMIT_SECONDS
        answer = self._result(document, until)
        if not isinstance(answer, dict):
            return answer, None
        masks: Any = {}
        if answer.get("allow") is True and "columnMasks" not in answer and document.get("columns"):
            masks = self._masks_at_once(document, until)
            masks = self._masks(document, until) if masks is None else masks
        return answer | {"columnMask": masks}, None

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def _masks_at_once(self, document: dict[str, Any], until: float) -> Any:
        """Return the mask of each column that has one; None where the server takes no queries."""
        mask = f"{self._document}.columnMask with input.column as column"
        query = f"masks = {{column.name: mask | column = input.columns[_]; mask = {mask}}}"
        status, said = self._post(self._query_url, {"query": query, "input": document}, until)
        found = said.get("result") if status == 200 and isinstance(said, dict) else None
        only = found[0] if isinstance(found, list) and len(found) == 1 else None
        return only.get("masks") if isinstance(only, dict) else None

    def _masks(self, document: dict[str, Any], until: float) -> dict[str, Any]:
        masks = {}
        for column in document["columns"]:
            answer = self._result(document | {"column": column}, until)
            if isinstance(answer, dict) and "columnMask" in answer:
                masks[column["name"]] = answer["columnMask"]
        return masks

    def _result(self, document: dict[str, Any], until: float) -> Any:
        """Return the policy's document for this input."""
        status, said = self._post(self._url, {"input": document}, until)
        if status != 200:
            raise Undecided(f"the OPA server answered with status {status}")
        if not isinstance(said, dict) or "result" not in said:
            raise Undecided("the OPA server's answer has no result: is the policy loaded?")
        return said["result"]

    def _post(self, url: str, body: dict[str, Any], until: float) -> tuple[int, Any]:
        """Return the status and the JSON that is answered; None where it is none."""
        for is_last in (False, True):
            left = until - time.monotonic()
            if left <= 0:
                raise Undecided(f"the OPA server took longer than {LIMIT_SECONDS:g} s")
            try:
                answer = self._http.request("POST", url, json=body, timeout=left)
                break
            except urllib3.exceptions.ProtocolError as error:
                # A server may close a connection at the moment that it is used again.
                if is_last:
                    raise Undecided(f"the OPA server gave no answer: {error}") from error
            except urllib3.exceptions.HTTPError as error:
                raise Undecided(f"the OPA server gave no answer: {error}") from error
        if time.monotonic() > until:
            raise Undecided(f"the OPA server took longer than {LIMIT_SECONDS:g} s")
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, None
