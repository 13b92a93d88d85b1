"""The URI of a lake becomes the web address of its store, and one plain request to it: reached, how fast, what time."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

_SECONDS = 5.0


class Answer(NamedTuple):
    """What came back: refusals answer too."""

    seconds: float
    skew: float | None  # seconds by which the store's clock is ahead of ours; None where it does not tell


def endpoint(uri: str) -> str:
    """Return the web address of the store of a lake; empty where there is none, or it is not known."""
    kind, separator, _ = uri.partition("://")
    if not separator:
        return ""
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_STORAGE_ENDPOINT", "STORAGE_EMULATOR_HOST"),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }.get(kind, ())
    for name in names:
        if named := os.environ.get(name):
            scheme, separator, rest = named.rstrip("/").partition("://")
            return f"{scheme}{separator}{rest.rpartition('@')[2]}"  # without a user and a password
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    azure = f"https://{account}.blob.core.windows.net" if account else ""
    return {"s3": f"https://s3.{region}.amazonaws.com", "gs": "https://storage.googleapis.com", "az": azure}.get(
        kind, ""
    )


def ask(url: str) -> Answer:
    """Send one request without credentials.

    Raises:
        OSError: nothing answers there; its text says why.
    """
    started, before = time.monotonic(), time.time()
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_SECONDS) as answer:
            headers = answer.headers
    except HTTPError as refused:
        headers = refused.headers
    except URLError as error:
        raise OSError(str(error.reason)) from error
    except (HTTPException, ValueError) as error:  # no web server; an address that is none
        raise OSError(f"{type(error).__name__}: {error}") from error
    seconds = time.monotonic() - started
    return Answer(seconds, _skew(headers["Date"], before, seconds))


def _skew(date: str | None, before: float, seconds: float) -> float | None:
    """Return by how much a store's clock is ahead at the least: `Date` has whole seconds, and was made on the way."""
    try:
        told = parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        return None
    ahead = (told - datetime.fromtimestamp(before + seconds, UTC)).total_seconds()
    behind = (told - datetime.fromtimestamp(before, UTC)).total_seconds() + 1
    return ahead if ahead > 0 else min(0.0, behind)
