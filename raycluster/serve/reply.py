"""Values of a dataset become JSON, in an answer that no cache shows to anybody else."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

import orjson
from fastapi.responses import JSONResponse

# Who asks decides what is seen: a shared cache may keep nothing, a browser asks again each time.
_AS_PLAIN = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


class _Reply(JSONResponse):
    """Renders in a tenth of the time that Python's own takes."""

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(content, default=plain, option=_AS_PLAIN)
        except orjson.JSONEncodeError:  # a number of more than 64 bits, say
            return super().render(plain(content))


def reply(body: Mapping[str, Any]) -> JSONResponse:
    """Return an answer for the one who asked."""
    return _Reply(body, headers=PRIVATE)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes in base64, moments in ISO 8601, null for what is no finite number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, bytes | memoryview):
        return b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return str(value)
