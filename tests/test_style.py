"""The limits of the house style are checked, not argued: sizes of files, functions and parameter lists, and names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raycluster"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 5
FORBIDDEN_MODULES = {"utils", "helpers", "common", "core", "base", "manager"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


def code_lines(function: Function, source: list[str]) -> int:
    """Count a function's lines without its docstring, comments and blank lines."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    lines = source[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_size(path: Path) -> None:
    source = path.read_text().splitlines()
    assert len(source) <= MAX_FILE_LINES
    for function in functions(path):
        assert code_lines(function, source) <= MAX_FUNCTION_LINES, f"{path}:{function.lineno} {function.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_parameters_and_docstrings(path: Path) -> None:
    assert path.stem not in FORBIDDEN_MODULES
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what becomes what"
    for function in functions(path):
        arguments = function.args
        named = [one.arg for one in (*arguments.posonlyargs, *arguments.args) if one.arg not in ("self", "cls")]
        assert len(named) + len(arguments.kwonlyargs) <= MAX_PARAMETERS, f"{path}:{function.lineno} {function.name}"
