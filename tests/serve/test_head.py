"""A field of a request's head: the first where it is said twice, as whoever checked the request has read it."""

from raycluster.serve.head import field

SCOPE = {"headers": [(b"host", b"a"), (b"x-name", b"\xe9"), (b"host", b"b")]}


def test_the_first_counts() -> None:
    assert field(SCOPE, b"host") == "a"
    assert field(SCOPE, b"x-name") == "é"
    assert field(SCOPE, b"origin") is None
