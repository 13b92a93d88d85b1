"""A run becomes an account: whose it is, an agent on every node that may work for it, and its bill.

Agents (`agents.py`) are of the cluster, not of the run: they survive the driver, and count on for whoever comes next.
While the run goes on, what it has cost so far is settled now and then, and its budgets are looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from raycluster.account import owners
from raycluster.account.agent import WINDOW_SECONDS
from raycluster.account.budget import Guard, Verdict, event, matching, require_within, spent
from raycluster.account.owners import Owner
from raycluster.account.settle import cost_of, settle
from raycluster.account.terms import Terms
from raycluster.engine.agents import FLUSH_SECONDS, LOOK_SECONDS, SETTLE_SECONDS, Agents
from raycluster.engine.tender import is_tended
from raycluster.errors import RayclusterError
from raycluster.lake.lake import Lake
from raycluster.units import NanoUsd

_log = logging.getLogger(__name__)


class Account:
    """The account of one run: opened when Ray is there, closed when its work is done."""

    def __init__(self, owner: Owner, lake: Lake, terms: Terms) -> None:
        self.owner, self.lake, self.terms = owner, lake, terms
        labels = {name: value for name in ("team", "project", "environment") if (value := getattr(owner, name))}
        self.agents = Agents(lake, str(owner.run_id))
        self.opened = datetime.now(UTC)
        self.over = threading.Event()
        self.stops: list[Verdict] = []  # budgets that are used up
        self.trouble = ""  # why there is no cost
        self.cost: NanoUsd | None = None  # so far, as it was settled last
        self.budgets = matching(terms.budgets, labels)
        self.guard = Guard(self.budgets, self._spent_by_others())
        self.pause = WINDOW_SECONDS if self.budgets else SETTLE_SECONDS
        owners.begin(owner)
        self.agents.look()
        self.is_tended = is_tended(lake)
        self.looking = threading.Thread(target=self._look, daemon=True)
        self.looking.start()

    def require_within_budget(self) -> None:
        """Stop a run whose budget is used up.

        Raises:
            OverBudget: tells each budget that is.
        """
        if "over_budget" not in self.terms.allow:
            require_within(self.stops)

    def close(self) -> NanoUsd | None:
        """Let every node write what it has, and return what the run has cost; None where it cannot be told."""
        self.over.set()
        self.looking.join(timeout=FLUSH_SECONDS)
        self.agents.flush()
        owners.end(self.owner)
        cost = self._settle()
        if cost is not None:
            self.agents.look_for_unexplained(self.opened, run_id=self.owner.run_id)
        return cost

    def _look(self) -> None:
        settled = time.monotonic()
        while not self.over.wait(LOOK_SECONDS):
            with suppress(Exception):  # Ray may be busy; there is a next time
                self.agents.look()
            if time.monotonic() - settled > self.pause:
                settled = time.monotonic()
                self._settle(itself=bool(self.budgets) or not self.is_tended)

    def _settle(self, *, itself: bool = True) -> NanoUsd | None:
        """Bring the ledger up to date, look at the budgets, and return the cost so far.

        While a cluster's tender settles for all runs, they don't get into each other's way; a budget wants it sooner.
        """
        try:
            if itself:
                settle(self.lake, self.terms.prices)
            cost = self.cost = cost_of(self.lake, str(self.owner.run_id))
            self.guard.recount(self._spent_by_others())
            self._tell(self.guard.look(cost))
        except RayclusterError as error:
            self.trouble = f"its cost is not known: {error.message}"
            _log.warning("%s", error)
            return None
        self.trouble = ""
        return cost

    def _tell(self, verdicts: Sequence[Verdict]) -> None:
        now = datetime.now(UTC)
        for verdict in verdicts:
            _log.warning("%s", verdict.message)
            self.lake.events().put(event(verdict, at=now, run_id=self.owner.run_id))
        self.stops += [verdict for verdict in verdicts if verdict.level == "stop"]

    def _spent_by_others(self) -> dict[str, NanoUsd]:
        now = datetime.now(UTC)
        return {one.name: spent(self.lake, one, now, besides=self.owner.run_id) for one in self.budgets}
