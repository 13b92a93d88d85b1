"""The sample corpus becomes a searchable dataset before your eyes: the main job, end to end, on real media."""

from __future__ import annotations

from pathlib import Path

from raycluster import terminal
from raycluster.corpus import build
from raycluster.declare.corpus import load_corpus
from raycluster.declare.workload import load_workload
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.errors import NotFound
from raycluster.lake.lake import Lake
from raycluster.lake.overview import describe
from raycluster.search import Question, ask
from raycluster.units import show_bytes

_WORKLOAD = Path("workloads/sample/sample.yaml")
_CORPUS = Path("workloads/sample/corpus.yaml")
_HITS = 3

# What is asked of the sample, and what it shows.
_TEXTS = (
    ("text -> text", "how to grow a garden of software", "modality = 'text'"),
    ("text -> image", "a cat", "modality = 'image'"),
    ("text -> speech", "the number you dialled is busy", "modality = 'audio'"),
    ("text -> document", "how a package is built", "modality = 'document'"),
)


def demo(lake: Lake, folder: Path) -> int:
    """Build the corpus in `folder`, run the sample workload, show what came of it; return the exit status.

    Raises:
        NotFound: this is not the folder of a checkout, where the sample workload lies.
    """
    if not _WORKLOAD.exists():
        raise NotFound(f"no {_WORKLOAD} here", fix="run the demo in the folder of a checkout of raycluster")
    say = terminal.out.print
    say("[bold]1. The corpus[/]: pinned packages, sha256-checked, cached; their licences are in corpus/SOURCES.md")
    report = build(load_corpus(_CORPUS), folder)
    counts = [(name, files, show_bytes(size)) for name, (files, size) in report.folders.items()]
    say(terminal.table("", ["folder", "files", "size"], counts, right=["files", "size"]))
    for missing in report.missing:
        say(f"[yellow]{missing}[/]")

    say(f"\n[bold]2. The run[/]: raycluster run {_WORKLOAD}")
    plan = prepare(load_workload(_WORKLOAD), lake)
    with terminal.Live(quiet=False) as live:
        live.planned(plan)
        summary = execute(plan, lake, observe=live.update)
    terminal.show_summary(summary, as_json=False)
    if summary.status != "done":
        return 1

    say("\n[bold]3. What came of it[/]: raycluster datasets sample")
    described = describe(lake, "sample")
    rows = described["modalities"].items()
    say(terminal.table("", ["modality", "rows"], rows, right=["rows"]))
    say("\n[bold]   and what could not be used[/]: raycluster quarantine sample")
    terminal.show_quarantine(lake.quarantine("sample").rows(), as_json=False)
    say("\n[bold]4. Searching it[/]")
    _search(lake, folder)
    say("\n[bold]Next[/]")
    say("  raycluster run workloads/sample/sample.yaml      again: nothing is done twice")
    say("  cp PHOTO corpus/photos/ && the same               only what is new is worked on")
    say("  raycluster search sample 'a red car' --json       scores, places and features")
    say("  raycluster datasets sample                        columns, indexes, versions")
    say("  raycluster serve                                  the same over HTTP, and a console to look at it")
    say("  workloads/                                        four more, with a page each")
    return 0


def _search(lake: Lake, folder: Path) -> None:
    table = lake.existing("sample")
    for title, text, where in _TEXTS:
        terminal.out.print(f'\n[bold]{title}[/]: raycluster search sample "{text}" --filter "{where}"')
        terminal.show_hits(ask(table, Question(text=text, filter=where, k=_HITS)), as_json=False)
    picture = folder / "photos" / "motorcycle_left.png"
    terminal.out.print(f"\n[bold]image -> image[/]: raycluster search sample --image {picture}")
    terminal.show_hits(ask(table, Question(image=picture.read_bytes(), k=_HITS)), as_json=False)
