"""What a table says, compiled: templates, items and rules.

The language of the tables is told in ``grammar.py``, which writes the text.
"""

import difflib
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from helpers.synthesis.tables import Text, compile_expression, fail

SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
NAME = re.compile(r"[a-z_]+\d?$", re.I)
ARTICLE = "(n) "  # after an a


class Slot(NamedTuple):
    """One ``{name|key|...}`` of a template."""

    name: str
    rule: str
    keys: tuple[str, ...]
    capital: bool
    article: bool
    where: str


class Template(NamedTuple):
    """Literal strings and slots, in order."""

    pieces: tuple
    where: str


class Item(NamedTuple):
    """One choice of a rule. ``forms`` is a Template or {form: ...}."""

    # What the factor records, or one for each label; None: the text itself.
    value: str | tuple[str, ...] | None
    forms: Template | dict
    numbers: tuple = ()  # (name, how to draw or compute it)


class Rule(NamedTuple):
    """``kind`` is ``choice``, ``random`` or ``base64``."""

    kind: str
    items: tuple
    named: bool = False  # items have names, the same for every label
    lexical: bool = False  # no item has slots: words, not sentences
    length: int = 0
    where: str = "?"


def compile_template(text: Text) -> Template:
    """Split text into literals and slots; InputError on a stray brace."""
    where, pieces, last = getattr(text, "where", "?"), [""], 0
    for match in SLOT.finditer(text):
        pieces[-1] += text[last : match.start()]
        last = match.end()
        if match[0] in ("{{", "}}"):
            pieces[-1] += match[0][0]
        elif match[1] is None:
            raise fail(where, f"a lone {match[0]} (write it twice for one)")
        else:
            article = pieces[-1].endswith(ARTICLE)
            if article:
                pieces[-1] = pieces[-1][: -len(ARTICLE)] + " "
            pieces += [_slot(match[1], article, where), ""]
    pieces[-1] += text[last:]
    return Template(tuple(p for p in pieces if p != ""), where)


def _slot(body: str, article: bool, where: str) -> Slot:
    name, *keys = body.split("|")
    if not NAME.match(name):
        raise fail(where, f"{{{body}}} is not a slot's name")
    capital = len(name) > 1 and name[0].isupper()
    name = name[0].lower() + name[1:] if capital else name
    rule = name.rstrip("123456789")
    return Slot(name, rule, tuple(keys), capital, article, where)


def compile_rule(name: Text, body: object, labels: tuple) -> Rule:
    """One rule of a table; ``labels`` name the columns of a row of forms.

    Raises InputError, with file and line, for anything it cannot read.
    """
    where = getattr(name, "where", "?")
    if isinstance(body, dict) and "random" in body:
        items = tuple(Item(str(unit), {}) for unit in body["random"])
        length = int(body["length"])
        return Rule("random", items, length=length, where=where)
    if isinstance(body, dict) and "base64" in body:
        items = _items(body["base64"], labels, where)
        return Rule("base64", items, where=where)
    items = _items(body, labels, where)
    lexical = not any(_has_slots(item.forms) for item in items)
    return Rule("choice", items, isinstance(body, dict), lexical, where=where)


def _items(body: object, labels: tuple, where: str) -> tuple[Item, ...]:
    if isinstance(body, str):
        body = [body]
    if isinstance(body, list):
        return tuple(
            _item(None, one, labels, None, where, index)
            for index, one in enumerate(body, 1)
        )
    body = dict(body)
    header = body.pop("forms", None)
    return tuple(
        _item(_value(name), one, labels, header,
              getattr(name, "where", where), 0)
        for name, one in body.items()
    )


def _value(name: str) -> str | tuple[str, ...]:
    names = tuple(str(name).split(" | "))
    return names if len(names) > 1 else names[0]


def _item(value, body, labels, header, where, index) -> Item:
    numbers: tuple = ()
    if isinstance(body, dict) and "where" in body:
        numbers = _numbers(body["where"])
        body = body["text"]
    forms = _forms(body, header or labels, where)
    if value is None and index and _has_slots(forms):
        value = str(index)
    return Item(value, forms, numbers)


def _forms(body: object, header: tuple, where: str):
    if isinstance(body, str):
        return compile_template(body)
    if isinstance(body, list):
        if len(body) != len(header):
            raise fail(_where(body, where), f"{len(body)} forms where "
                       f"{len(header)} are due: {', '.join(header)}")
        body = dict(zip(header, body, strict=True))
    return {str(k): _forms(v, header, where) for k, v in body.items()}


def _numbers(body: dict) -> tuple:
    """How each number of a worked line is drawn (given) or found (result)."""
    found = []
    for name, how in body.items():
        if isinstance(how, list):
            values = [compile_expression(v)({}) for v in how]
            found.append((str(name), "given", _one_of(values)))
        elif ".." in how:
            low, high = (int(v) for v in how.split(".."))
            values = range(low, high + 1)
            found.append((str(name), "given", _one_of(values)))
        else:
            found.append((str(name), "result", _result(how)))
    return tuple(found)


def pick(rng: random.Random, values: Sequence):
    """One of the values, each as likely as the others."""
    return values[int(rng.random() * len(values))]


def _one_of(values):
    return lambda rng, names: pick(rng, values)


def _result(text: Text):
    found = compile_expression(text)

    def compute(rng, names):
        try:
            return found(names)
        except (KeyError, ZeroDivisionError) as error:
            raise fail(text, f"{str(text)!r} fails: {error}") from None

    return compute


def _leaves(forms):
    if isinstance(forms, Template):
        yield forms
    else:
        for inner in forms.values():
            yield from _leaves(inner)


def _has_slots(forms) -> bool:
    return any(
        isinstance(piece, Slot) for t in _leaves(forms) for piece in t.pieces
    )


def check_slots(rule: Rule, known: set[str]) -> None:
    """InputError, with file and line, for a slot that no rule fills."""
    for item in rule.items:
        numbers = {name for name, _, _ in item.numbers}
        for template in _leaves(item.forms):
            for piece in template.pieces:
                if isinstance(piece, Slot) and piece.name not in numbers:
                    _check_slot(piece, known)


def _check_slot(slot: Slot, known: set[str]) -> None:
    if slot.rule not in known:
        near = difflib.get_close_matches(slot.rule, sorted(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise fail(slot.where, f"no rule is called {slot.rule!r}{hint}")


def _where(body: object, where: str) -> str:
    while isinstance(body, list) and body:
        body = body[0]
    return getattr(body, "where", where)
