"""`python -m raycluster.corpus FILE [FOLDER]` becomes a corpus on disk."""

from __future__ import annotations

import sys
from pathlib import Path

from raycluster.corpus import build
from raycluster.declare.corpus import load_corpus
from raycluster.errors import RayclusterError


def main(arguments: list[str]) -> int:
    """Build the corpus that a file declares; return the exit status."""
    if not 1 <= len(arguments) <= 2:
        print("use: python -m raycluster.corpus workloads/sample/corpus.yaml [FOLDER, default corpus]", file=sys.stderr)
        return 2
    try:
        print(build(load_corpus(arguments[0]), Path(arguments[1] if len(arguments) > 1 else "corpus")))
    except RayclusterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
