"""A client's calls become requests to a raycluster server, and its answers values: one method a verb."""

from __future__ import annotations

import os
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack
from urllib.parse import quote

from raycluster.client.answer import Added, Answer, Deleted, Run
from raycluster.client.form import Form
from raycluster.client.wire import Question, Wire
from raycluster.errors import InvalidUse, RunFailed, TimedOut

if TYPE_CHECKING:
    import pyarrow as pa

File = str | Path | tuple[str, bytes]  # a path; or a name and what it is to hold

_ARROW = "application/vnd.apache.arrow.stream"
_PAGE = 1000  # rows of a page: about 2 MB of vectors
_CHUNK = 1 << 20  # bytes
_LOOK_SECONDS = 1.0  # between two looks at a run


class Asked(TypedDict, total=False):
    """What a search is asked: one of `text`, `image`, `audio` (a path, or bytes), `id` (of a row like it), `vector`."""

    text: str
    image: str | Path | bytes
    audio: str | Path | bytes
    id: str
    vector: Sequence[float]
    column: str  # the one in whose space `vector` lies
    mode: Literal["vector", "text", "hybrid"]
    k: int
    offset: int  # `next` of the answer before
    filter: str
    columns: Sequence[str]
    version: int | str
    group: Literal["object"]
    explain: bool
    highlight: bool
    weights: Mapping[str, float]  # of `vector` and `text` in mode hybrid


class Chosen(TypedDict, total=False):
    """Which rows of a dataset are wanted, and what of them."""

    filter: str
    columns: Sequence[str]
    version: int | str
    after: str
    limit: int  # rows of a page


class Objects(TypedDict, total=False):
    """What is to be added: `files`, `texts`, or `uris` below what the server allows."""

    files: Sequence[File]
    texts: Sequence[str]
    uris: Sequence[str]
    key: str  # the same key and objects again: nothing is added twice
    workload: str  # by whose declaration, where several write to the dataset


class Client:
    """A server's verbs. `raycluster.connect(url)` makes one; it is a context manager too."""

    def __init__(self, url: str | None = None, *, token: str | None = None, timeout: float = 60.0) -> None:
        """Remember whom to ask; nothing is sent yet.

        Args:
            url: of the server; otherwise RAYCLUSTER_URL, or http://127.0.0.1:8000.
            token: an API token or a JWT; otherwise RAYCLUSTER_TOKEN, or none.
            timeout: seconds for an answer, and between two pieces of one.
        """
        url = url or os.environ.get("RAYCLUSTER_URL") or "http://127.0.0.1:8000"
        self._wire = Wire(url, token or os.environ.get("RAYCLUSTER_TOKEN"), timeout=timeout)

    @property
    def url(self) -> str:
        """Return whom this asks."""
        return self._wire.url

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def health(self) -> dict[str, Any]:
        """Return whether the server can answer, and its version."""
        return self._wire.json("GET", "/readyz")

    def datasets(self) -> list[dict[str, Any]]:
        """Return the datasets that one may read."""
        return list(self._wire.json("GET", "/v1/datasets")["datasets"])

    def dataset(self, name: str) -> dict[str, Any]:
        """Return all about a dataset: counts, columns, encoders, versions."""
        return self._wire.json("GET", _path("datasets", name))

    def search(self, name: str | Sequence[str], **asked: Unpack[Asked]) -> Answer:
        """Search a dataset: `client.search("photos", text="a dog in snow", k=5, filter="modality = 'image'")`.

        With a list of names, search all of them; each hit says its `dataset`.
        """
        body: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        for kind in ("image", "audio"):
            if kind in body:
                body[kind] = b64encode(_bytes(body[kind], where=kind)).decode()
        for kind in ("columns", "vector"):
            if kind in body:
                body[kind] = _plain(body[kind])
        if isinstance(name, str):
            path = _path("datasets", name, "search")
        else:
            path, body["datasets"] = _path("search"), [*name]
        return Answer.of(self._wire.json("POST", path, Question(json=body)))

    def facets(
        self,
        name: str,
        columns: Sequence[str],
        *,
        filter: str | None = None,  # noqa: A002
        version: int | str | None = None,
    ) -> dict[str, Any]:
        """Return how many rows have each value of some columns."""
        query = {"columns": ",".join(columns), "filter": filter, "version": version}
        return self._wire.json("GET", _path("datasets", name, "facets"), Question(query=query))

    def rows(self, name: str, **chosen: Unpack[Chosen]) -> Iterator[dict[str, Any]]:
        """Yield rows in the order of their ids, fetched page by page, all of one version."""
        query = {"limit": _PAGE, **_query(chosen)}
        while True:
            page = self._wire.json("GET", _path("data", name), Question(query=query))
            yield from page["rows"]
            if page["next"] is None:
                return
            query |= {"after": page["next"], "version": page["version"]}

    def arrow(self, name: str, **chosen: Unpack[Chosen]) -> pa.RecordBatchReader:
        """Return rows as a reader of Arrow record batches, fetched page by page, all of one version."""
        import pyarrow as pa

        pages = self._arrow_pages(name, {"limit": _PAGE, **_query(chosen)})
        first = next(pages)

        batches = (batch for page in chain([first], pages) for batch in page.to_batches())
        return pa.RecordBatchReader.from_batches(first.schema, batches)

    def _arrow_pages(self, name: str, query: dict[str, Any]) -> Iterator[pa.Table]:
        import pyarrow as pa

        headers = {"Accept": _ARROW}
        while True:
            content = self._wire.bytes(_path("data", name), Question(query=query, headers=headers))
            page = pa.ipc.open_stream(content).read_all()
            told = page.schema.metadata
            yield page.replace_schema_metadata()
            if not told[b"next"]:
                return
            query = {**query, "after": told[b"next"].decode(), "version": told[b"version"].decode()}

    def row(self, name: str, key: str, **chosen: Unpack[Chosen]) -> dict[str, Any]:
        """Return one row by its id."""
        found = self._wire.json("GET", _path("datasets", name, "rows", key), Question(query=_query(chosen)))
        return dict(found["row"])

    def thumbnail(self, name: str, key: str, *, version: int | str | None = None) -> bytes:
        """Return the picture of a row, JPEG or PNG."""
        return self._wire.bytes(_path("datasets", name, "rows", key, "thumbnail"), Question(query={"version": version}))

    def media(self, name: str, key: str, *, part: range | None = None, version: int | str | None = None) -> bytes:
        """Return the original bytes of a row's object, or a part: `part=range(0, 1000)` is the first thousand."""
        headers = {} if part is None else {"Range": f"bytes={part.start}-{part.stop - 1}"}
        question = Question(query={"version": version}, headers=headers)
        with self._wire.answered("GET", _path("datasets", name, "rows", key, "media"), question) as answer:
            whole = bytes(answer.content)
            # A store that has no parts answers with everything.
            return whole if part is None or answer.status_code == 206 else whole[part.start : part.stop]

    def save(self, name: str, key: str, to: str | Path, *, version: int | str | None = None) -> Path:
        """Write the original bytes of a row's object to a file, which appears once all of it is there."""
        path = Path(to)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        question = Question(query={"version": version})
        try:
            with (
                self._wire.answered("GET", _path("datasets", name, "rows", key, "media"), question) as answer,
                partial.open("wb") as file,
            ):
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def link(self, name: str, key: str, *, version: int | str | None = None) -> dict[str, Any]:
        """Return a link to a row's object in its store: `{"url", "expires_at"}`."""
        question = Question(query={"version": version, "link": "true"})
        return self._wire.json("GET", _path("datasets", name, "rows", key, "media"), question)

    def add(self, name: str, **objects: Unpack[Objects]) -> Added:
        """Add objects to a dataset: `client.add("photos", files=["a.jpg"])`. Returns at once; a run works on them.

        Files are read while they are sent. Whether or not a `key` is given, nothing is added twice when the connection
        fails and the request is sent again; with one of your own, that holds across programs too.
        """
        files, texts, uris = objects.get("files", ()), objects.get("texts", ()), objects.get("uris", ())
        key = objects.get("key") or uuid.uuid4().hex
        if not (key.isascii() and key.isprintable()):
            raise InvalidUse(f"the key {key!r} has signs that no header can have", where="key")
        headers = {"Idempotency-Key": key}
        query = {"workload": objects.get("workload")}
        if files and uris:
            raise InvalidUse("files and uris go in two requests", where="uris", fix="add the uris in another call")
        if files:
            form = Form([*map(_part, files), *(("text.txt", text.encode()) for text in texts)])
            question = Question(query=query, body=form, headers={**headers, "Content-Type": form.content_type})
        else:
            bodies = [*({"uri": uri} for uri in uris), *({"text": text} for text in texts)]
            question = Question(query=query, json={"objects": bodies}, headers=headers)
        return Added.of(self._wire.json("POST", _path("data", name), question))

    def delete(self, name: str, *, ids: Sequence[str] = (), filter: str | None = None, why: str = "") -> Deleted:  # noqa: A002
        """Delete whole objects for good: by the ids of rows or objects, or all with a row for which `filter` holds."""
        body: dict[str, Any] = {"ids": [*ids]} if ids else {}
        body |= {key: value for key, value in (("filter", filter), ("why", why)) if value}
        return Deleted.of(self._wire.json("DELETE", _path("data", name), Question(json=body)))

    def runs(self, **asked: str | int) -> list[Run]:
        """Return runs, newest first: `client.runs(dataset="photos", status="failed", limit=10)`."""
        return [Run.of(one) for one in self._wire.json("GET", "/v1/runs", Question(query=asked))["runs"]]

    def run(self, run_id: str) -> Run:
        """Return a run, with its progress while it goes on."""
        return Run.of(self._wire.json("GET", _path("runs", run_id)))

    def wait(self, run_id: str, *, timeout: float = 3600.0) -> Run:
        """Return a run once it is done.

        Raises:
            RunFailed: it ended otherwise.
            TimedOut: it goes on after so many seconds.
        """
        until = time.monotonic() + timeout
        while not (found := self.run(run_id)).has_ended:
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(f"run {run_id} is still {found.status} after {timeout:g} s", fix="wait for it again")
            time.sleep(min(_LOOK_SECONDS, left))
        if found.status != "done":
            raise RunFailed(f"run {run_id} has {found.status}", fix=f"see what became of it: client.run({run_id!r})")
        return found

    def quarantine(self, name: str, **asked: str | int) -> Iterator[dict[str, Any]]:
        """Yield what could not be used, newest first, page by page: `client.quarantine("photos", code="corrupt")`."""
        query: dict[str, Any] = {"limit": _PAGE, **asked}
        while True:
            page = self._wire.json("GET", _path("quarantine", name), Question(query=query))
            yield from page["rows"]
            if page["next"] is None:
                return
            query["after"] = page["next"]

    def costs(self, *, by: str | Sequence[str] | None = None, **asked: str | Sequence[str]) -> dict[str, Any]:
        """Return what was paid for what: `client.costs(by=["team", "stage"], since="30d", only=["team=search"])`."""
        query = {"by": by if by is None or isinstance(by, str) else ",".join(by), **asked}
        return self._wire.json("GET", "/v1/costs", Question(query=query))


def _path(*parts: str) -> str:
    for part in parts:
        if part in ("", ".", ".."):  # the path of something else
            raise InvalidUse(f"{part!r} names nothing")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _query(chosen: Mapping[str, Any]) -> dict[str, Any]:
    columns = chosen.get("columns")
    return {**chosen, **({"columns": ",".join(columns)} if columns is not None else {})}


def _plain(values: Any) -> list[Any]:
    """Return numbers or names as JSON can hold them; an array of NumPy has its own way."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _bytes(content: str | Path | bytes, *, where: str) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return Path(content).read_bytes()
    except OSError as error:
        raise InvalidUse(f"{content} cannot be read: {error.strerror}", where=where) from error


def _part(file: File) -> tuple[str, Path | bytes]:
    return file if isinstance(file, tuple) else (Path(file).name, Path(file))
