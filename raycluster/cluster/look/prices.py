"""The files that say what things cost become findings: read as a run reads them, before one is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator

from raycluster.cluster.look import Finding, Site


def look(site: Site) -> Iterator[Finding]:
    """Read the price list and the budgets that the environment names."""
    from raycluster.account.terms import declared_budgets, declared_prices
    from raycluster.declare.prices import Prices
    from raycluster.errors import InvalidFile, RayclusterError

    for name, read in (("RAYCLUSTER_PRICES", declared_prices), ("RAYCLUSTER_BUDGETS", declared_budgets)):
        try:
            found = read()
        except InvalidFile as error:
            for one in error.problems:
                yield Finding("problem", f"{name}: {one.message}", one.where, one.fix)
        except RayclusterError as error:
            yield Finding("problem", f"{name}: {error.message}", os.environ.get(name, ""), error.fix)
        else:
            if name in os.environ:
                told = found.ref if isinstance(found, Prices) else f"{len(found)} budgets"
                yield Finding("ok", f"{name} can be used: {told}")
            elif name == "RAYCLUSTER_PRICES" and site.address:
                what = "no price list is named: whatever a node of the cluster costs, it is billed as a local machine"
                yield Finding(
                    "warning", what, fix="export RAYCLUSTER_PRICES=FILE; workloads/prices has some to begin with"
                )
            else:
                yield Finding("note", f"{name} names no file: {_MEANING[name]}")


_MEANING = {"RAYCLUSTER_PRICES": "work is billed as a local machine's", "RAYCLUSTER_BUDGETS": "no budget stops a run"}
