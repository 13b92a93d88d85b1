"""Errors cross from worker to driver whole, and end a command with the right status."""

import pickle
from typing import get_args

import pytest
from ray import cloudpickle

from raycluster import cli, errors, fetch
from raycluster.engine import cluster
from raycluster.errors import QUARANTINE_CODES, BadMedia, InvalidFile, InvalidUse, RayclusterError

FAMILIES = sorted(
    {
        member
        for module in (cli, cluster, errors, fetch)
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, RayclusterError) and member is not InvalidFile
    },
    key=lambda family: family.__name__,
)


def test_families_are_found() -> None:
    assert {"RayclusterError", "InvalidUse", "NotFound", "LakeError", "NoCluster", "FetchFailed", "NoLake"} <= {
        family.__name__ for family in FAMILIES
    }


@pytest.mark.parametrize("travel", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_survives_pickling(family: type[RayclusterError], travel: object) -> None:
    error = family("what is wrong", fix="do this", where="w.yaml:1:2")
    twin = travel.loads(travel.dumps(error))
    assert type(twin) is family
    assert (twin.message, twin.fix, twin.where) == ("what is wrong", "do this", "w.yaml:1:2")
    assert str(twin) == str(error) == "w.yaml:1:2: what is wrong\n  fix: do this"
    assert (twin.code, twin.status, twin.retryable) == (family.code, family.status, family.retryable)


def test_an_invalid_file_keeps_every_problem() -> None:
    error = InvalidFile([InvalidUse("one", where="w.yaml:1"), InvalidUse("two", fix="mend it")])
    twin = pickle.loads(pickle.dumps(error))
    assert [(one.message, one.where, one.fix) for one in twin.problems] == [
        ("one", "w.yaml:1", ""),
        ("two", "", "mend it"),
    ]
    assert str(twin) == "w.yaml:1: one\ntwo\n  fix: mend it"
    assert twin.exit_code == 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_wrong_use_ends_with_two_and_a_client_error_all_else_with_one(family: type[RayclusterError]) -> None:
    wrong = issubclass(family, InvalidUse)
    assert family.exit_code == (2 if wrong or family is cli.NoLake else 1)
    assert 400 <= family.status < 600
    if wrong:
        assert family.status < 500
        assert not family.retryable  # the same request would be as wrong again


def test_a_message_stands_alone() -> None:
    assert str(RayclusterError("what is wrong")) == "what is wrong"


def test_codes_are_the_documented_ones() -> None:
    assert get_args(errors.QuarantineCode) == QUARANTINE_CODES
    assert sorted(QUARANTINE_CODES) == [
        "contract", "corrupt", "empty", "model_error", "out_of_memory",
        "timeout", "too_large", "truncated", "unreadable", "unsupported",
    ]  # fmt: skip


@pytest.mark.parametrize("code", QUARANTINE_CODES)
def test_a_verdict_survives_pickling(code: errors.QuarantineCode) -> None:
    twin = pickle.loads(pickle.dumps(BadMedia(code, "why")))
    assert (type(twin), twin.code, twin.message, str(twin)) == (BadMedia, code, "why", "why")
    assert not isinstance(twin, RayclusterError)  # it ends a row, never a run
