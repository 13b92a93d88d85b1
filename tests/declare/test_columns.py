"""Encoders that would spoil each other's columns, or the engine's, are told before anything is read."""

import dataclasses

import pyarrow as pa
import pytest

from raycluster.declare.columns import FIXED, SHARED, clashes
from raycluster.declare.workload import Workload, parse_workload
from raycluster.encode.efficientnet import Efficientnet
from raycluster.encode.minilm import Minilm
from raycluster.encode.transformers import Transformers
from raycluster.errors import InvalidFile, InvalidUse
from raycluster.lake.columns import dataset_schema
from raycluster.row import row_schema

FILE = """\
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: t}}}}
spec:
  source: {{files: {{paths: [.]}}}}
  decode: {{{decode}: {{}}}}
  encode:
    - {{use: minilm}}
    - {{use: efficientnet}}
    - {second}
  sink: {{dataset: d}}
"""
HUB = "use: transformers, model: a/b, kind: text"


def problems(second: str, decode: str = "text") -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse_workload(FILE.format(second=second, decode=decode), "w.yaml")
    return [str(one) for one in caught.value.problems]


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (f"{{{HUB}, width: 512, shared: true}}", "'vector' as a vector of 512 float, minilm as a vector of 384 float"),
        (f"{{{HUB}, width: 384, column: text}}", "column 'text' as a vector of 384 float, not as string"),
        (f"{{{HUB}, width: 384, column: label_score}}", "column 'label_score' as a vector of 384 float, not as float"),
        (f"{{{HUB}, width: 384, column: minilm}}", "column 'minilm', which minilm writes already"),
        (f"{{{HUB}, width: 384, column: _rowid}}", "column '_rowid', which raycluster fills itself"),
        ("{use: minilm, batch: 8}", "column 'minilm', which minilm writes already"),
        *((f"{{{HUB}, width: 384, column: {name}}}", f"column {name!r}, which raycluster") for name in sorted(FIXED)),
    ],
)
@pytest.mark.parametrize("decode", ["text", "document"])  # documents add an encoder of their own: places do not shift
def test_a_column_that_cannot_be_is_told_at_the_guilty_encoder(second: str, says: str, decode: str) -> None:
    found = problems(second, decode)
    assert len(found) == 1
    assert found[0].startswith("w.yaml:10:7: ")
    assert says in found[0]


def test_clashes_are_told_together_with_other_mistakes() -> None:
    text = FILE.format(second="{use: minilm}", decode="text").replace("dataset: d", "dataset: D")
    with pytest.raises(InvalidFile) as caught:
        parse_workload(text)
    assert len(caught.value.problems) == 2


def test_the_same_holds_for_a_workload_built_in_python() -> None:
    work = parse_workload(FILE.format(second=f"{{{HUB}, width: 384, shared: true}}", decode="text"))
    wide = Transformers(model="a/b", kind="text", width=512, shared=True)
    with pytest.raises(InvalidUse, match="512"):
        dataclasses.replace(work, encode=(Minilm(), wide))
    assert isinstance(dataclasses.replace(work, encode=(wide,)), Workload)  # alone it may


def test_shared_columns_may_have_several_writers() -> None:
    writers = [
        Minilm(),
        Efficientnet(),
        Transformers(model="a/b", kind="speech"),
        Transformers(model="a/c", kind="speech"),
    ]
    assert list(clashes(writers)) == []


def test_what_an_unreachable_model_writes_is_left_to_the_plan(tmp_path) -> None:
    assert list(clashes([Transformers(model=f"{tmp_path}/none", kind="text", shared=True)])) == []


def test_every_column_that_the_engine_fills_is_known_here() -> None:
    filled = {*row_schema().names, *dataset_schema(pa.schema([])).names}
    assert filled - FIXED == {"text", "vector"}
    assert not FIXED & set(SHARED)
