"""Waste: every kind counted once, the estimate said to be one, and the sum no more than what was paid."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cost_lines import LAST_WEEK, line, table, usage

from raycluster.account.question import Question, ask
from raycluster.account.waste import Part, waste
from raycluster.declare.prices import LOCAL, Prices, Storage
from raycluster.errors import NotFound
from raycluster.lake.columns import dataset_schema
from raycluster.lake.lake import Lake
from raycluster.units import nano_usd


def lake(folder: Path, *lines: dict[str, Any]) -> Lake:
    made = Lake(str(folder))
    made.ledger().put_costs(table(*lines))
    return made


def parts(place: Lake, question: Question | None = None, **options: Any) -> dict[str, Part]:
    return {part.what: part for part in waste(place, question or ask(), **options).parts}


def bad(number: int, stage: str = "video") -> dict[str, Any]:
    told = {"object_id": f"o{number}", "uri": f"u{number}", "modality": "video", "position": 0, "stage": stage}
    return {**told, "code": "corrupt", "message": "no"}


def dataset(place: Lake) -> Path:
    """Make a dataset, and return where a file lies in it that no version names."""
    table = place.table("clips")
    table.create_or_check(dataset_schema(pa.schema([]), 16))
    orphan = Path(table.uri) / "data" / "orphan.lance"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(bytes(2**20))
    return orphan


def test_every_kind_is_counted_once_and_retries_are_not_in_the_sum(tmp_path: Path) -> None:
    nobody = {"outcome": None, "stage": None}
    place = lake(
        tmp_path,
        line(nanousd=1000, calls=10),
        line(nanousd=70, outcome="failed", calls=2, cpu_seconds=3.0),
        line(nanousd=50, outcome="killed"),
        line(nanousd=300, outcome="retried"),
        line(nanousd=40, kind="idle", is_shared=True, **nobody),
        line(nanousd=5, kind="idle", team=None, run_id=None, **nobody),
        line(nanousd=30, kind="startup", **nobody),
        line(nanousd=20, kind="background", **nobody),
        line(nanousd=10, kind="unattributed", **nobody),
        line(nanousd=900, kind="system", **nobody),
    )
    found = waste(place, ask())
    said = {part.what: part.nanousd for part in found.parts if part.nanousd}
    assert said == {
        "failed": 70,
        "killed": 50,
        "retried": 300,
        "idle": 45,
        "startup": 30,
        "background": 20,
        "unattributed": 10,
    }
    assert found.nanousd == 225
    assert (found.paid_nanousd, found.prices) == (2425, ("list@1",))
    assert found.share == pytest.approx(100 * 225 / 2425)
    assert [(part.calls, part.cpu_seconds) for part in found.parts if part.what == "failed"] == [(2, 3.0)]


def test_rows_in_quarantine_cost_what_a_row_of_their_stage_did(tmp_path: Path) -> None:
    place = lake(
        tmp_path,
        line(nanousd=1000, rows_in=100, rows_out=10),
        line(nanousd=99_000, outcome="failed", rows_in=7),
        line(nanousd=8000, kind="idle", is_shared=True),
        line(nanousd=600, stage="minilm", rows_out=20),
        line(run_id="run-2", nanousd=10, rows_in=1),
    )
    dataset(place)
    quarantine = place.quarantine("clips")
    quarantine.add([*map(bad, range(5)), bad(6, "minilm"), bad(7, "read")], run_id="run-1", workload="clips")
    quarantine.add([bad(8)], run_id="another", workload="clips")
    found = parts(place)["quarantined"]
    assert (found.rows, found.nanousd) == (7, 5 * 10 + 30)
    assert found.is_estimate
    assert "1 of them in stages whose rows nobody counted" in found.means
    assert parts(place, ask(only=["run=run-2"]))["quarantined"].rows == 0
    assert parts(place, ask(only=["run=run-1", "stage=video"]))["quarantined"].rows == 7
    assert parts(place, ask(only=["dataset=clips"]))["quarantined"].rows == 7


def test_orphaned_files_are_counted_and_priced_by_the_month(tmp_path: Path) -> None:
    place = lake(tmp_path, line())
    orphan = dataset(place)
    found = parts(place)["orphaned"]
    assert (found.bytes, found.nanousd, found.in_total) == (2**20, None, False)
    place.ledger().put_usage(usage(line()))
    dear = Prices(name="p", version="1", cpu_hour=0, gib_hour=0, storage=Storage(gib_month=nano_usd("1.024")))
    assert parts(place, prices=dear)["orphaned"].nanousd == 1_000_000
    assert orphan.exists()


def test_other_prices_restate_waste(tmp_path: Path) -> None:
    place = Lake(str(tmp_path))
    place.ledger().put_usage(usage(line(cpu_seconds=1.0, outcome="failed")))
    found = waste(place, ask(), prices=LOCAL)
    assert found.nanousd == found.paid_nanousd > 0
    assert found.prices == (LOCAL.ref,)


def test_nothing_paid_is_nothing_wasted_and_a_misspelt_stage_is_told(tmp_path: Path) -> None:
    empty = waste(Lake(str(tmp_path / "none")), ask())
    assert (empty.nanousd, empty.paid_nanousd, empty.share) == (0, 0, None)
    place = lake(tmp_path, line())
    with pytest.raises(NotFound, match="unknown stage 'vidoe'"):
        waste(place, ask(only=["stage=vidoe"]))
    later = Question(since=LAST_WEEK + timedelta(days=1))
    assert waste(place, later).document["share"] is None


def test_quarantine_tallies_runs_and_stages(tmp_path: Path) -> None:
    quarantine = Lake(str(tmp_path)).quarantine("clips")
    assert quarantine.tally() == {}
    quarantine.add([bad(1), bad(2), bad(3, "minilm")], run_id="a", workload="w")
    quarantine.add([bad(4)], run_id="b", workload="w")
    assert quarantine.tally() == {("a", "video"): 2, ("a", "minilm"): 1, ("b", "video"): 1}
