"""What can go wrong becomes one family of errors: each has a code, an HTTP status and what to do next.

`RayclusterError` is for people: it ends a command (exit 1, or 2 for wrong use) or a request (its `status`).
`BadMedia` is for rows: it routes one object or row to quarantine and never ends a run.
Both survive pickling, because Ray carries them from worker to driver.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

QuarantineCode = Literal[
    "unreadable",  # the source refused: permission, vanished, network
    "unsupported",  # a format, codec or modality that this workload cannot decode; encrypted media
    "truncated",  # the object ends before its format says it does
    "corrupt",  # the bytes contradict their format
    "empty",  # zero bytes, or nothing to see, hear or read in it
    "too_large",  # beyond a declared limit of bytes, pixels or seconds
    "timeout",  # a stage gave no sign of life for its `timeout`
    "model_error",  # an encoder failed on this row
    "contract",  # a check said no
    "out_of_memory",  # the row did not fit, even alone
]
QUARANTINE_CODES: tuple[QuarantineCode, ...] = get_args(QuarantineCode)


class RayclusterError(Exception):
    """An error a person reads: what is wrong with which value, where, and what to do next."""

    code = "internal"
    status = 500
    retryable = False
    exit_code = 1

    def __init__(self, message: str, *, fix: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.where = where  # "workloads/x/x.yaml:14:7"

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{place}{self.message}{advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fix, self.where)


def _rebuild(family: type[RayclusterError], message: str, fix: str, where: str) -> RayclusterError:
    return family(message, fix=fix, where=where)


class InvalidUse(RayclusterError):
    """The command, file or request is wrong; nothing was written."""

    code, status, exit_code = "invalid", 400, 2


class InvalidFile(InvalidUse):
    """A YAML file is wrong: `problems` holds every mistake found, each with its own place."""

    code = "invalid_file"

    def __init__(self, problems: list[RayclusterError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


class NotFound(InvalidUse):
    """A named thing does not exist; `fix` names the nearest that does."""

    code, status = "not_found", 404


class MissingPackage(RayclusterError):
    """An optional package or outside client is absent; `fix` is the command that installs it."""

    code, status = "missing_package", 503


class MissingClient(MissingPackage):
    """A registry's client (pip, npm, apt-get) is absent, so weights or media cannot be fetched."""


class Unplaceable(InvalidUse):
    """The plan asks for more than the cluster has."""

    code = "unplaceable"


class LakeError(RayclusterError):
    """The lake cannot be read or written."""

    code, status = "lake", 503


class Mismatch(InvalidUse):
    """A dataset's columns do not fit the workload that would write to it."""

    code, status = "mismatch", 409


class CommitConflict(RayclusterError):
    """Another driver committed first; the dataset is intact."""

    code, status, retryable = "commit_conflict", 409, True


class TakenOver(RayclusterError):
    """Another run of the same workload has taken this one's place; the dataset is intact."""

    code, status = "taken_over", 409


class RolledBack(InvalidUse):
    """What a run would do has been rolled back: doing it again needs a person's word."""

    code, status = "rolled_back", 409


class RunFailed(RayclusterError):
    """A run ended without moving `live`: too many bad rows, or its sums do not add up."""

    code = "run_failed"


class OverBudget(RayclusterError):
    """A budget's limit has been reached, or would be: `fix` names the file that sets it, and when its period ends."""

    code, status = "over_budget", 402


class Unauthenticated(RayclusterError):
    """Nobody knows who asks: no credentials, or none that hold. What exactly is wrong with them is logged, not told."""

    code, status = "unauthenticated", 401


class Forbidden(RayclusterError):
    """This principal may not do that, by the policy in force."""

    code, status = "forbidden", 403


class Conflict(InvalidUse):
    """What is asked contradicts what was asked before, or what is there now."""

    code, status = "conflict", 409


class Gone(NotFound):
    """It was there, and is not any more, or is not what it was."""

    code, status = "gone", 410


class TooLarge(InvalidUse):
    """More bytes, rows or terms than one request may bring."""

    code, status = "too_large", 413


class Busy(RayclusterError):
    """More requests than can be served now: nothing was begun, try again in a moment."""

    code, status, retryable = "busy", 429, True


class TimedOut(RayclusterError):
    """A request took longer than it may; what it had begun was cancelled."""

    code, status, retryable = "timed_out", 503, True


class BadMedia(Exception):
    """One object or row cannot be used; it goes to quarantine under `code`."""

    def __init__(self, code: QuarantineCode, message: str) -> None:
        super().__init__(message)
        self.code: QuarantineCode = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message)
