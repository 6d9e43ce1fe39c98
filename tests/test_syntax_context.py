"""The minimal pairs and the ambiguous sentences, checked by the text."""

import difflib
import random
import re
from pathlib import Path

import pytest

from helpers import synthesis
from helpers.synthesis import tables
from helpers.synthesis.grammar import Grammar

GROUPS = 1500
TABLES = {
    name: Path(synthesis.__file__).with_name(f"{name}.yaml")
    for name in ("syntax", "context")
}
UNMARKED, MARKED = "unmarked", "marked"
SISTERS = {label: f"ungrammatical {label}" for label in (UNMARKED, MARKED)}
FEMALE = {"queen", "princess", "aunt", "girl", "actress", "waitress", "nun",
          "duchess", "niece", "grandmother", "sister", "policewoman", "lady",
          "landlady", "schoolgirl", "widow", "businesswoman"}
AGREEMENT = ["number agreement", "agreement across a phrase",
             "agreement across a clause"]
# How the ungrammatical sister of (unmarked, marked) may differ.
EDITS = {
    "voice": ("other word", "other word"),
    "tense": ("other word", "other word"),
    "number agreement": ("other word", "other word"),
    "agreement across a phrase": ("other word", "other word"),
    "agreement across a clause": ("other word", "other word"),
    "negation": ("one more", "other word"),
    "polarity item": ("other word", "one fewer/other word"),
    "question": ("swapped", "one more"),
    "wh-question": ("one more", "one more"),
    "relative clause": ("other word/one more", "other word/one more"),
    "reflexive": ("other word", "other word"),
    "coordination": ("other word", "other word"),
    "cleft": ("one more", "one fewer/one more"),
    "determiner": ("other word", "other word"),
    "aspect": ("other word", "other word"),
    "case": ("other word", "other word"),
}


def draw(name):
    """[{label: document}] of GROUPS matched sets."""
    grammar = Grammar.load(TABLES[name])
    rng = random.Random(5)
    sets = [grammar.group(rng) for _ in range(GROUPS)]
    return [{d.label: d for d in documents} for documents in sets]


@pytest.fixture(scope="module")
def syntax():
    return draw("syntax")


@pytest.fixture(scope="module")
def context():
    return draw("context")


def phenomenon(group):
    return group[UNMARKED].factors["phenomenon"]


def pairs(groups, *names):
    """Each grammatical document with its ungrammatical sister."""
    for group in groups:
        if not names or phenomenon(group) in names:
            for label, sister in SISTERS.items():
                yield group[label], group[sister]


def where(document, factor):
    """The spans of one factor: [(start, end)]."""
    return [(start, end) for name, _, start, end in document.spans
            if name == factor]


def surface(document, factor):
    """The texts of a document's spans of one factor."""
    return [document.text[start:end]
            for start, end in where(document, factor)]


def words(text):
    return [word.strip(".,?").lower() for word in text.split()]


def edit(good, bad):
    """What happened to a word list: (kind, index of the words in ``bad``)."""
    differ = [i for i, (a, b) in enumerate(zip(good, bad, strict=False))
              if a != b]
    if len(good) == len(bad) and len(differ) == 2:
        i, j = differ
        assert j == i + 1 and [good[j], good[i]] == bad[i : j + 1], bad
        return "swapped", range(i, j + 1)
    steps = [step for step in difflib.SequenceMatcher(
        None, good, bad).get_opcodes() if step[0] != "equal"]
    assert steps, "the sisters are the same"
    (kind, left, left_end, right, right_end), *more = steps
    assert not more and max(left_end - left, right_end - right) == 1
    names = {"replace": "other word", "insert": "one more",
             "delete": "one fewer"}
    return names[kind], range(right, right_end)


def read(name):
    return tables.read(TABLES[name])


def rules_called(node, name):
    """Every body of the rules called ``name``, wherever they stand."""
    for key, value in node.items():
        if isinstance(value, dict):
            if key == name:
                yield value
            else:
                yield from rules_called(value, name)


def test_every_phenomenon_and_domain_occurs(syntax):
    table = read("syntax")["scopes"]
    assert len(EDITS) >= 12 and set(EDITS) == set(table["phenomenon"])
    assert {phenomenon(group) for group in syntax} == set(EDITS)
    drawn = {group[UNMARKED].factors["domain"] for group in syntax}
    assert drawn == set(table["domain"])


def test_sisters_differ_in_one_place(syntax):
    seen = {name: (set(), set()) for name in EDITS}
    for good, bad in pairs(syntax):
        kind, _ = edit(words(good.text), words(bad.text))
        seen[good.factors["phenomenon"]][good.label == MARKED].add(kind)
    for name, allowed in EDITS.items():
        found = tuple("/".join(sorted(kinds)) for kinds in seen[name])
        wanted = tuple("/".join(sorted(a.split("/"))) for a in allowed)
        assert found == wanted, name


def test_both_constructions_are_named(syntax):
    """In the table as "active | passive", in the order of the labels."""
    named = {name: [c.split(" | ") for c in rules["construction"]]
             for name, rules in read("syntax")["scopes"]["phenomenon"].items()}
    for group in syntax:
        for label, document in group.items():
            value = document.factors["construction"]
            assert any(
                value in (" | ".join(names), names[MARKED in label.split()])
                for names in named[phenomenon(group)] if len(names) == 2)
            assert surface(document, "construction")[0][-1] in ".?"


def test_the_two_constructions_share_their_frame(syntax):
    """All four documents are the same outside the construction."""
    for group in syntax:
        frames = set()
        for document in group.values():
            sentence, = surface(document, "construction")
            assert document.text.count(sentence) == 1
            frames.add(document.text.replace(sentence, ""))
        assert len(frames) == 1
        assert len({d.text for d in group.values()}) == len(group)


def test_violation_is_the_word_that_differs(syntax):
    """Where a word is missing, only a polarity item may be to blame."""
    there = missing = 0
    for good, bad in pairs(syntax):
        assert not where(good, "violation")
        _, changed = edit(words(good.text), words(bad.text))
        marks = where(bad, "violation")
        if len(changed) and good.factors["phenomenon"] != "polarity item":
            (start, end), = marks
            assert len(bad.text[:start].split()) in changed, bad.text
            assert " " not in bad.text[start:end]
            there += 1
        else:
            missing += not len(changed)
            assert {bad.text[a:b] for a, b in marks} <= {
                "any", "anybody", "ever"}
    assert there > 2500 and missing > 50


def test_critical_span_is_one_word_of_the_construction(syntax):
    for group in syntax:
        for document in group.values():
            word, = surface(document, "critical")
            sentence, = surface(document, "construction")
            passive = document.factors["phenomenon"] == "voice"
            assert len(word.split()) <= 1 + passive
            assert word in sentence
            labels = surface(document, "form")
            assert labels == [word]


def numbers():
    """{noun: number} by the table's own singulars and plurals."""
    found = {}
    table = read("syntax")
    for rule in ("agent", "object", "landmark", "kin", "part_of", "man"):
        for body in rules_called(table, rule):
            for name, forms in body.items():
                if name != "forms":
                    found[str(forms[0])] = "singular"
                    found[str(forms[1])] = "plural"
                if rule == "part_of" and name != "forms":
                    found[forms[2].split()[-1]] = "singular"
                    found[forms[3].split()[-1]] = "plural"
    return found


def nouns_in(text, known):
    """The number of each noun, the longest that fits."""
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    pattern = rf"\b(?:{names})\b"
    return [known[match] for match in re.findall(pattern, text)]


def number_of_verb(verb):
    """By its spelling alone: is, was, has, repairs; are, discuss."""
    ends = verb.endswith("s") and not verb.endswith("ss")
    return "singular" if ends else "plural"


def around_critical(document):
    """The construction's text before and after the critical word."""
    (first, last), = where(document, "construction")
    (start, end), = where(document, "critical")
    return document.text[first:start], document.text[end:last]


def test_the_verb_agrees_with_its_subject_or_not(syntax):
    known = numbers()
    assert len(known) > 400
    for good, bad in pairs(syntax, *AGREEMENT):
        for document, agrees in ((good, True), (bad, False)):
            before, _ = around_critical(document)
            head, *rest = nouns_in(before, known)
            verb, = surface(document, "critical")
            assert (head == number_of_verb(verb)) == agrees, document.text
            expected = "singular" if UNMARKED in document.label else "plural"
            assert head == expected
            if good.factors["phenomenon"] != "number agreement":
                assert rest[-1] != head, document.text


def test_coordinated_subjects_are_plural(syntax):
    checked = 0
    for good, bad in pairs(syntax, "coordination"):
        if "series" in good.factors:
            continue
        for document, agrees in ((good, True), (bad, False)):
            verb, = surface(document, "critical")
            before, _ = around_critical(document)
            number = "plural" if " and the " in before else "singular"
            assert (number == "plural") == (good.label == MARKED)
            assert (number_of_verb(verb) == number) == agrees, document.text
            checked += 1
    assert checked > 50


def test_parallel_verbs_have_one_form(syntax):
    forms = {str(row[i]): i for body in rules_called(read("syntax"), "verb")
             for name, row in body.items() if "do" not in row
             for i in (0, 1, 2)}
    checked = 0
    for good, bad in pairs(syntax, "coordination"):
        if "series" not in good.factors:
            continue
        first, = surface(good, "verb")
        assert forms[first] == forms[surface(good, "critical")[0]]
        assert forms.get(surface(bad, "critical")[0]) != forms[first]
        checked += 1
    assert checked > 50


def test_determiner_and_noun(syntax):
    known = numbers()
    plural = {"these", "those", "all"}
    for good, bad in pairs(syntax, "determiner"):
        for document, agrees in ((good, True), (bad, False)):
            word, = surface(document, "critical")
            _, after = around_critical(document)
            number = nouns_in(after, known)[0]
            assert ((word in plural) == (number == "plural")) == agrees


def test_reflexives_agree_in_gender_and_number(syntax):
    for group in syntax:
        if phenomenon(group) != "reflexive":
            continue
        female = group[UNMARKED].factors["man"] in FEMALE
        own, other = ("himself", "herself")[:: -1 if female else 1]
        found = [surface(d, "critical")[0] for d in group.values()]
        assert found == [own, "themselves", other, own]


def test_polarity_items_are_licensed_by_negation(syntax):
    for good, bad in pairs(syntax, "polarity item"):
        for document, allowed in ((good, True), (bad, False)):
            sentence, = surface(document, "construction")
            found = words(sentence)
            items = {"any", "anybody", "ever"} & set(found)
            negated = {"no", "not", "none"} & set(found)
            assert bool(items) <= bool(negated) or not allowed, sentence
            assert allowed or (items and not negated), sentence


def test_questions_invert_and_statements_do_not(syntax):
    for group in syntax:
        if phenomenon(group) == "question":
            marks = [surface(d, "construction")[0][-1]
                     for d in group.values()]
            assert marks == [".", "?", ".", "?"]
            first = surface(group[MARKED], "construction")[0].split()[0]
            assert first == surface(group[MARKED], "critical")[0]


def test_verbs_and_nouns_are_spelled_by_rule():
    """Third persons and -ing by rule; no past equals its base."""
    verbs = {str(n): [str(f) for f in row]
             for body in rules_called(read("syntax"), "verb")
             for n, row in body.items() if str(n) != "forms" and len(row) == 5}
    assert len(verbs) >= 60
    for name, (base, does, did, done, doing) in verbs.items():
        assert name == base and base not in (did, done)
        assert does == plural_of(base), does
        stem = base[:-1] if base.endswith("e") else base
        assert doing in (stem + "ing", base + base[-1] + "ing"), doing
    irregular = {"hypothesis", "cactus", "policeman", "policewoman",
                 "gentleman", "businessman", "businesswoman", "still life",
                 "shelf"}
    found = 0
    for rule in ("agent", "object", "landmark", "kin", "part_of", "man"):
        for body in rules_called(read("syntax"), rule):
            for name, row in body.items():
                if str(name) not in irregular | {"forms"}:
                    assert row[1] == plural_of(str(row[0])), row
                    found += 1
    assert found > 250


def plural_of(word):
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|sh|ch|x|z)$", word) else "s")


def test_the_lexicon_is_rich():
    table = read("syntax")
    sizes = {rule: {str(n) for body in rules_called(table, rule)
                    for n in body if n != "forms"}
             for rule in ("agent", "object", "verb")}
    assert all(len(names) >= 60 for names in sizes.values())


@pytest.mark.parametrize("name", TABLES)
def test_articles_fit_the_next_word(name, request):
    """By letter; the few words that sound otherwise are listed."""
    an_by_sound, a_by_sound = {"hour", "honest"}, {"university", "unit"}
    for group in request.getfixturevalue(name):
        for document in group.values():
            for article, word in re.findall(
                r"\b(an?) (\w+)", document.text, re.I
            ):
                vowel = word[0].lower() in "aeiou"
                vowel = (vowel or word in an_by_sound) and (
                    word not in a_by_sound)
                assert (article.lower() == "an") == vowel, document.text


@pytest.mark.parametrize("name", TABLES)
def test_documents_are_of_one_size_and_distinct(name, request):
    groups = request.getfixturevalue(name)
    for label in groups[0]:
        texts = [group[label].text for group in groups]
        assert len(set(texts)) >= 0.99 * len(texts)
        lengths = [len(text.split()) for text in texts]
        assert min(lengths) >= 10 and max(lengths) <= 42
        inside = sum(12 <= n <= 35 for n in lengths)
        assert inside >= 0.97 * len(lengths)


@pytest.mark.parametrize("name", TABLES)
def test_texts_are_clean_and_spans_tight(name, request):
    for group in request.getfixturevalue(name):
        for document in group.values():
            assert not re.search(r"[{}|]|  | [.,?]|\b(\w+) \1\b(?<!that)",
                                 document.text), document.text
            for sentence in re.split(r"(?<=[.?]) ", document.text):
                assert sentence[0].isupper() and sentence[-1] in ".?"
            for factor, _, start, end in document.spans:
                text = document.text[start:end]
                assert text and text == text.strip(), factor


def test_words_have_enough_sentences_and_clues():
    found = read("context")["scopes"]["word"]
    assert len(found) >= 30
    for word, rules in found.items():
        assert len(set(rules["ambiguous"])) >= 4, word
        for side in (0, 1):
            assert len({row[side] for row in rules["context"]}) >= 6, word
        name, = rules["meaning"]
        assert len(name.split(" | ")) == 2


def test_the_ambiguous_sentence_is_the_same(context):
    seen = set()
    for group in context:
        one, other = group.values()
        sentence, = surface(one, "ambiguous")
        assert [sentence] == surface(other, "ambiguous")
        assert one.text != other.text
        frames = {d.text.replace(surface(d, "context")[0], "#")
                  for d in (one, other)}
        assert len(frames) == 1  # the clue is all that differs
        where = one.factors["template"]
        seen.add(where)
        for document in (one, other):
            at = document.text.index(sentence)
            assert (at == 0) == (where == "after")
            gap = document.text.index(surface(document, "context")[0]) == 0
            assert gap == (where != "after")
    assert seen == {"before", "after", "between"}


def test_the_clue_never_uses_the_word(context):
    for group in context:
        for document in group.values():
            word = document.factors["word"]
            assert surface(document, "word") == [word]
            assert word in words(surface(document, "ambiguous")[0])
            clue, = surface(document, "context")
            uses = {w for w in words(clue) if w.startswith(word)}
            assert not uses & {word, word + "s", word + "es"}, clue
            assert words(document.text).count(word) == 1


def test_sense_names_the_word_and_covers_it(context):
    for group in context:
        for label, document in group.items():
            word = document.factors["word"]
            assert document.factors["sense"] == f"{label}: {word}"
            assert surface(document, "sense") == [word]
            assert surface(document, "meaning") == surface(document, "context")
            assert surface(document, "reading") == surface(document, "context")


def test_no_word_tells_the_readings_apart(context):
    counts = {}
    for group in context:
        for label, document in group.items():
            for word in set(words(document.text)):
                counts.setdefault(word, dict.fromkeys(group, 0))[label] += 1
    gap = max(abs(c["sense A"] - c["sense B"]) for c in counts.values())
    assert 0.5 + gap / GROUPS / 2 < 0.7
