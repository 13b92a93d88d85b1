"""Bounds on what decoders measured."""

import pyarrow as pa
import pytest

from raycluster.check.bounds import Bounds
from raycluster.declare.workload import parse_workload
from raycluster.decode import batch_of
from raycluster.errors import BadMedia, InvalidFile
from raycluster.row import Media, Piece, with_errors

MEDIA = Media(object_id="o", uri="u", sha256="s", modality="image", media_type="image/png", content=b"x")


def rows(*sharpness: float | None) -> pa.RecordBatch:
    return batch_of(MEDIA, [Piece(position=index, features={"sharpness": one}) for index, one in enumerate(sharpness)])


def codes(batch: pa.RecordBatch) -> list[str | None]:
    return [error and error["code"] for error in batch.column("error").to_pylist()]


def test_rows_outside_are_refused_with_the_value() -> None:
    judged = Bounds(feature="sharpness", min=10, max=100).open()(rows(5, 10, 50, 100, 101, None))
    assert codes(judged) == ["contract", None, None, None, "contract", None]
    assert judged.column("error")[0].as_py()["message"] == "sharpness is 5, wanted at least 10 and at most 100"


def test_an_earlier_verdict_stays() -> None:
    before = with_errors(rows(5, 5), {0: BadMedia("corrupt", "it is")})
    assert codes(Bounds(feature="sharpness", min=10).open()(before)) == ["corrupt", "contract"]


def test_nothing_else_changes() -> None:
    before = rows(5, 50)
    after = Bounds(feature="sharpness", min=10).open()(before)
    assert after.drop_columns(["error"]) == before.drop_columns(["error"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{use: bounds, feature: sharpnes, min: 1}", "did you mean 'sharpness'"),
        ("{use: bounds, feature: sharpness}", "bounds need `min`, `max` or both"),
        ("{use: bounds, min: 1}", "missing key 'feature'"),
        ("{use: bound, feature: sharpness}", "did you mean 'bounds'"),
    ],
)
def test_a_wrong_rule_is_told_with_its_place(rule: str, message: str) -> None:
    text = (
        "{apiVersion: raycluster/v1, kind: Workload, metadata: {name: w, labels: {team: t}},\n"
        "spec: {source: {files: {paths: [x]}}, decode: {image: {}}, sink: {dataset: d},"
        f" check: {{rules: [{rule}]}}}}}}"
    )
    with pytest.raises(InvalidFile, match=message) as caught:
        parse_workload(text, "w.yaml")
    assert caught.value.problems[0].where.startswith("w.yaml:2:")
