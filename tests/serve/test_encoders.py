"""What a gateway remembers of its questions: the same one is asked once, another one never gets its answer."""

from raycluster.search import Question
from raycluster.serve.encoders import _key

ASKED = [
    ("d", 1, Question(text="a cat")),
    ("d", 1, Question(text="a dog")),
    ("d", 1, Question(text="a cat", mode="hybrid")),
    ("d", 2, Question(text="a cat")),
    ("e", 1, Question(text="a cat")),
    ("d", "1", Question(text="a cat")),
    ("d", 1, Question(image=b"a cat")),
    ("d", 1, Question(audio=b"a cat")),
    ("d", 1, Question(image=b"a dog")),
]


def test_the_same_question_has_the_same_key() -> None:
    assert [_key(*one) for one in ASKED] == [_key(*one) for one in ASKED]


def test_no_two_questions_share_one() -> None:
    assert len({_key(*one) for one in ASKED}) == len(ASKED)
