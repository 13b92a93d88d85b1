"""A bad version becomes history: readers and the next run go back to an earlier one; who and why is written down.

Two things move. The `live` tag goes back, so readers see the earlier version within seconds. And Lance's `restore`
puts that version's rows and indexes on top as the latest one, so that the next run builds on it. A run that is still
writing loses its fence by that, and commits nothing more.

What was undone is not silently done again: a run whose workload declares the same as the one that was rolled back
refuses, until the workload is changed, or `--redo` says that the cause lay elsewhere. A rollback is undone by another
one, to the version that it left.

What was deleted stays deleted, also where the earlier version holds it: it is taken out again, and readers go to the
version after that.

The record (`rollbacks.py`) is written before anything moves, and once more when all has: after a death in between it
has no `restored`, and the next run refuses until the rollback has been given again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from raycluster.errors import InvalidUse, NotFound, RolledBack
from raycluster.lake import store
from raycluster.lake.commit import Change, commit
from raycluster.lake.lake import Lake
from raycluster.lake.rollbacks import Rollback
from raycluster.lake.table import PREVIOUS, Move, Table


def roll_back(lake: Lake, name: str, *, to: str | None, by: str, why: str = "") -> Rollback:
    """Let readers and the next run go back to an earlier version, whole and with its indexes.

    Args:
        lake: where the dataset lies.
        name: the dataset.
        to: a version, a tag, or a moment in ISO 8601 (local time unless it names a zone); None: what readers saw
            before the present one.
        by: who.
        why: in words, for those who ask later.

    Raises:
        NotFound: no such dataset, version or tag, or nothing was live then.
        InvalidUse: the version lies in the middle of a run.
    """
    table = lake.existing(name)
    version = resolve(lake, table, to)
    if working := table.open_runs(version):
        raise InvalidUse(
            f"version {version} of {name!r} lies in the middle of run {', '.join(working.values())}: its rows were "
            "never proven",
            fix=f"choose one that was live: raycluster datasets {name}",
        )
    live, latest = table.live(), table.version()
    before, after = table.last_runs(version), table.last_runs(latest)
    follows = {run.run_id: run.summary.get("follows") for run in lake.runs().recent(name, limit=None)}
    entry = Rollback(
        rollback_id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        dataset=name,
        at=datetime.now(UTC),
        by=by,
        why=why,
        left=latest if live is None else live,
        version=version,
        undone={
            one: ran["digest"] for one, ran in after.items() if ran["run_id"] not in _line(follows, before.get(one))
        },
        regained={one: ran["digest"] for one, ran in before.items()},
    )
    lake.rollbacks().put(entry)
    with store.explained(table.uri, "roll back"):
        table.open(version).restore()
    entry = replace(entry, restored=table.version())
    if gone := lake.deletions(name).among(rows.column("object_id") for rows in table.known()):
        landed = commit(table, Change(run_id=entry.rollback_id, workload="", removed=gone))
        entry = replace(entry, version=landed.version, restored=landed.version)
    if live is not None:
        table.set_live(entry.version, "back")
    for run_id in table.open_runs(latest).values():
        lake.runs().close(run_id, f"{name!r} was rolled back to version {version} by {by}")
    lake.rollbacks().put(entry)
    return entry


def _line(follows: Mapping[str, str | None], ran: Mapping[str, str] | None) -> set[str]:
    """Return a run and all that it follows, one after the other: whose rows a version holds."""
    line = set[str]()
    run = ran["run_id"] if ran else None
    while run and run not in line:
        line.add(run)
        run = follows.get(run)
    return line


def resolve(lake: Lake, table: Table, to: str | None) -> int:
    """Return the version that a version number, a tag, a moment or None (the one live before) stands for.

    Raises:
        NotFound: there is none.
    """
    if to is None:
        previous = table.tags().get(PREVIOUS)
        if previous is None:
            raise NotFound(f"readers of {table.name!r} have seen one version only", fix="name a version: --to VERSION")
        return previous
    if to.isdigit() or to in table.tags():
        return int(table.open(to).version)
    try:
        moment = datetime.fromisoformat(to).astimezone(UTC)
    except ValueError:
        return int(table.open(to).version)  # says what there is
    for at, version in shown(lake, table.name):
        if at <= moment:
            return int(table.open(version).version)
    raise NotFound(f"nothing of {table.name!r} was live at {to}", fix=f"see when: raycluster datasets {table.name}")


def shown(lake: Lake, name: str) -> list[tuple[datetime, int]]:
    """Return when readers began to see which version, newest first."""
    runs = [
        (run.finished_at, run.version)
        for run in lake.runs().recent(name, status="done", limit=None)
        if run.finished_at and run.version
    ]
    backs = [(entry.at, entry.version) for entry in lake.rollbacks().of(name)]
    return sorted([*runs, *backs], reverse=True)


def publish(lake: Lake, table: Table, version: int, move: Move = "forward") -> int:
    """Let readers see what a run has made, unless it was rolled back meanwhile; return what they see.

    A tag has no compare-and-swap. Whoever comes second puts it right: a rollback moves it after its restore, a run
    looks for a restore after it has moved it.
    """
    seen = table.set_live(version, move)
    for entry in lake.rollbacks().of(table.name)[:1]:
        if entry.restored is not None and entry.restored > version:
            return table.set_live(entry.version, "back")
    return seen


def require_not_undone(lake: Lake, name: str, *, workload: str, declaration: str) -> None:
    """Refuse to do again what was rolled back.

    Raises:
        RolledBack: the last word on this workload, as it is declared now, is a rollback; or one was not finished.
    """
    entries = lake.rollbacks().of(name)
    if entries and entries[0].restored is None:
        raise RolledBack(
            f"a rollback of {name!r} to version {entries[0].version} by {entries[0].by} was not finished",
            fix=f"give it again: raycluster rollback {name} --to {entries[0].version}",
        )
    undone = _last_word(entries, workload, declaration)
    if undone is None or _done_since(lake, undone, workload, declaration):
        return
    reason = f" ({undone.why})" if undone.why else ""
    when = f"{undone.at.astimezone():%Y-%m-%d %H:%M}"
    raise RolledBack(
        f"what this workload declares was rolled back by {undone.by} on {when}{reason}: running "
        f"it again would bring back into {name!r} what was taken out",
        fix=f"change the workload; or say --redo if the cause lay elsewhere; or undo the rollback: raycluster rollback "
        f"{name} --to {undone.left}",
    )


def _last_word(entries: Sequence[Rollback], workload: str, declaration: str) -> Rollback | None:
    for entry in entries:
        if entry.undone.get(workload) == declaration:
            return entry
        if entry.regained.get(workload) == declaration:
            return None
    return None


def _done_since(lake: Lake, entry: Rollback, workload: str, declaration: str) -> bool:
    return any(
        run.workload == workload and run.started_at > entry.at and run.summary.get("declaration") == declaration
        for run in lake.runs().recent(entry.dataset, status="done", limit=None)
    )
