"""Reading a grammar's table, so that a mistake is told with its line.

A table is YAML in which every scalar is text (``no`` is a word, not a
truth value). The reader keeps the line of each scalar.
"""

import ast
import operator
from math import comb, factorial, gcd, sqrt
from pathlib import Path

import yaml

from helpers.errors import InputError


class Text(str):
    """A string that remembers where in a table it was written."""

    where: str = "?"

    @classmethod
    def at(cls, value: str, where: str) -> "Text":
        text = cls(value)
        text.where = where
        return text


def read(path: Path) -> dict:
    """A table as dicts, lists and ``Text``; InputError with file and line."""
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError:
        raise InputError(f"cannot read the table {path}") from None
    return parse(content, path.name)


def parse(content: str, name: str) -> dict:
    """A table from its text; ``name`` is what mistakes are told with."""
    try:
        node = yaml.compose(content, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise InputError(f"{name}:{line}: {error.problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{name}:1: a table is a mapping of rules")
    return _value(node, name)


def extend(table: dict, more: dict) -> dict:
    """A table with the labels of ``more``, cut down to what all can say.

    A matched set has every label, so a name (of an item, or of a scope's
    value) that a new label has no words for is left out for all. A new
    label may thus begin with a few words and grow.
    """
    labels, scopes = dict(table["labels"]), table.get("scopes", {})
    for name, rules in (more.get("labels") or {}).items():
        first = next(iter(labels.values()))
        labels = {k: _cut(v, rules, scopes) for k, v in labels.items()}
        labels[name] = _in_order(rules, first)
        scopes = {
            scope: {k: v for k, v in values.items() if k in rules[scope]}
            if scope in rules else values
            for scope, values in scopes.items()
        }
    return {**table, "labels": labels, "scopes": scopes}


def _cut(rules: dict, other: dict, scopes: dict) -> dict:
    """The rules of a label, with only the names that ``other`` has too."""
    found = dict(rules)
    for name in rules.keys() & other.keys():
        ours, theirs = rules[name], other[name]
        if name in scopes:
            found[name] = {
                value: _cut(ours[value], theirs[value], scopes)
                for value in ours if value in theirs
            }
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            kept = theirs.keys() | {"forms"}
            found[name] = {k: v for k, v in ours.items() if k in kept}
    return found


def _in_order(body: object, first: object) -> object:
    """A mapping in the order of another, at every depth they share."""
    if not (isinstance(body, dict) and isinstance(first, dict)):
        return body
    place = {name: i for i, name in enumerate(first)}
    names = sorted(body, key=lambda name: place.get(name, len(place)))
    return {k: _in_order(body[k], first.get(k)) for k in names}


def fail(where: object, message: str) -> InputError:
    """An error in a table: ``where`` is a ``Text`` or a ``file:line``."""
    return InputError(f"{getattr(where, 'where', where)}: {message}")


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _value(node: yaml.Node, file: str) -> object:
    where = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        return Text.at(node.value, where)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, file) for child in node.value]
    found: dict = {}
    for key, child in node.value:
        name = _value(key, file)
        if not isinstance(name, Text):
            raise fail(where, "a name must be plain text")
        if name in found:
            raise fail(name, f"{name!r} is there twice")
        found[name] = _value(child, file)
    return found


# Arithmetic of worked lines: ``F*d``, ``round(m*v**2/2, 1)``.
_FUNCTIONS = {"round": round, "gcd": gcd, "factorial": factorial,
              "comb": comb, "sqrt": sqrt, "abs": abs}
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow,
}


def compile_expression(text: Text):
    """A function of {name: number} for one arithmetic expression."""
    try:
        return _build(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError):
        raise fail(text, f"{str(text)!r} is not arithmetic") from None


def _build(node: ast.AST):
    match node:
        case ast.Constant(value=int() | float() as value):
            return lambda names: value
        case ast.Name(id=name):
            return lambda names: names[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            inner = _build(inner)
            return lambda names: -inner(names)
        case ast.BinOp(left=left, op=op, right=right):
            act, left, right = _OPERATORS[type(op)], _build(left), _build(right)
            return lambda names: act(left(names), right(names))
        case ast.Call(func=ast.Name(id=name), args=args) if (
            name in _FUNCTIONS
        ):
            args, act = [_build(a) for a in args], _FUNCTIONS[name]
            return lambda names: act(*(a(names) for a in args))
    raise TypeError("not arithmetic")


def show_number(value: float) -> str:
    """A number as a book prints it: 12, 0.5, 3.14."""
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value))
    return f"{value:.4f}".rstrip("0").rstrip(".")
