"""The grammar engine: a table of rules in, labelled documents out.

A rule is a named list of items, and an item is text that may hold slots:

    opening: ["{Person} ordered {dish} at {place}."]
    dish: [the soup, the grilled trout]

``{dish}`` is an item of the rule ``dish``; the same slot is the same item
wherever it stands in a group, ``{dish2}`` is another item of that rule, and
``{Dish}`` begins with a capital. ``a(n) {dish}`` chooses the article. Items
may have forms, ``{verb|past}`` takes one by name and
``{adjective|noun.gender}`` the one that agrees with another slot. Where an
item has a form for each label (or value of a scope), that chooses. Every
slot leaves its value and its character span behind: the ground truth.
"""

import base64
import difflib
import random
import re
from pathlib import Path
from typing import NamedTuple

from helpers.synthesis import tables
from helpers.synthesis.tables import Text, compile_expression, fail

START = "template"  # the rule a document grows from
SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
NAME = re.compile(r"[a-z_]+\d?$", re.I)
ARTICLE = "(n) "  # after an a
# Words that take "an", by sound rather than by letter.
VOWEL = re.compile(
    r"(?!one|once|eu|uni(?!n|m)|us[aeu]|ut[ie]|ura)[aeiou]|hour|honest|heir",
    re.I,
)


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

    value: str | None  # what the factor records; None: the text itself
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


class Document(NamedTuple):
    """A finished text with its label, factors and spans."""

    label: str
    text: str
    factors: dict
    spans: list


class Grammar:
    """A table, compiled. ``labels`` are its classes, in order."""

    def __init__(self, table: dict, where: str = "table"):
        labels = table.get("labels") or {}
        if isinstance(labels, list):
            labels = {name: {} for name in labels}
        if not labels:
            raise fail(f"{where}:1", "no labels in this table")
        self.where, self.labels = where, tuple(str(name) for name in labels)
        self.label_factor = str(table.get("label", "label"))
        self.carried_by = frozenset(table.get("carried_by", [START]))
        self.scopes = {k: list(v) for k, v in table.get("scopes", {}).items()}
        self._own = {}
        self._add(table.get("rules", {}), None, ())
        for scope, values in table.get("scopes", {}).items():
            self._add_scope(scope, values, None)
        for label, rules in labels.items():
            self._add(rules or {}, str(label), ())
        self._views = {}
        self._check()

    @classmethod
    def load(cls, path: Path) -> "Grammar":
        """Compile the table in a YAML file."""
        return cls(tables.read(path), Path(path).name)

    def group(self, rng: random.Random) -> list[Document]:
        """One matched set: a document for each label, same choices."""
        scope = {
            name: _pick(rng, values) for name, values in self.scopes.items()
        }
        chosen: dict = {}
        return [
            _Writer(self, label, scope, chosen, rng).document()
            for label in self.labels
        ]

    def view(self, label: str, scope: dict) -> dict[str, tuple]:
        """The rules one label sees: {name: (rule, does the label own it)}."""
        key = (label, *scope.values())
        if key not in self._views:
            self._views[key] = self._make_view(label, tuple(scope.items()))
        return self._views[key]

    def _make_view(self, label, scope):
        found: dict = {}
        for (owner, where), rules in self._own.items():
            if owner in (None, label) and set(where) <= set(scope):
                for name, rule in rules.items():
                    old = found.get(name)
                    items = old[0].items + rule.items if old else rule.items
                    own = owner is not None and not rule.named
                    found[name] = (rule._replace(items=items), own)
        return found

    def _add(self, rules: dict, label: str | None, where: tuple) -> None:
        mine = self._own.setdefault((label, where), {})
        for name, body in rules.items():
            if name in self.scopes:
                self._add_scope(name, body, label, where)
            elif body and body != "":
                mine[str(name)] = _rule(name, body, self.labels)

    def _add_scope(self, scope, values, label, where=()) -> None:
        if isinstance(values, dict):
            for value, rules in values.items():
                if value not in self.scopes[scope]:
                    raise fail(value, f"no {scope} is called {value!r}")
                part = ((str(scope), value),)
                self._add(rules or {}, label, where + part)

    def _check(self) -> None:
        """Every slot has a rule; named items are there for every label."""
        known = {n for rules in self._own.values() for n in rules}
        if START not in known:
            raise fail(f"{self.where}:1", f"no rule {START!r} to start from")
        for rules in self._own.values():
            for rule in rules.values():
                _check_slots(rule, known | set(self.scopes))
        self._check_parallel()

    def _check_parallel(self) -> None:
        for (label, where), rules in self._own.items():
            if label in (None, self.labels[0]):
                continue
            first = self._own.get((self.labels[0], where), {})
            for name, rule in rules.items():
                if rule.named:
                    _compare(name, rule, first.get(name), self.labels[0])


class _Writer:
    """Writes one document and notes every span on the way."""

    def __init__(self, grammar, label, scope, chosen, rng):
        self.grammar, self.label, self.scope = grammar, label, scope
        self.rules, self.chosen = grammar.view(label, scope), chosen
        self.rng, self.numbers, self.word = rng, {}, None
        self.parts, self.length = [], 0
        self.spans, self.factors = [], {grammar.label_factor: label, **scope}

    def document(self) -> Document:
        slot = Slot(START, START, (), False, False, self.grammar.where)
        self.slot(slot)
        text = "".join(self.parts)
        return Document(self.label, text, self.factors, self.spans)

    def slot(self, slot: Slot) -> None:
        """Write what stands for a slot, and note its value and span."""
        start, part, first = self.length, len(self.parts), len(self.spans)
        name, value, self.word = slot.name, None, None
        if name in self.numbers:
            name, value = self.numbers[name]
            self._append(value)
        elif name in self.scope:
            value = self.scope[name]
            self._append(value)
            self._note("sense", f"{self.label}: {value}", start)
        else:
            rule, own = self._rule(slot)
            name, value = _KINDS[rule.kind](self, slot, rule, own)
        written = "".join(self.parts[part:])
        if slot.capital:
            self._capitalise(part)
        if slot.article and VOWEL.match(written):
            start += self._insert("n", part - 1, first)
        if value is None:  # a plain word stands for itself
            value = written
        if self.word:  # the label that this word speaks for by itself
            self._note(f"word_{self.grammar.label_factor}", self.word, start)
        self._note(name, value, start)

    def choice(self, slot: Slot, rule: Rule, own: bool) -> tuple:
        item, self.word = self._item(slot, rule, own), None
        form = item.forms
        if type(form) is dict:
            form = self._form(form, slot)
        word = self.word if rule.lexical else None
        outer = self.numbers
        if item.numbers:
            self.numbers = {**outer, **self._numbers(slot, item, own)}
        for piece in form.pieces:
            if type(piece) is str:
                self._append(piece)
            else:
                self.slot(piece)
        self.numbers, self.word = outer, word
        return slot.name, item.value

    def random(self, slot: Slot, rule: Rule, own: bool) -> tuple:
        """Characters drawn evenly: ln(alphabet) nats each, by construction."""
        alphabet = rule.items[0].value
        self._append("".join(self.rng.choices(alphabet, k=rule.length)))
        return "random", str(len(alphabet))

    def base64(self, slot: Slot, rule: Rule, own: bool) -> tuple:
        inner = _Writer(self.grammar, self.label, self.scope, self.chosen,
                        self.rng)
        inner.numbers = self.numbers
        inner.choice(slot, rule, own)
        plain = "".join(inner.parts)
        self._append(base64.b64encode(plain.encode()).decode())
        return slot.name, plain

    def _rule(self, slot: Slot) -> tuple:
        try:
            return self.rules[slot.rule]
        except KeyError:
            raise fail(slot.where, f"{self.label} has no rule for "
                       f"{slot.rule!r}, which this line uses") from None

    def _item(self, slot: Slot, rule: Rule, own: bool) -> Item:
        key = (self.label, slot.name) if own else slot.name
        if key not in self.chosen:
            choice = int(self.rng.random() * len(rule.items))
            while len(rule.items) > 9 and choice in self._taken(slot, own):
                choice = int(self.rng.random() * len(rule.items))
            self.chosen[key] = choice
        return rule.items[self.chosen[key]]

    def _taken(self, slot: Slot, own: bool) -> list[int]:
        """What ``{dish}`` is, when ``{dish2}`` is drawn: two, not one."""
        names = [slot.rule, *(f"{slot.rule}{i}" for i in (1, 2, 3))]
        keys = [(self.label, n) if own else n for n in names]
        return [self.chosen[k] for k in keys if k in self.chosen]

    def _form(self, forms, slot: Slot) -> Template:
        keys = [self._key(key, slot) for key in slot.keys]
        while type(forms) is dict:
            for key in (*keys, self.label, *self.scope.values()):
                if key in forms:
                    break
            else:
                raise fail(slot.where, f"{{{'|'.join((slot.rule, *keys))}}} "
                           f"names no form; it has {', '.join(forms)}")
            forms = forms[key]
            self.word = key if key in self.grammar.labels else None
        return forms

    def _key(self, key: str, slot: Slot) -> str:
        """A form's name or another slot's feature."""
        if "." not in key:
            return key
        name, feature = key.split(".")
        other = Slot(name, name.rstrip("123456789"), (feature,), False,
                     False, slot.where)
        rule, own = self._rule(other)
        forms = self._item(other, rule, own).forms
        return self._form(forms, other).pieces[0]

    def _numbers(self, slot: Slot, item: Item, own: bool) -> dict:
        """{number: (factor, text)}, drawn once for a slot, like its item."""
        key = ("numbers", self.label if own else None, slot.name)
        if key not in self.chosen:
            values: dict = {}
            shown: dict = {}
            for name, kind, how in item.numbers:
                values[name] = how(self.rng, values)
                text = tables.show_number(values[name])
                shown[name] = f"{kind}.{name}", text
            self.chosen[key] = shown
        return self.chosen[key]

    def _append(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)

    def _capitalise(self, part: int) -> None:
        while not self.parts[part]:
            part += 1
        text = self.parts[part]
        self.parts[part] = text[0].upper() + text[1:]

    def _insert(self, text: str, part: int, first: int) -> int:
        """Put ``text`` (an n) before the space that ends a part."""
        self.parts[part] = self.parts[part][:-1] + text + " "
        self.length += len(text)
        self.spans[first:] = [
            [name, value, start + len(text), end + len(text)]
            for name, value, start, end in self.spans[first:]
        ]
        return len(text)

    def _note(self, name: str, value: str, start: int) -> None:
        if name in self.grammar.carried_by:
            factor = self.grammar.label_factor
            self.spans.append([factor, self.label, start, self.length])
        self.factors[name] = value
        self.spans.append([name, value, start, self.length])


_KINDS = {
    "choice": _Writer.choice,
    "random": _Writer.random,
    "base64": _Writer.base64,
}


def _pick(rng: random.Random, values: list):
    return values[int(rng.random() * len(values))]


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


def _rule(name: Text, body: object, labels: tuple) -> Rule:
    where = getattr(name, "where", "?")
    if isinstance(body, dict) and "random" in body:
        item = Item(str(body["random"]), {})
        length = int(body["length"])
        return Rule("random", (item,), length=length, where=where)
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
        _item(str(name), one, labels, header, getattr(name, "where", where), 0)
        for name, one in body.items()
    )


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


def _one_of(values):
    return lambda rng, names: _pick(rng, values)


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


def _check_slots(rule: Rule, known: set[str]) -> None:
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


def _compare(name, rule: Rule, first: Rule | None, label: str) -> None:
    """Named items must be the same, in order, for every label."""
    ours = [item.value for item in rule.items]
    theirs = [item.value for item in first.items] if first else []
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            raise fail(rule.where, f"{name!r} has {mine!r} where {label} has "
                       f"{other!r}; both must list the same in one order")
    if len(ours) != len(theirs):
        raise fail(rule.where, f"{name!r} has {len(ours)} items where {label} "
                   f"has {len(theirs)}")


def _where(body: object, where: str) -> str:
    while isinstance(body, list) and body:
        body = body[0]
    return getattr(body, "where", where)
