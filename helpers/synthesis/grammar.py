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

The name of an item is the value of its factor; ``active | passive`` is one
name for each label in turn. A label may say ``switch: [time, place]``: its
documents are in the words of another label, but for these slots, which are
in the words of a third. Labels that a table names as ``withheld`` are left
out of training groups.
"""

import base64
import random
import re
from pathlib import Path
from typing import NamedTuple

from helpers.synthesis import tables
from helpers.synthesis.rules import (
    Item,
    Rule,
    Slot,
    Template,
    check_slots,
    compile_rule,
    pick,
)
from helpers.synthesis.tables import fail

START = "template"  # the rule a document grows from
# Words that take "an", by sound rather than by letter.
VOWEL = re.compile(
    r"(?!one|once|eu|uni(?!n|m)|us[aeu]|ut[ie]|ura)[aeiou]|hour|honest|heir",
    re.I,
)


class Document(NamedTuple):
    """A finished text with its label, factors and spans."""

    label: str
    text: str
    factors: dict
    spans: list


class Grammar:
    """A table, compiled. ``labels`` are its classes, in order.

    ``where`` is the name of the table's file, told with every mistake; its
    stem is the ``name`` of the corpus.
    """

    def __init__(self, table: dict, where: str = "table"):
        labels = table.get("labels") or {}
        if isinstance(labels, list):
            labels = {name: {} for name in labels}
        if not labels:
            raise fail(f"{where}:1", "no labels in this table")
        self.where, self.labels = where, tuple(str(name) for name in labels)
        self.name = Path(where).stem
        self.label_factor = str(table.get("label", "label"))
        self.carried_by = frozenset(table.get("carried_by", [START]))
        self.scopes = {k: list(v) for k, v in table.get("scopes", {}).items()}
        self.withheld = frozenset(table.get("withheld", ()))
        self.switches: dict[str, list] = {}  # label: the slots that switch
        self._own = {}
        self._add(table.get("rules", {}), None, ())
        for scope, values in table.get("scopes", {}).items():
            self._add_scope(scope, values, None)
        for label, rules in labels.items():
            self._add_label(str(label), dict(rules or {}))
        self._views = {}
        self._check()

    @classmethod
    def load(cls, path: Path) -> "Grammar":
        """Compile the table in a YAML file."""
        return cls(tables.read(path), Path(path).name)

    def group(
        self, rng: random.Random, training: bool = False
    ) -> list[Document]:
        """One matched set: a document for each label, same choices.

        A set for ``training`` leaves the withheld labels out.
        """
        scope = {
            name: pick(rng, values) for name, values in self.scopes.items()
        }
        chosen: dict = {}
        return [
            self._writer(label)(self, label, scope, chosen, rng).document()
            for label in self.labels
            if not (training and label in self.withheld)
        ]

    def _writer(self, label: str) -> type["_Writer"]:
        return _Switcher if label in self.switches else _Writer

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

    def _add_label(self, label: str, rules: dict) -> None:
        if "switch" in rules:
            self.switches[label] = list(rules.pop("switch"))
        self._add(rules, label, ())

    def _add(self, rules: dict, label: str | None, where: tuple) -> None:
        mine = self._own.setdefault((label, where), {})
        for name, body in rules.items():
            if name in self.scopes:
                self._add_scope(name, body, label, where)
            elif body and body != "":
                mine[str(name)] = compile_rule(name, body, self.labels)

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
                check_slots(rule, known | set(self.scopes))
        self._check_parallel()

    def _check_parallel(self) -> None:
        for (label, where), rules in self._own.items():
            if label in (None, self.labels[0], *self.switches):
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
        label = self.factors[self.grammar.label_factor]
        return Document(label, text, self.factors, self.spans)

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
        return slot.name, self._value(item)

    def _value(self, item: Item) -> str | None:
        if type(item.value) is not tuple:
            return item.value
        place = self.grammar.labels.index(self.label)
        return item.value[place % len(item.value)]

    def random(self, slot: Slot, rule: Rule, own: bool) -> tuple:
        """Units drawn evenly: ln(their number) nats each, by construction.

        The factor ``random`` is kept for single characters, whose entropy a
        language model's loss per character can be held against.
        """
        units = [item.value for item in rule.items]
        self._append("".join(self.rng.choices(units, k=rule.length)))
        single = all(len(unit) == 1 for unit in units)
        return "random" if single else slot.rule, str(len(units))

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
            taken, count = self._taken(slot, own), len(rule.items)
            choice = int(self.rng.random() * count)
            while choice in taken and count > len(taken):
                choice = int(self.rng.random() * count)
            self.chosen[key] = choice
        return rule.items[self.chosen[key]]

    def _taken(self, slot: Slot, own: bool) -> set[int]:
        """What ``{dish}`` is, when ``{dish2}`` is drawn: two, not one."""
        names = [slot.rule, *(f"{slot.rule}{i}" for i in (1, 2, 3))]
        keys = [(self.label, n) if own else n for n in names]
        return {self.chosen[k] for k in keys if k in self.chosen}

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
            label = self.factors[factor]
            self.spans.append([factor, label, start, self.length])
        self.factors[name] = value
        self.spans.append([name, value, start, self.length])


class _Switcher(_Writer):
    """Writes in the words of one label, and some slots in another's."""

    def __init__(self, grammar, label, scope, chosen, rng):
        self.switched = grammar.switches[label]
        able = [
            name for name in grammar.labels
            if set(self.switched) <= grammar.view(name, scope).keys()
        ]
        self.matrix, self.embedded = rng.sample(able, 2)
        super().__init__(grammar, self.matrix, scope, chosen, rng)
        self.factors[grammar.label_factor] = label
        self.factors["matrix"] = self.matrix
        self.factors["embedded"] = self.embedded
        self.gap = False  # a space is due, in a script that writes none

    def document(self) -> Document:
        """The factor ``matrix`` spans what ``embedded`` leaves."""
        found = super().document()
        found = found._replace(text=found.text[0].upper() + found.text[1:])
        marks = [s[2:] for s in self.spans if s[0] == "embedded"]
        edges = [0, *(edge for mark in marks for edge in mark), self.length]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            words = found.text[start:end].strip()
            if words:
                start = found.text.index(words, start)
                end = start + len(words)
                self.spans.append(["matrix", self.matrix, start, end])
        return found

    def slot(self, slot: Slot) -> None:
        """Write a slot, in the other label's words if it is to switch."""
        switches = slot.rule in self.switched and self.label == self.matrix
        if self.gap or (switches and self.length):
            self._space()
        if not switches:
            return super().slot(slot)
        start = self.length
        self._speak(self.embedded)
        super().slot(slot)
        self._speak(self.matrix)
        self.spans.append(["embedded", self.embedded, start, self.length])
        self.gap = True

    def _append(self, text: str) -> None:
        if self.gap and text and text[0].isalpha():
            self._space()
        self.gap = False
        super()._append(text)

    def _space(self) -> None:
        """One space between two languages, also after one that has none."""
        self.gap = False
        if not self.parts[-1].endswith(" "):
            super()._append(" ")

    def _speak(self, label: str) -> None:
        self.label, self.rules = label, self.grammar.view(label, self.scope)


_KINDS = {
    "choice": _Writer.choice,
    "random": _Writer.random,
    "base64": _Writer.base64,
}


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
