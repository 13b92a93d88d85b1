"""URLs become versions and bytes. A web server lists nothing: URLs come one by one, from `paths` or `list`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any

from raycluster.read._store import CHUNK_BYTES, Busy, Changed, Found, Refused, Store
from raycluster.stage import need

# A busy server gets four chances: after 0, 1 and 2 seconds, or when it says, but no later than this.
_RETRIES = 3
_LONGEST_WAIT = 30.0  # seconds
_BUSY = (408, 429, 500, 502, 503, 504)
_OVERLOADED = (429, 503)  # about the server, whatever the method: 500 and 502 may come from one that knows no HEAD

# Without this some servers send compressed bytes, whose length and etag are not the object's.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "raycluster"}

_MOST_REDIRECTS = 10


class HttpStore(Store):
    """All web servers. A version is the ETag, or else what the server says of time and size."""

    def __init__(self, timeout: float, *, redirects: bool = True) -> None:
        self.timeout, self.redirects = timeout, redirects
        self.session = _session()

    def find(self, uri: str) -> Found:
        """Return what a server says about a URL; many refuse HEAD, so that GET has the last word."""
        with self._ask("HEAD", uri) as answer:
            if answer.ok:
                return _found(uri, answer)
            if answer.status_code in _OVERLOADED:
                _require_success(answer)
        with self._ask("GET", uri) as answer:
            _require_success(answer)
            return _found(uri, answer)

    def children(self, uri: str) -> Iterator[Found]:
        """Refuse: there is no listing in HTTP."""
        raise OSError(f"{uri}: a web server does not list its files; name each URL in `list`")

    def read(self, uri: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes; a server without ranges is cut short where enough came."""
        with self._ask("GET", uri, Range=f"bytes={start}-{start + length - 1}") as answer:
            if answer.status_code == 416:  # the range starts beyond the end
                return b""
            _require_success(answer)
            skip = 0 if answer.status_code == 206 else start
            enough = bytearray()
            for chunk in answer.iter_content(min(CHUNK_BYTES, skip + length)):
                enough += chunk
                if len(enough) >= skip + length:
                    break
            return bytes(enough[skip : skip + length])

    def stream(self, found: Found) -> Iterator[bytes]:
        """Yield an object's bytes."""
        with self._ask("GET", found.uri) as answer:
            _require_success(answer)
            now = _found(found.uri, answer)
            if found.version and found.version != now.version:
                raise Changed
            count = 0
            for chunk in answer.iter_content(CHUNK_BYTES):
                count += len(chunk)
                yield chunk
            if now.size and count != now.size:
                raise OSError(f"{count} of {now.size} bytes came: the connection broke")

    def part(self, found: Found, start: int, length: int) -> Iterator[bytes]:
        """Yield some of an object's bytes, by one request; a server without ranges sends all, from its beginning."""
        with self._ask("GET", found.uri, Range=f"bytes={start}-{start + length - 1}") as answer:
            _require_success(answer)
            if _found(found.uri, answer).version != found.version:
                raise Changed
            skip, left = (0 if answer.status_code == 206 else start), length
            for whole in answer.iter_content(CHUNK_BYTES):
                chunk, skip = whole[skip : skip + left], max(skip - len(whole), 0)
                left -= len(chunk)
                if chunk:
                    yield chunk
                if not left:
                    return
            raise OSError(f"{length - left} of {length} bytes came: the connection broke")

    def open(self, uri: str) -> Any:
        """Return a seekable file, read by ranges."""
        import fsspec
        from aiohttp import ClientTimeout  # comes with fsspec[http]

        # Without it five minutes are the limit of one request, silent or not.
        patience = ClientTimeout(total=None, sock_connect=self.timeout, sock_read=self.timeout)
        files = fsspec.filesystem("http", client_kwargs={"timeout": patience, "headers": _HEADERS})
        return files.open(uri, "rb")

    @contextmanager
    def _ask(self, method: str, uri: str, **headers: str) -> Iterator[Any]:
        requests = need("requests", "requests")
        try:
            with self.session.request(
                method, uri, headers=headers, timeout=self.timeout, stream=True, allow_redirects=self.redirects
            ) as answer:
                if answer.is_redirect and not self.redirects:
                    raise Refused("the server redirects to another address, where nobody allowed to read")
                yield answer
        except requests.TooManyRedirects as error:
            raise Refused(f"the server redirects more than {_MOST_REDIRECTS} times") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise Refused(f"it is no URL: {error}") from error
        except requests.RequestException as error:
            if isinstance(error, requests.Timeout) or "timed out" in str(error):
                raise TimeoutError(f"the server sent nothing for {self.timeout:g} s") from error
            raise OSError(f"the server cannot be reached, or broke off: {error}") from error


def _session() -> Any:
    requests = need("requests", "requests")
    retry = need("urllib3.util.retry", "urllib3").Retry

    class Patience(retry):  # type: ignore[misc, valid-type]
        def get_retry_after(self, response: Any) -> float | None:
            asked: float | None = super().get_retry_after(response)
            return None if asked is None else min(asked, _LONGEST_WAIT)

    session = requests.Session()
    session.headers.update(_HEADERS)
    session.max_redirects = _MOST_REDIRECTS
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # many threads share the session
    patience = Patience(
        total=_RETRIES, connect=2, read=0, status_forcelist=_BUSY, backoff_factor=0.5, raise_on_status=False, redirect=0
    )
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=64, max_retries=patience)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _require_success(answer: Any) -> None:
    if answer.ok:
        return
    said = f"the server answered {answer.status_code} {answer.reason}".rstrip()
    if answer.status_code in (404, 410):
        raise _Gone(said)
    if answer.status_code in _BUSY:  # that has been asked again already
        raise Busy(said)
    raise OSError(said) if answer.status_code >= 500 else Refused(said)


class _Gone(FileNotFoundError):
    """The server says that there is no such thing."""


def _found(uri: str, answer: Any) -> Found:
    # That of a part, as in `bytes 0-9/30`, is not the object's.
    whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
    length = whole or answer.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else 0
    etag = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
    changed = answer.headers.get("Last-Modified", "")
    return Found(uri, etag or (f"{size}-{changed}" if changed else f"{size}"), size)
