"""What earlier runs of a workload cost becomes what the next one will: a figure, and an interval that holds it.

A run's cost is taken to be a fixed part (start-up) and a part for each object, or for each byte, whichever explains
the past better, times a chance factor: runs of all sizes miss by alike shares, not by alike sums. How the fixed part
and the rest divide cannot be known from one run, nor from many of one size; so every division is weighed by how well it
explains the past, and the interval covers all of them by their weight. It is narrow near what was seen, and honestly
wide elsewhere. `plan` shows it, `budget.py` takes it as what is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
from raycluster.lake.sql import any_of
from raycluster.units import NanoUsd, show_usd

CONFIDENCE = 0.8  # of the interval: one run in ten costs more than its upper end

_RUNS = 50  # the latest: prices and clusters change, and older runs say little of the next
# How much runs of one size differ where nothing is known: about 20 %, worth one observation. One earlier run then
# gives, at its own size, an interval from 0.4 to 2.4 times its cost; ten that differ by 5 % give 11 % to both sides.
# Where runs differ by more than 30 %, two or three of them make it too narrow (0.66 instead of 0.8 at 50 %).
_DOUBT = 0.2
# Odds of the fixed part against the rest, at the typical size of an earlier run: e^-15 to e^15 is all or nothing.
_ODDS = np.linspace(-15.0, 15.0, 241)
_DRAWS = 10_000  # the interval's ends are exact to about 1 % of its width
_VAGUE = 0.5  # a fixed share that may lie in a range as wide as this is not told
_FAR = 3.0  # times larger than the largest or smaller than the smallest earlier run: said to be beyond experience

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Past:
    """One finished run of a workload: what it did and what that cost."""

    run_id: str
    objects: int  # worked on, not skipped
    size_bytes: int = 0  # of those objects; 0: not known
    rows: int = 0
    nanousd: NanoUsd | None  # None: it has no lines in the ledger
    seconds: float = 0.0
    declaration: str = ""

    @property
    def tells(self) -> bool:
        """Tell whether a cost can be learnt from it."""
        return self.objects > 0 and self.nanousd is not None and self.nanousd > 0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run will cost: as likely more as less than `nanousd`, and within `low` and `high` with `confidence`."""

    nanousd: NanoUsd
    low: NanoUsd
    high: NanoUsd
    confidence: float = CONFIDENCE
    fixed: NanoUsd | None = None  # of `nanousd`: what a run costs whatever its size; None: earlier runs do not tell
    per_object: float | None = None  # nano-dollars: the rest, divided by the objects
    runs: int  # how many it rests on
    is_extrapolation: bool = False  # far beyond what was seen: the form itself is untested there
    notes: tuple[str, ...] = ()  # what weakens it, for people

    @property
    def message(self) -> str:
        """Say it to people, in one line."""
        cases = f"{self.confidence:.0%}".replace("%", " %")
        runs = "1 earlier run" if self.runs == 1 else f"{self.runs} earlier runs"
        said = f"about {show_usd(self.nanousd)} ({show_usd(self.low)} to {show_usd(self.high)} in {cases} of cases, "
        if self.fixed is None or self.per_object is None:
            return f"{said}from {runs})"
        start, each = show_usd(self.fixed), show_usd(round(self.per_object))
        return f"{said}from {runs}): {start} to start, {each} an object"


def history(lake: Lake, workload: str, *, limit: int = _RUNS) -> list[Past]:
    """Return a workload's latest finished runs that worked on objects, newest first, with what each has cost.

    Runs that gave old rows new columns are left out: that work is not counted in objects.
    """
    runs = lake.runs().recent(workload=workload, status="done", limit=None)
    worked = [run for run in runs if _objects(run) > 0 and not run.summary.get("filled")][:limit]
    costs = _costs(lake, [run.run_id for run in worked])
    return [_past(run, costs.get(run.run_id)) for run in worked]


def _objects(run: Run) -> int:
    return int(run.summary.get("objects", 0) - run.summary.get("skipped", 0))


def _costs(lake: Lake, run_ids: Sequence[str]) -> dict[str, NanoUsd]:
    found: dict[str, NanoUsd] = {}
    for where in any_of("run_id", run_ids):
        for batch in lake.ledger().costs(where, columns=["run_id", "nanousd"]):
            sums = pa.Table.from_batches([batch]).group_by("run_id").aggregate([("nanousd", "sum")])
            for run_id, amount in zip(*(sums[name].to_pylist() for name in ("run_id", "nanousd_sum")), strict=True):
                found[run_id] = found.get(run_id, 0) + (amount or 0)
    return found


def _past(run: Run, nanousd: NanoUsd | None) -> Past:
    told = run.summary
    return Past(
        run_id=run.run_id,
        objects=_objects(run),
        size_bytes=told.get("size_bytes", 0),
        rows=told.get("rows", 0),
        nanousd=nanousd,
        seconds=told.get("seconds", 0.0),
        declaration=told.get("declaration", ""),
    )


def why_not(history: Sequence[Past]) -> str:
    """Say why nothing can be predicted; empty where something can."""
    if any(past.tells for past in history):
        return ""
    if not history:
        return "no earlier run of this workload has finished that had anything to do"
    return "earlier runs of this workload have no costs in the ledger"


def predict(
    history: Sequence[Past], objects: int, size_bytes: int = 0, *, declaration: str | None = None
) -> Prediction | None:
    """Predict what a run of so many objects will cost; None where nothing is known (`why_not` says why).

    Args:
        history: of `history`, newest first.
        objects: to work on.
        size_bytes: of all of them; 0: not known.
        declaration: digest of what the workload declares; runs that declared the same are preferred.
    """
    known = [past for past in history if past.tells]
    if not known:
        return None
    if objects <= 0:
        return Prediction(nanousd=0, low=0, high=0, runs=len(known))
    same = [past for past in known if past.declaration == declaration]
    known = (same or known)[:_RUNS]
    far = _far(known, objects, size_bytes)
    notes = [far] if far else []
    if declaration is not None and not same:
        notes.append("every earlier run declared other stages or options: what they change is not in the interval")
    cost, fixed = _draw(known, objects, size_bytes)
    low, middle, high = np.quantile(cost, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2])
    least, share, most = np.quantile(fixed, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2])
    told = most - least < _VAGUE
    return Prediction(
        nanousd=round(middle),
        low=round(low),
        high=round(high),
        fixed=round(share * middle) if told else None,
        per_object=float((1 - share) * middle / objects) if told else None,
        runs=len(known),
        is_extrapolation=bool(far),
        notes=tuple(notes),
    )


def _far(known: Sequence[Past], objects: int, size_bytes: int) -> str:
    """Say how far a run lies beyond the earlier ones; empty where it does not."""
    sizes = [("objects", objects, [past.objects for past in known])]
    if size_bytes and all(past.size_bytes for past in known):
        sizes.append(("bytes", size_bytes, [past.size_bytes for past in known]))
    for what, now, before in sizes:
        if now > _FAR * max(before):
            return f"{now / max(before):,.0f} times as many {what} as the largest earlier run: no run was like this one"
        if now * _FAR < min(before):
            return (
                f"{min(before) / now:,.0f} times fewer {what} than the smallest earlier run: no run was like this one"
            )
    return ""


def _draw(known: Sequence[Past], objects: int, size_bytes: int) -> tuple[Array, Array]:
    """Draw costs that the next run may have, and the share of each that is fixed.

    In logarithms, cost = level + log((odds + size) / (odds + 1)) + noise, where size is in terms of the typical
    earlier run. For given odds the level and the noise are a sample's mean and variance, with a doubt of `_DOUBT` that
    counts as one observation; then the next cost has a t distribution.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, chapter 3 (normal, mean and variance unknown).
    """
    # costs: (run,); sizes: (driver, run) and now: (driver,), in terms of the typical run
    costs = np.log([float(past.nanousd or 0) for past in known])
    sizes, now = _sizes(known, objects, size_bytes)
    # form: (driver, odds, run), what the size adds to the logarithm of the level
    form = np.logaddexp(_ODDS[:, None], sizes[:, None, :]) - np.logaddexp(_ODDS, 0.0)[:, None]
    left = costs - form
    level = left.mean(axis=2)
    freedom = len(known)  # n - 1, and one of the doubt
    scale2 = (_DOUBT**2 + ((left - level[:, :, None]) ** 2).sum(axis=2)) / freedom
    # Either extreme is likelier than an even division: Beta(1/2, 1/2) of the share, as a density of its odds.
    weight = -(freedom / 2) * np.log(scale2) - 0.5 * (np.logaddexp(_ODDS, 0.0) + np.logaddexp(-_ODDS, 0.0))
    weight = np.exp(weight - weight.max()).ravel()
    # drawn: (draw,) places in (driver, odds), each as often as its weight says
    chances = np.cumsum(weight) / weight.sum()
    drawn = np.searchsorted(chances, (np.arange(_DRAWS) + 0.5) / _DRAWS)
    driver, odds = np.divmod(np.minimum(drawn, weight.size - 1), _ODDS.size)
    noise = np.random.default_rng(0).standard_t(freedom, _DRAWS)  # the same question has the same answer
    whole = np.logaddexp(_ODDS[odds], now[driver])
    mean = level[driver, odds] + whole - np.logaddexp(_ODDS[odds], 0.0)
    drawn_cost = mean + noise * np.sqrt(scale2[driver, odds] * (1 + 1 / len(known)))
    return np.exp(np.clip(drawn_cost, None, 300.0)), np.exp(_ODDS[odds] - whole)


def _sizes(known: Sequence[Past], objects: int, size_bytes: int) -> tuple[Array, Array]:
    """Return logarithms of earlier sizes and of this one: in objects and, where all are known, in bytes."""
    measured = [([past.objects for past in known], objects)]
    if size_bytes and all(past.size_bytes for past in known):
        measured.append(([past.size_bytes for past in known], size_bytes))
    before = np.log([[float(size) for size in sizes] for sizes, _ in measured])
    typical = before.mean(axis=1)
    return before - typical[:, None], np.log([float(size) for _, size in measured]) - typical
