"""The sample corpus becomes a small one: of each folder the smallest files, so every modality and every model."""

import shutil
from pathlib import Path

from raycluster.corpus import build
from raycluster.declare.corpus import load_corpus

ROOT = Path(__file__).parent.parent
TAKEN = {"photos": 12, "speech": 12, "sounds": 6, "stamps": 30, "text": 20, "documents": 4, "sensors": 2, "video": 1}
BROKEN = "noisy-coffee.png"  # one: more would be over the budget


def part(whole: Path, corpus: Path, *, share: int = 1) -> None:
    """Build the whole corpus in one folder, and take a part of it into another.

    It is a minute or two of work, or that divided by `share`.
    """
    build(load_corpus(ROOT / "workloads/sample/corpus.yaml"), whole)
    taken = [whole / "broken" / BROKEN]
    for name, number in TAKEN.items():
        files = (path for path in (whole / name).rglob("*") if path.is_file())
        taken += sorted(files, key=lambda path: path.stat().st_size)[: -(-number // share)]
    for path in taken:
        to = corpus / path.relative_to(whole)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
