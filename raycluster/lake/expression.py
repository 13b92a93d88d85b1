"""What a person writes as a filter becomes SQL that Lance can be given: only what is listed here gets through.

The text is parsed, and SQL is written anew from its parts: comparisons, logic, arithmetic, casts, literals, known
columns and functions that only compute. What is not one of these cannot reach Lance, whose own parser ignores what
follows a condition, panics at `$1`, and overflows its stack at 1,000 sums (pylance 14.0.2).

A reader to whom some rows are hidden must not learn of them from an error: "Cannot cast string 'the vault is open'".
So a cast that fails, and a division by zero, give null; and a condition says whether it is sure never to fail on one
row and not on another, as `view.py` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycluster.errors import InvalidUse, TooLarge
from raycluster.lake.sql import is_whole, quoted
from raycluster.stage import unknown

if TYPE_CHECKING:
    from sqlglot import Expr

_MOST_SIGNS = 100_000  # characters; a thousand ids are 67,000
_MOST_TOKENS = 5000  # a list of a thousand ids takes 2,000
# Lance's parser stops at 50 levels; sqlglot takes 20 Python frames each, of the 1,000 that a thread has.
_DEEPEST = 20
_SHOWN = 200  # characters of a wrong filter in its error

_INFIX = {
    **{"EQ": "=", "NEQ": "!=", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="},
    **{"NullSafeEQ": "IS NOT DISTINCT FROM", "NullSafeNEQ": "IS DISTINCT FROM"},
    **{"Add": "+", "Sub": "-", "Mul": "*", "DPipe": "||", "Like": "LIKE", "ILike": "ILIKE"},
    **{"And": "AND", "Or": "OR"},
}
_CHAINS = ("And", "Or")
_COMPARISONS = ("EQ", "NEQ", "LT", "LTE", "GT", "GTE", "NullSafeEQ", "NullSafeNEQ", "Like", "ILike", "In", "Between")
_CONSTANTS = ("Literal", "Boolean", "Null")
# What fails for all rows or for none, comparisons of a column and constants besides.
_SURE = (*_CONSTANTS, *_CHAINS, "Not", "Neg", "Is", "Column", "Dot")
_TYPES = {
    **{"TINYINT": "TINYINT", "SMALLINT": "SMALLINT", "INT": "INT", "BIGINT": "BIGINT"},
    **{"FLOAT": "FLOAT", "DOUBLE": "DOUBLE", "BOOLEAN": "BOOLEAN", "DATE": "DATE", "TIMESTAMP": "TIMESTAMP"},
    **{"VARCHAR": "STRING", "TEXT": "STRING"},
}
# Functions that only compute, cannot fail on one row alone, and return no more than they are given: name -> how many
# arguments, and which of them must be literals, because a wrong one is an error (a pattern, a unit).
_FUNCTIONS: dict[str, tuple[range, tuple[int, ...]]] = {
    **dict.fromkeys(("lower", "upper", "length", "char_length", "octet_length", "reverse"), (range(1, 2), ())),
    **dict.fromkeys(("btrim", "ltrim", "rtrim"), (range(1, 3), ())),
    **dict.fromkeys(("starts_with", "ends_with", "contains", "strpos", "contains_tokens"), (range(2, 3), ())),
    **dict.fromkeys(("left", "right"), (range(2, 3), ())),
    **dict.fromkeys(("regexp_like", "regexp_match"), (range(2, 4), (1, 2))),
    **dict.fromkeys(("abs", "isnan"), (range(1, 2), ())),
    "round": (range(1, 3), (1,)),
    "coalesce": (range(1, 9), ()),
    **dict.fromkeys(("nullif", "nvl"), (range(2, 3), ())),
    **dict.fromkeys(("array_has", "array_has_all", "array_has_any"), (range(2, 3), ())),
    "array_length": (range(1, 2), ()),
    **dict.fromkeys(("date_part", "date_trunc"), (range(2, 3), (0,))),
}
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Condition:
    """A person's filter: as it was written, as Lance is given it, and the columns that it is on."""

    text: str
    sql: str
    columns: frozenset[str]
    is_sure: bool  # whether no value of a row can make it fail


def condition(text: str, schema: pa.Schema) -> Condition:
    """Return what a person's filter means on a table with these columns.

    Raises:
        InvalidUse: it is no condition, or has something in it that no filter may have; says what, and the nearest.
        TooLarge: it is longer or deeper than filters may be.
    """
    writer = _Writer(text, schema)
    sql = writer.condition(_parsed(text))
    return Condition(text, sql, frozenset(writer.columns), writer.is_sure)


def wrong(text: str, reason: str) -> InvalidUse:
    """Say what is wrong with a filter."""
    return InvalidUse(
        f"{_short(text)} is no condition: {reason}",
        where="filter",
        fix="write SQL on the dataset's columns, as in: modality = 'image' AND features.width > 640",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _large(text: str, reason: str) -> TooLarge:
    return TooLarge(f"the filter {_short(text)} {reason}", where="filter", fix="ask in several requests")


@cache
def _dialect() -> Any:
    """Return the SQL that people write: names in " or `, strings in ', and no function known before the list above."""
    from sqlglot import parser, tokens  # 0.3 s, which most commands need not wait for
    from sqlglot.dialects.dialect import Dialect

    class Filter(Dialect):
        class Tokenizer(tokens.Tokenizer):
            IDENTIFIERS = ['"', "`"]  # noqa: RUF012

        class Parser(parser.Parser):
            FUNCTIONS = {}  # noqa: RUF012

    return Filter()


def _parsed(text: str) -> Expr:
    """Return the tree of one expression."""
    from sqlglot.errors import ErrorLevel, ParseError, TokenError

    if not text.strip():
        raise wrong(text, "it is empty")
    if not is_whole(text):
        raise wrong(text, "it has half a character in it")
    if len(text) > _MOST_SIGNS:
        raise _large(text, f"has {len(text)} characters; {_MOST_SIGNS} is the most")
    try:
        tokens = _dialect().tokenize(text)
        _require_plain(text, tokens)
        found = _dialect().parser(error_level=ErrorLevel.IMMEDIATE).parse(tokens, text)
    except TokenError as error:
        raise wrong(text, "a quote is not closed") from error
    except ParseError as error:
        problem = error.errors[0]
        raise wrong(text, f"{problem['description']} at character {problem['col']}".lower()) from error
    except RecursionError as error:
        raise _large(text, "is too deeply nested") from error
    if len(found) != 1 or found[0] is None:
        raise wrong(text, "it is not one expression")
    return found[0]  # type: ignore[no-any-return]


def _require_plain(text: str, tokens: Sequence[Any]) -> None:
    if len(tokens) > _MOST_TOKENS:
        raise _large(text, f"has {len(tokens)} words and signs; {_MOST_TOKENS} is the most")
    depth = 0
    for token in tokens:
        kind = token.token_type.name
        if token.comments or kind in ("HINT", "SEMICOLON"):
            what = "';'" if kind == "SEMICOLON" else "a comment"
            raise wrong(text, f"{what} at character {token.end + 1} does not belong there")
        depth += (kind in ("L_PAREN", "L_BRACKET", "L_BRACE")) - (kind in ("R_PAREN", "R_BRACKET", "R_BRACE"))
        if depth > _DEEPEST:
            raise _large(text, f"is nested more than {_DEEPEST} deep")
        if depth < 0:
            raise wrong(text, f"the bracket at character {token.start + 1} closes nothing")
    if depth:
        raise wrong(text, "a bracket is not closed")


class _Writer:
    """Writes SQL from a tree, one method a kind of node; collects the columns."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self.text, self.schema = text, schema
        self.columns: set[str] = set()
        self.is_sure = True
        self.depth = 0

    def condition(self, node: Expr) -> str:
        sql = self.write(node)
        return sql if sql.startswith("(") else f"({sql})"

    def write(self, node: Any) -> str:
        while type(node).__name__ == "Paren":
            node = node.this
        if self.depth > _DEEPEST:
            raise _large(self.text, f"is nested more than {_DEEPEST} deep")
        kind = type(node).__name__
        write: Callable[[Any], str] | None = getattr(self, f"write_{kind.lower()}", None)
        if kind in _CHAINS or kind in _INFIX:
            write = self._infix
        if write is None:
            raise wrong(self.text, f"{node.key!r} is not for filters")
        self.is_sure &= kind in _SURE or (kind in _COMPARISONS and self._is_sure(node))
        self.depth += 1
        sql = write(node)
        self.depth -= 1
        return sql

    def _is_sure(self, node: Any) -> bool:
        """Tell whether a comparison is one of a column with constants, none of which makes Lance cast the column."""
        parts = [*_parts(node)]
        constants = [part for part in parts if type(part).__name__ in _CONSTANTS]
        columns = [part for part in parts if type(part).__name__ in ("Column", "Dot")]
        if len(columns) > 1 or len(columns) + len(constants) < len(parts):
            return False
        if type(node).__name__ in ("Like", "ILike") and parts[1] not in constants:
            return False
        is_plain = all(part.is_string or type(part).__name__ == "Null" for part in constants)
        return is_plain or all(_is_number(self._field([*_path(column)])[1]) for column in columns)

    def _infix(self, node: Any) -> str:
        kind = type(node).__name__
        parts = _chain(node) if kind in _CHAINS else (node.this, node.expression)
        return f"({f' {_INFIX[kind]} '.join(self.write(part) for part in parts)})"

    def write_null(self, _: Any) -> str:
        return "NULL"

    def write_boolean(self, node: Any) -> str:
        return "true" if node.this else "false"

    def write_literal(self, node: Any) -> str:
        if node.is_string:
            return quoted(node.this)
        if not _NUMBER.fullmatch(node.this):
            raise wrong(self.text, f"{_short(node.this)} is no number")
        return str(node.this)

    def write_neg(self, node: Any) -> str:
        return f"(- {self.write(node.this)})"

    def write_not(self, node: Any) -> str:
        return f"(NOT {self.write(node.this)})"

    def write_is(self, node: Any) -> str:
        if type(node.expression).__name__ not in ("Null", "Boolean"):
            raise wrong(self.text, "IS is for NULL, TRUE and FALSE")
        return f"({self.write(node.this)} IS {self.write(node.expression)})"

    def write_between(self, node: Any) -> str:
        low, high = self.write(node.args["low"]), self.write(node.args["high"])
        return f"({self.write(node.this)} BETWEEN {low} AND {high})"

    def write_in(self, node: Any) -> str:
        if not node.expressions:
            raise wrong(self.text, "IN needs a list of values")
        values = ", ".join(self.write(value) for value in node.expressions)
        return f"({self.write(node.this)} IN ({values}))"

    def write_cast(self, node: Any) -> str:
        kind = getattr(node.args["to"].this, "name", "")
        if kind not in _TYPES or node.args["to"].expressions:
            raise wrong(self.text, f"a value can become one of {', '.join(_TYPES)}")
        if kind in ("TIMESTAMP", "DATE") and getattr(node.this, "is_string", False):
            return f"{kind.lower()} {quoted(node.this.this)}"
        return f"TRY_CAST({self.write(node.this)} AS {_TYPES[kind]})"

    write_trycast = write_cast

    def write_extract(self, node: Any) -> str:
        return f"date_part({quoted(node.this.name.lower())}, {self.write(node.expression)})"

    def write_column(self, node: Any) -> str:
        found, _ = self._field(_path(node))
        self.columns.add(".".join(found))
        return ".".join(f"`{name}`" for name in found)

    write_dot = write_column

    def write_anonymous(self, node: Any) -> str:
        name, values = str(node.this).lower(), node.expressions
        if name not in _FUNCTIONS:
            raise wrong(self.text, unknown("function", name, list(_FUNCTIONS)).args[0])
        counts, literal = _FUNCTIONS[name]
        if len(values) not in counts:
            raise wrong(self.text, f"{name} takes {counts.start} to {counts.stop - 1} arguments, not {len(values)}")
        for at in literal:
            if at < len(values) and type(values[at]).__name__ != "Literal":
                raise wrong(self.text, f"argument {at + 1} of {name} has to be a literal")
        written = [self.write(value) for value in values]
        if name == "date_trunc" and type(values[1]).__name__ not in (
            "Column",
            "Dot",
        ):  # a moment before 1677 is a panic
            raise wrong(self.text, "argument 2 of date_trunc has to be a column")
        if name == "abs":  # of the smallest integer is an error
            written = [f"TRY_CAST({written[0]} AS DOUBLE)"]
        return f"{name}({', '.join(written)})"

    def write_div(self, node: Any) -> str:
        return self._divided(node, "/")

    def write_mod(self, node: Any) -> str:
        return self._divided(node, "%")

    def _divided(self, node: Any, sign: str) -> str:
        left, right = self.write(node.this), self.write(node.expression)
        if right.strip("(- )").strip("0.") == "":
            raise wrong(self.text, "it divides by zero")
        return f"({left} {sign} nullif({right}, 0))"

    def _field(self, path: Sequence[tuple[str, bool]]) -> tuple[list[str], pa.DataType]:
        """Return a column's whole name and type; without quotes, upper and lower case are the same."""
        fields, found, kind = list(self.schema), list[str](), pa.null()
        for name, is_quoted in path:
            names = [one.name for one in fields]
            if name not in names and not is_quoted:
                name = next((one for one in names if one.lower() == name.lower()), name)
            if name not in names:
                whole = ".".join(part for part, _ in path)
                no = f"{_short(self.text)} is no condition: there is no column {_short(whole)}"
                raise InvalidUse(no, where="filter", fix=unknown("column", name, names).fix)
            kind = next(one.type for one in fields if one.name == name)
            fields = list(kind) if pa.types.is_struct(kind) else []
            found.append(name)
        return found, kind


def _path(node: Any) -> list[tuple[str, bool]]:
    return [(part.name, part.args.get("quoted", False)) for part in node.parts]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _parts(node: Any) -> Iterator[Any]:
    """Yield what is compared, a minus before a number left out."""
    given = (node.this, node.args.get("expression"), node.args.get("low"), node.args.get("high"), *node.expressions)
    for part in filter(None, given):
        while type(part).__name__ in ("Paren", "Neg"):
            part = part.this
        yield part


def _chain(node: Any) -> Iterator[Any]:
    """Yield the parts of `a AND b AND c`, whose tree is as deep as it is long."""
    kind, parts = type(node), []
    while isinstance(node, kind):
        parts.append(node.expression)
        node = node.this
    yield node
    yield from reversed(parts)
