"""A YAML file becomes the resource that its `kind` names.

For those who do not know beforehand what a file holds: `validate` and `schema`. A new kind is one more line here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from raycluster.declare import budget, corpus, prices, workload
from raycluster.declare.document import API_VERSION, MOST_BYTES, Document, load, nearest
from raycluster.errors import NotFound
from raycluster.stage import unknown

# At the start of a line or of a flow mapping: what mentions it, or holds one further in, is no resource.
_MARK = re.compile(r"""^(?:\{\s*)?["']?apiVersion["']?\s*:\s*["']?raycluster/""", re.MULTILINE)


class Kind(NamedTuple):
    """How one kind of resource is read, and what its JSON Schema is."""

    build: Callable[[Document], Any]
    schema: Callable[[], dict[str, Any]]


KINDS = {
    "Workload": Kind(workload.build, workload.schema),
    "Corpus": Kind(corpus.build, corpus.schema),
    "Budget": Kind(budget.build, budget.schema),
    "Prices": Kind(prices.build, prices.schema),
}


def load_resource(path: str | Path) -> Any:
    """Read a file of any kind.

    Raises:
        NotFound: no such file.
        InvalidFile: with every mistake in it.
    """
    document = load(path)
    name = document.value.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        message = "missing key 'kind'" if "kind" not in document.value else f"unknown kind {name!r}"
        document.report(message, ("kind",), nearest(str(name), list(KINDS)))
        document.finish()
    return KINDS[name].build(document)


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind, whatever the case of its letters.

    Raises:
        NotFound: no such kind.
    """
    found = {name.lower(): name for name in KINDS}.get(kind.lower())
    if found is None:
        raise unknown("kind", kind.capitalize(), list(KINDS))
    return KINDS[found].schema()


def files(path: Path) -> list[Path]:
    """Return the file, or every file of a resource below the folder.

    Raises:
        NotFound: there is none.
    """
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*.y*ml")) if file.is_file() and _MARK.search(_beginning(file))]
    if not found:
        message = f"no workload file, nor one of another kind, below {path}"
        raise NotFound(message, fix=f"such a file holds `apiVersion: {API_VERSION}`")
    return found


def _beginning(file: Path) -> str:
    """Return as much of a file as may count; nothing of one that cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
