"""The parallel sentences: the table's contracts, and the sentences' grammar.

The first half reads the table, the second half only what was generated, so
that a mistake of a template is found as well as one of a word.
"""

import functools
import json
import re
import unicodedata
from typing import NamedTuple

import pytest

from helpers import synthesis
from helpers.synthesis import tables

LANGUAGES = ("English", "Spanish", "French", "German", "Korean", "Chinese",
             "Arabic", "Hebrew")
SPACED = tuple(name for name in LANGUAGES if name != "Chinese")
KINDS = ("text", "food", "thing")
FEMALE = {"woman", "girl", "mother", "grandmother", "aunt", "queen", "nurse",
          "student", "actress", "singer", "neighbour", "judge", "princess",
          "writer"}


@functools.cache
def languages():
    return tables.read(synthesis.table_path("languages"))


def forms(language, slot, kind=None):
    table = languages()
    rules = table["labels"][language]
    return (rules["kind"][kind] if kind else rules)[slot]


def items(rule):
    return [(k, v) for k, v in rule.items() if k != "forms"]


def verbs(language):
    rules = [forms(language, "verb", kind) for kind in KINDS]
    rules.append(forms(language, "give"))
    return [pair for rule in rules for pair in items(rule)]


def word_rules(language):
    """Every list of words of a language: {where it stands: {name: word}}."""
    rules = languages()["labels"][language]
    found = {(slot,): rules[slot] for slot in ("person", "give", "place")}
    for scope in ("kind", "tense"):
        for value, inner in rules[scope].items():
            for slot, words in inner.items():
                found[scope, value, slot] = words
    return {where: dict(items(rule)) for where, rule in found.items()}


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_lists_the_same_names_in_one_order(language):
    ours, english = word_rules(language), word_rules("English")
    assert {k: list(v) for k, v in ours.items()} == {
        k: list(v) for k, v in english.items()
    }
    assert list(forms(language, "template")) == list(
        forms("English", "template")
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_names_of_a_list_are_one_word(language):
    for where, words in word_rules(language).items():
        seen = [json.dumps(word) for word in words.values()]
        assert len(set(seen)) == len(seen), where


def test_the_gender_of_a_person_is_the_same_everywhere():
    """The columns and the articles, against a list written out here."""
    for language in ("Arabic", "Hebrew"):
        for name, (gender, *_) in items(forms(language, "person")):
            assert (gender == "f") == (name in FEMALE), (language, name)
    articles = {"Spanish": "la ", "French": "la ", "German": "die "}
    for language, article in articles.items():
        for name, (subject, *_) in items(forms(language, "person")):
            if subject.startswith(("l'", "das ")):
                continue
            assert subject.startswith(article) == (name in FEMALE), subject


def final_consonant(word):
    return jamo(word) != 0


def jamo(word):
    """The final consonant of a Hangul word, by its number; 0 for none."""
    return (ord(word[-1]) - 0xAC00) % 28


def test_korean_particles_follow_the_last_sound():
    topic = {True: "은", False: "는"}
    for name, (subject, of, to) in items(forms("Korean", "person")):
        noun = of[:-1]
        assert subject == noun + topic[final_consonant(noun)], name
        assert (of, to) == (noun + "의", noun + "에게")
    target = {True: "을", False: "를"}
    for kind in KINDS:
        for name, word in forms("Korean", "object", kind).items():
            assert word[-1] == target[final_consonant(word[:-1])], name


def test_korean_tenses_end_alike():
    nieun, rieul, ssang_siot = 4, 8, 20  # the final consonants ㄴ, ㄹ, ㅆ
    for name, (present, past, future) in verbs("Korean"):
        stem = present.removesuffix("다")
        assert present.endswith("다"), name
        assert stem.endswith("는") or jamo(stem) == nieun, name
        assert past.endswith("다") and jamo(past[:-1]) == ssang_siot, name
        verb = future.removesuffix(" 것이다")
        assert verb != future and jamo(verb) == rieul, name


def test_english_german_and_romance_tenses_are_formed_alike():
    for name, (present, _, future) in verbs("English"):
        assert present.endswith("s"), name
        assert future.startswith("will "), name
        base = future.removeprefix("will ")
        assert present in (base + "s", base + "es", base[:-1] + "ies"), name
    for name, (present, past, infinitive) in verbs("German"):
        assert " " not in present + past + infinitive, name  # no verb parts
        assert present.endswith("t") and infinitive.endswith("en"), name
    for name, (_, past, future) in verbs("Spanish"):
        assert past[-1] in "óo" and future.endswith("rá"), name
    for name, (_, past, future) in verbs("French"):
        assert past.startswith("a ") and past[-1] in "éuist", name
        assert future.endswith("ra"), name


def test_spanish_and_french_contract():
    for name, (subject, of, to) in items(forms("Spanish", "person")):
        article, noun = subject.split(" ", 1)
        de, a = {"el": ("del", "al"), "la": ("de la", "a la")}[article]
        assert (of, to) == (f"{de} {noun}", f"{a} {noun}"), name
    for name, (subject, of, to) in items(forms("French", "person")):
        if subject.startswith("le "):
            noun = subject[3:]
            assert (of, to) == (f"du {noun}", f"au {noun}"), name
        else:
            assert (of, to) == (f"de {subject}", f"à {subject}"), name
        noun = re.sub(r"^(l'|le |la )", "", subject)
        first = unicodedata.normalize("NFD", noun)[0]
        assert subject.startswith("l'") == (first in "aeiouyœh"), name


def test_spanish_and_french_adjectives_inflect():
    for kind in KINDS:
        for name, (m, f) in items(forms("Spanish", "adjective", kind)):
            assert f == (m[:-1] + "a" if m.endswith("o") else m), name
        for name, (m, f) in items(forms("French", "adjective", kind)):
            assert f.endswith("e"), name
            assert (m == f) == m.endswith("e"), name
        for language, article in (("Spanish", {"m": "el", "f": "la"}),
                                  ("French", {"m": "le", "f": "la"})):
            for name, (gender, the) in items(forms(language, "object", kind)):
                if not the.startswith("l'"):
                    assert the.split()[0] == article[gender], name


def test_german_articles_agree():
    accusative = {"m": "den", "f": "die", "n": "das"}
    dative = {"der": "dem", "das": "dem", "die": "der"}
    for kind in KINDS:
        for name, (gender, the, _) in items(forms("German", "object", kind)):
            assert the == accusative[gender], name
        for name, (m, f, n) in items(forms("German", "adjective", kind)):
            assert m.endswith("en") and f == n == m[:-1], name
    for name, (subject, of, to) in items(forms("German", "person")):
        article = subject.split()[0]
        assert to.split()[0] == dative[article], name
        assert of.split()[0] == ("der" if article == "die" else "des"), name


def test_arabic_and_hebrew_definiteness_and_verb_agreement():
    for kind in KINDS:
        for name, (_, the, bare) in items(forms("Arabic", "object", kind)):
            assert the == "ال" + bare, name
        for words in (forms("Arabic", "adjective", kind),):
            assert all(w.startswith("ال") for _, r in items(words) for w in r)
        for words in (forms("Hebrew", "adjective", kind),
                      forms("Hebrew", "object", kind)):
            assert all(r[-1].startswith("ה") for _, r in items(words))
    for name, tenses in verbs("Arabic"):
        m, f = tenses["present"]
        assert f == "ت" + m[1:] and m[0] == "ي", name
        assert tenses["future"] == ["س" + m, "س" + f], name
        assert tenses["past"][1][-1] == "ت", name
    for name, tenses in verbs("Hebrew"):
        m, f = tenses["future"]
        assert m[0] == "י" and f[0] == "ת", name
        assert tenses["past"][1].endswith("ה"), name
    for name, (_, subject, to) in items(forms("Arabic", "person")):
        assert to == "ل" + subject[1:], name
    for name, (_, subject, to) in items(forms("Hebrew", "person")):
        assert to == "ל" + subject[1:], name


# Hebrew nouns whose ending does not tell their gender.
HEBREW_EXCEPTIONS = {"הסכין": "f", "החוזה": "m"}


def test_arabic_and_hebrew_endings_tell_the_gender():
    for kind in KINDS:
        for name, (gender, _, bare) in items(forms("Arabic", "object", kind)):
            assert (gender == "f") == (bare[-1] in "ةا"), name
        for name, (m, f) in items(forms("Arabic", "adjective", kind)):
            assert f == m + "ة" or f.endswith("اء"), name
        for name, (gender, the) in items(forms("Hebrew", "object", kind)):
            ending = "f" if the[-1] in "הת" else "m"
            assert gender == HEBREW_EXCEPTIONS.get(the, ending), name


PREPOSITIONS = {
    "English": ("in the ", "at ", "on the "), "Spanish": "en ",
    "French": ("à ", "au ", "dans ", "sur "),
    "German": ("im ", "am ", "in der ", "auf "), "Korean": "", "Chinese": "在",
    "Arabic": ("في ال", "على ال"), "Hebrew": "ב",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_place_is_a_place(language):
    for name, place in items(forms(language, "place")):
        assert place.startswith(PREPOSITIONS[language]), name
        assert language != "Korean" or place.endswith("에서"), name


class Sentence(NamedTuple):
    """A generated sentence, its factors, and the words at its spans."""

    text: str
    factors: dict
    spans: list

    def at(self, factor):
        """(start, end) of every span of a factor."""
        return [(s, e) for name, _, s, e in self.spans if name == factor]

    def words(self, factor):
        return [self.text[start:end] for start, end in self.at(factor)]

    def before(self, factor):
        """The word in front of the first span of a factor."""
        return self.text[: self.at(factor)[0][0]].split()[-1]

    @property
    def is_early(self):
        return self.factors["template"].endswith("_early")


@pytest.fixture(scope="module")
def sentences():
    """500 sentences of each language, by language."""
    frame = synthesis.generate("languages", 500, seed=1)
    found = {
        language: [
            Sentence(row.text, json.loads(row.factors), json.loads(row.spans))
            for row in part.itertuples()
        ]
        for language, part in frame.groupby("label", sort=False)
        if language != "code-switched"
    }
    assert list(found) == list(LANGUAGES)
    return found


def adjectives(found):
    """The sentences that have an adjective."""
    chosen = [s for s in found if s.at("adjective")]
    assert len(chosen) > 100
    return chosen


# What no sentence may hold, each with a sentence that does.
FORBIDDEN = {
    "English": [
        (r"\bat the school\b", "The boy reads at the school."),
        (r"'s the\b", "The boy reads the man's the book."),
    ],
    "Spanish": [
        (r"\bde el\b", "La niña lee el libro de el rey."),
        (r"\ba el\b", "La niña le da el pan a el rey."),
    ],
    "French": [
        (r"\b(à|de) les?\b", "La fille donne le pain à le roi."),
        (r"\b(à|de) les?\b", "La fille lit le livre de le roi."),
        (r"\b(l[ea]|de) [aeiouyhâéèêîôœ]", "La actrice lit."),
        (r"\b(l[ea]|de) [aeiouyhâéèêîôœ]", "La fille mange le œuf."),
        (r"\bl'[^aeiouyhâéèêîôœ]", "La fille voit l'roi."),
    ],
    "German": [
        (r"\bden (?!\w+en\b)(?-i:[a-zäöü])", "Er liest den alte Brief."),
        (r"\b(die|das) (?-i:[a-zäöü]\w+en [A-Z])", "Er liest das alten Buch."),
        (r"\bdes \w*(?![ns])\w\b", "Er liest das Buch des Vater."),
        (r"\b[ai]n dem\b", "Er liest das Buch in dem Garten."),
    ],
    "Korean": [
        (r"[^다]\.$", "소년은 책을 읽어요."),
        (r"[을를] \S+[을를] (?!것)", "소년은 책을 편지를 읽는다."),
    ],
    "Chinese": [
        (r"\s", "老师 读那本书。"),
        (r"[,.!?;:]", "老师读那本书."),
        (r"那(?![个本封份首篇块碗条根把张盏部辆顶面])", "老师读那书。"),
        (r"([了的会把在])\1", "老师读了了那本书。"),
    ],
    "Arabic": [
        (r"\bل ?ال", "أعطى الرجل الكتاب لالملك."),
        (r"\bل ?ال", "أعطى الرجل الكتاب ل الملك."),
        (r"[\u064b-\u0652\u0640]", "قَرأ الرجل الكتاب."),
        (r"ه ال\w+ة\b", "قرأ الرجل الرساله المهمة."),
    ],
    "Hebrew": [
        (r"\bאת (?!ה)", "המלך קורא את ספר."),
        (r"\bאת\b.*\bאת\b", "המלך קורא את הספר את החדש."),
        (r"\b[בלכ]ה", "המלך נותן את הספר להמלכה."),
        (r"[\u0591-\u05c7]", "המלך קורא את הסֵפר."),
    ],
}


def holds(pattern, text):
    return re.search(pattern, text, re.IGNORECASE) is not None


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_holds_what_its_grammar_forbids(sentences, language):
    for pattern, wrong in FORBIDDEN[language]:
        assert holds(pattern, wrong)
        assert [s.text for s in sentences[language]
                if holds(pattern, s.text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_has_one_mark_at_its_end(sentences, language):
    mark = "。" if language == "Chinese" else "."
    for sentence in sentences[language]:
        ends = re.findall(r"[.。!?؟]", sentence.text)
        assert ends == [mark] and sentence.text.endswith(mark), sentence.text


SCRIPTS = dict(zip(LANGUAGES, ["LATIN"] * 4 + ["HANGUL", "CJK", "ARABIC",
                                               "HEBREW"], strict=True))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_is_written_in_its_script_alone(sentences, language):
    for text in [sentence.text for sentence in sentences[language]]:
        assert text == unicodedata.normalize("NFC", text)
        letters = re.sub(r"[ .。,'-]", "", text)
        names = {unicodedata.name(letter).split()[0] for letter in letters}
        assert names == {SCRIPTS[language]}, text
        assert not text[0].islower(), text


@pytest.mark.parametrize("language", SPACED)
def test_words_are_apart_by_one_space_and_none_is_repeated(
    sentences, language
):
    for sentence in sentences[language]:
        words = sentence.text.split(" ")
        assert all(words), sentence.text
        pairs = zip(words, words[1:], strict=False)
        assert not any(a == b for a, b in pairs), sentence.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_two_persons_of_a_sentence_are_two(sentences, language):
    pairs = [
        (s.factors["person"], s.factors["person2"])
        for s in sentences[language] if "person2" in s.factors
    ]
    assert len(pairs) > 200 and all(a != b for a, b in pairs)


def test_spanish_and_french_words_agree_in_the_sentence(sentences):
    masculine = {"Spanish": "o", "French": tuple("bcdfglmnrstx")}
    for language, endings in masculine.items():
        for sentence in adjectives(sentences[language]):
            (noun,), (adjective,) = map(
                sentence.words, ("object", "adjective")
            )
            if noun.startswith("la "):
                assert not adjective.endswith(endings), sentence.text
            if noun.startswith("el "):
                assert not adjective.endswith("a"), sentence.text
    for sentence in sentences["Spanish"]:
        giving = bool(sentence.at("give"))
        assert giving == (" le " in sentence.text), sentence.text


def test_german_adjectives_are_weak_in_the_sentence(sentences):
    for sentence in adjectives(sentences["German"]):
        article = sentence.before("adjective")
        (adjective,) = sentence.words("adjective")
        assert article in ("den", "die", "das"), sentence.text
        assert adjective.endswith(("e", "en")), sentence.text
        assert adjective.endswith("en") == (article == "den"), sentence.text
        assert sentence.words("object")[-1][0].isupper(), sentence.text


def test_the_german_verb_is_second_and_the_infinitive_last(sentences):
    for sentence in sentences["German"]:
        first = "time" if sentence.is_early else "person"
        (verb,) = sentence.at("verb") or sentence.at("give")
        second = sentence.text[sentence.at(first)[0][1] + 1 :]
        if sentence.factors["tense"] == "future":
            assert second.startswith("wird "), sentence.text
            assert verb[1] == len(sentence.text) - 1, sentence.text
            assert sentence.text[slice(*verb)].endswith("en"), sentence.text
        else:
            assert second.startswith(sentence.text[slice(*verb)] + " ")


def test_korean_particles_follow_the_last_sound_in_the_sentence(sentences):
    pairs = {"person": ("는", "은"), "object": ("를", "을")}
    for sentence in sentences["Korean"]:
        for factor, particles in pairs.items():
            (word,) = sentence.words(factor)
            right = particles[final_consonant(word[:-1])]
            assert word[-1] == right, sentence.text
        for word in sentence.words("person2"):
            assert word.endswith(("의", "에게")), sentence.text
        for word in sentence.words("place"):
            assert word.endswith("에서"), sentence.text


def test_chinese_particles_follow_the_tense_and_the_template(sentences):
    for sentence in sentences["Chinese"]:
        tense, text = sentence.factors["tense"], sentence.text
        assert text.count("了") == (tense == "past"), text
        assert text.count("会") == (tense == "future"), text
        if tense == "future" and sentence.at("place"):
            assert text[sentence.at("place")[0][0] - 1] == "会", text
        (verb,) = sentence.at("verb") or sentence.at("give")
        if tense == "past":
            assert text[verb[1]] == "了", text
        if sentence.at("give"):
            start, end = text.index("把"), verb[0]
            assert start < sentence.at("object")[0][0] < end, text


def test_arabic_words_agree_in_the_sentence(sentences):
    prefixes = {"present": ("ي", "ت"), "future": ("سي", "ست")}
    for sentence in sentences["Arabic"]:
        female = sentence.factors["person"] in FEMALE
        (verb,) = sentence.words("verb") or sentence.words("give")
        (person,) = sentence.words("person")
        assert f"{verb} {person} " in sentence.text, sentence.text
        if sentence.factors["tense"] == "past":
            assert verb.endswith("ت") == female, sentence.text
        else:
            prefix = prefixes[sentence.factors["tense"]][female]
            assert verb.startswith(prefix), sentence.text
        (noun,) = sentence.words("object")
        if sentence.factors["template"].startswith("possessive"):
            (owner,) = sentence.words("person2")
            assert f" {noun} {owner}" in sentence.text, sentence.text
            assert owner.startswith("ال") and not noun.startswith("ال")
    for sentence in adjectives(sentences["Arabic"]):
        (noun,), (adjective,) = map(sentence.words, ("object", "adjective"))
        assert noun.startswith("ال") and adjective.startswith("ال")
        feminine = adjective.endswith(("ة", "اء"))
        assert feminine == (noun[-1] in "ةا"), sentence.text


def test_hebrew_words_agree_in_the_sentence(sentences):
    for sentence in sentences["Hebrew"]:
        female = sentence.factors["person"] in FEMALE
        (verb,) = sentence.words("verb") or sentence.words("give")
        match sentence.factors["tense"]:
            case "future":
                assert verb[0] == ("ת" if female else "י"), sentence.text
            case "past" if female:
                assert verb.endswith("ה"), sentence.text
            case "past":
                assert not verb.endswith("תה"), sentence.text
            case _ if female:
                assert verb[-1] in "תה", sentence.text
        assert sentence.before("object") == "את", sentence.text
    for sentence in adjectives(sentences["Hebrew"]):
        (noun,), (adjective,) = map(sentence.words, ("object", "adjective"))
        assert noun.startswith("ה") and adjective.startswith("ה")
        ending = "f" if noun[-1] in "הת" else "m"
        if HEBREW_EXCEPTIONS.get(noun, ending) == "f":
            assert adjective[-1] in "הת", sentence.text
