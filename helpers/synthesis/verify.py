"""Matched sets written by a language model: their form, and what is checked.

A model cannot count characters, so it marks a span by an exact quote and
the number of its occurrence; the span is then found in the text itself. A
set is used whole or not at all: one wrong document and it is rejected, with
a reason that is counted and a detail that is kept.
"""

import functools
import re
import unicodedata

import pydantic

SCRIPT_SHARE = 0.8  # of a document's letters, at least, in its script
WHOLE_TEXT = "text"  # the factor that covers a document from end to end


# The docstrings of the next four are part of the schema that a model gets:
# to change one is to ask anew.


class _Strict(pydantic.BaseModel, extra="forbid"):
    """Every field is required and no other is allowed."""


class Span(_Strict):
    """Where a factor shows; the occurrence of the quote counts from 1."""

    factor: str
    value: str
    quote: str
    occurrence: int


class Member(_Strict):
    """One document of a set."""

    label: str
    text: str
    spans: list[Span]


class MatchedSet(_Strict):
    """What a reply must hold: one document for each label."""

    members: list[Member]


class Rejected(Exception):
    """A set is not used: ``reason`` is a short name, ``detail`` says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def check(prompt, brief: dict, found: MatchedSet) -> list[dict]:
    """The documents of a set, in the order of the prompt's labels.

    ``prompt`` is a ``written.Prompt``, ``brief`` what was asked. A document
    has text, label, factors {name: value} and spans [factor, value, start,
    end], in characters. Raises Rejected for the first thing that is wrong.
    """
    members = _by_label(prompt, found)
    for member in members:
        _check_text(prompt, member)
    normal = {normalise(member.text) for member in members}
    if len(normal) < len(members):
        raise Rejected("same text", "two labels have one and the same text")
    for member in members:
        _check_factors(prompt, brief, member)
    rows = [_document(prompt, brief, member) for member in members]
    _check_same(prompt, members)
    return rows


def normalise(text: str) -> str:
    """Text without regard to case and spacing, to compare with others."""
    return " ".join(text.casefold().split())


def locate(text: str, quote: str, occurrence: int) -> tuple[int, int]:
    """Start and end of the ``occurrence``-th place where a quote stands.

    Places are counted from 1 and do not overlap. Raises Rejected where the
    quote is blank, begins or ends with a space, or stands there less often.
    """
    if not quote or quote != quote.strip():
        raise Rejected("span", f"{quote!r} is blank or has a space at an end")
    places = [m.span() for m in re.finditer(re.escape(quote), text)]
    if not 1 <= occurrence <= len(places):
        raise Rejected("span", f"occurrence {occurrence} of {quote!r} is asked "
                       f"for where the text has {len(places)}")
    return places[occurrence - 1]


def _by_label(prompt, found: MatchedSet) -> list[Member]:
    named = [member.label for member in found.members]
    if sorted(named) != sorted(prompt.labels):
        raise Rejected("label", f"labels {', '.join(named) or 'none'}, where "
                       f"{', '.join(prompt.labels)} are due, each once")
    members = {member.label: member for member in found.members}
    return [
        members[label].model_copy(
            update={"text": members[label].text.strip()}
        )
        for label in prompt.labels
    ]


def _check_text(prompt, member: Member) -> None:
    letters = [c for c in member.text if c.isalpha()]
    if not letters:
        raise Rejected("empty", f"{member.label}: no letter in the text")
    if len(member.text) > prompt.longest:
        raise Rejected("too long", f"{member.label}: {len(member.text)} "
                       f"characters, {prompt.longest} are allowed")
    script = prompt.scripts.get(member.label, "")
    inside = sum(unicodedata.name(c, "").startswith(script) for c in letters)
    if inside < SCRIPT_SHARE * len(letters):
        raise Rejected("script", f"{member.label}: {inside} of {len(letters)} "
                       f"letters are {script}")


def _check_factors(prompt, brief: dict, member: Member) -> None:
    asked = prompt.asked(member.label)
    for span in member.spans:
        if span.factor not in asked:
            raise Rejected("factor", f"{member.label}: {span.factor!r} is not "
                           f"asked for; {', '.join(asked)} are")
        wanted = brief.get(span.factor, span.value)
        if span.value != wanted or not span.value.strip():
            raise Rejected("factor", f"{member.label}: {span.factor} is "
                           f"{span.value!r} where {wanted!r} was asked")
    missing = set(asked) - {span.factor for span in member.spans}
    if missing:
        raise Rejected("factor", f"{member.label}: no span for "
                       f"{', '.join(sorted(missing))}")


def _document(prompt, brief: dict, member: Member) -> dict:
    text, label = member.text, member.label
    spans: list[list] = []
    own = functools.partial(_own, list(prompt.labels).index(label))
    for span in member.spans:
        place = locate(text, span.quote, span.occurrence)
        if span.factor == prompt.carried_by:
            spans.append([prompt.label, label, *place])
        spans.append([span.factor, own(span.value), *place])
    if prompt.carried_by == WHOLE_TEXT:
        spans.append([prompt.label, label, 0, len(text)])
    shown = {span.factor: span.value for span in member.spans}
    named = {name: own(value) for name, value in (brief | shown).items()}
    factors = {prompt.label: label, **named}
    return {"text": text, "label": label, "factors": factors, "spans": spans}


def _own(place: int, value: str) -> str:
    """Of ``a | b``, one name for each label in turn, the label's own."""
    names = value.split(" | ")
    return names[place % len(names)]


def _check_same(prompt, members: list[Member]) -> None:
    """What all documents must share is word for word the same."""
    quotes = {
        span.quote for member in members for span in member.spans
        if span.factor == prompt.same
    }
    if len(quotes) > 1:
        listed = "; ".join(repr(quote) for quote in sorted(quotes))
        raise Rejected("changed sentence", f"{prompt.same} differs: {listed}")
