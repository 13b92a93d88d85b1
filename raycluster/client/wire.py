"""A verb becomes a request that is sent again where that is safe, and its answer JSON, bytes or an error of one family.

Sent again, with growing pauses or when `Retry-After` says: what was not answered at all, and 429 and 503. That is safe
for every GET, for a search, and for objects that are added under a key; a deletion is sent once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from raycluster import errors
from raycluster.errors import InvalidUse, RayclusterError

_CONNECT_SECONDS = 5.0
_TRIES = 4  # more, after the first; with the pauses below about 6 s where nothing says how long to wait
_UNHEARD = 2  # of them after a request that was sent and not answered, which may have taken its `timeout`
_PAUSE_SECONDS = 0.4  # doubled each time
_MOST_PAUSE_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 30  # whatever `Retry-After` says
_MOST_TOLD = 200  # characters of an answer that is no JSON
_BY_STATUS: dict[int, type[RayclusterError]] = {
    400: InvalidUse,
    401: errors.Unauthenticated,
    402: errors.OverBudget,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    422: InvalidUse,
    429: errors.Busy,
}


class NoAnswer(RayclusterError):
    """Nobody answers at this URL, or somebody who is no raycluster server."""

    code, status, retryable = "no_answer", 503, True


class _Bearer(requests.auth.AuthBase):
    """Sends a token; as `auth`, because a `.netrc` would replace a plain header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a request says besides its method and path."""

    query: Mapping[str, Any] = field(default_factory=dict)  # None: not said
    json: Any = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


_NOTHING = Question()


class Wire:
    """A server's URL, a token, and the connections to it."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0) -> None:
        """Check URL and token; nothing is sent yet.

        Raises:
            InvalidUse: it is none, or the token can be none.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InvalidUse(f"{url!r} is no URL of a server", where="url", fix="such as http://127.0.0.1:8000")
        token = (token or "").strip()  # files and commands end with a line's end
        if not (token.isascii() and token.isprintable()):
            raise InvalidUse("the token has signs that no header can have", where="token", fix="give the token alone")
        self.url, self._timeout = url.rstrip("/"), (min(_CONNECT_SECONDS, timeout), timeout)
        self._session = requests.Session()
        self._session.auth = _Bearer(token) if token else None
        again = HTTPAdapter(
            max_retries=Retry(
                total=_TRIES,
                read=_UNHEARD,
                status_forcelist=(429, 503),
                allowed_methods=("GET", "POST"),
                backoff_factor=_PAUSE_SECONDS,
                backoff_max=_MOST_PAUSE_SECONDS,
                retry_after_max=_LONGEST_WAIT_SECONDS,
                raise_on_status=False,
            )
        )
        self._session.mount("http://", again)
        self._session.mount("https://", again)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def json(self, method: str, path: str, question: Question = _NOTHING) -> dict[str, Any]:
        """Return the JSON object that a request is answered with."""
        with self.answered(method, path, question) as answer:
            try:
                found = answer.json()
            except requests.exceptions.JSONDecodeError:
                found = None
            if not isinstance(found, dict):
                raise self._no_server(f"answers {method} {path} with no JSON object: {answer.text[:_MOST_TOLD]!r}")
            return found

    def bytes(self, path: str, question: Question = _NOTHING) -> bytes:
        """Return the bytes that a GET is answered with."""
        with self.answered("GET", path, question) as answer:
            return bytes(answer.content)

    @contextmanager
    def answered(self, method: str, path: str, question: Question = _NOTHING) -> Iterator[requests.Response]:
        """Ask; the answer can be read piece by piece.

        Raises:
            RayclusterError: the family that the server names, with its message and fix; `where` is the wrong field.
            TimedOut: no answer in time.
            NoAnswer: no answer, or it broke off.
        """
        try:
            with self._session.request(
                method,
                self.url + path,
                params={name: value for name, value in question.query.items() if value is not None},
                json=question.json,
                data=question.body,
                headers=dict(question.headers),
                timeout=self._timeout,
                allow_redirects=method == "GET",
                stream=True,
            ) as answer:
                if answer.status_code >= 300:
                    raise self._refusal(answer)
                yield answer
        except requests.exceptions.RequestException as error:
            raise self._silence(error) from error

    def _refusal(self, answer: requests.Response) -> RayclusterError:
        """Return what an answer that is none says."""
        try:
            said = answer.json()["error"]
            code, message, fix = str(said["code"]), str(said["message"]), str(said.get("fix", ""))
        except (requests.exceptions.JSONDecodeError, TypeError, KeyError, AttributeError):
            status = f"{answer.status_code} {answer.reason}".strip()
            family = _BY_STATUS.get(answer.status_code, NoAnswer)
            return family(f"{self.url} answers {status}: {answer.text[:_MOST_TOLD]!r}", fix=self._advice(answer))
        family = _families().get(code) or _BY_STATUS.get(answer.status_code, RayclusterError)
        return family(message, fix=fix, where=str(said.get("field", "")))

    def _advice(self, answer: requests.Response) -> str:
        if answer.is_redirect:
            return f"connect to where it redirects: {answer.headers['Location'][:_MOST_TOLD]}"
        return "check the URL: this is no answer of a raycluster server, but of something before it or in its place"

    def _silence(self, error: requests.exceptions.RequestException) -> RayclusterError:
        """Return why there is no answer."""
        if isinstance(error, requests.exceptions.InvalidURL):
            return InvalidUse(str(error), where="url")
        reason = getattr(error.args[0] if error.args else None, "reason", error)
        if isinstance(reason, requests.exceptions.ReadTimeout | ReadTimeoutError):
            waited = f"{self.url} did not answer within {self._timeout[1]:g} s"
            return errors.TimedOut(waited, fix="ask for less, or connect with a longer timeout=")
        return self._no_server(f"gave no answer: {reason}")

    def _no_server(self, what: str) -> NoAnswer:
        return NoAnswer(f"{self.url} {what}", fix="check the URL, and that `raycluster serve` runs there")


def _families() -> dict[str, type[RayclusterError]]:
    """Return the errors that a server may tell, by their code."""
    found: dict[str, type[RayclusterError]] = {}
    for family in vars(errors).values():
        if isinstance(family, type) and issubclass(family, RayclusterError) and family is not errors.InvalidFile:
            found.setdefault(family.code, family)
    return found
