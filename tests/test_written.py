"""Corpora written by a model: real client, real HTTP, a scripted server.

The server's "model" answers with matched sets of the grammar, turned into
quotes, so that what succeeds is real text; then everything that can go
wrong does, and the accounts must be exact.
"""

import dataclasses
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import chat, paths, synthesis
from helpers.errors import InputError
from helpers.synthesis import verify, written
from tests.chat_server import ChatServer, refusal, reply, status

GROUPS = 8


@functools.cache
def grammar_sets(corpus: str) -> list[dict]:
    """Matched sets of the grammar that show every factor the prompt asks."""
    prompt = written.load_prompt(corpus)
    grammar, rng = synthesis.load_grammar(corpus), random.Random(0)
    sets = []
    while len(sets) < 40:
        members = [
            member(prompt, document)
            for document in grammar.group(rng, training=False)
            if document.label in prompt.labels
        ]
        if all(
            {s["factor"] for s in m["spans"]} == set(prompt.asked(m["label"]))
            for m in members
        ):
            sets.append({"members": members})
    return sets


def member(prompt: written.Prompt, document) -> dict:
    """A document of the grammar as a model would return it."""
    spans, text = [], document.text
    for factor, value, start, end in document.spans:
        if factor in prompt.asked(document.label):
            quote = text[start:end]
            places = re.finditer(re.escape(quote), text)
            starts = [match.start() for match in places]
            spans.append({"factor": factor, "value": value, "quote": quote,
                          "occurrence": starts.index(start) + 1})
    return {"label": document.label, "text": text, "spans": spans}


class Model:
    """Answers a group with a set of the grammar, or as the script says.

    ``script`` maps (group, attempt) to a function of the good set, which
    returns an altered set or one of the server's actions.
    """

    def __init__(self, corpus: str, script: dict | None = None):
        self.corpus, self.script = corpus, script or {}
        prompt = written.load_prompt(corpus)
        self.briefs = [written.draw_brief(prompt, g) for g in range(40)]
        self.asked = {
            written._request(prompt, g, attempt, 0).seed: (g, attempt)
            for g in range(40) for attempt in range(3)
        }

    def __call__(self, body: dict, attempt: int):
        group, round = self.asked[body["seed"]]
        change = self.script.get((group, round), lambda found: found)
        answer = change(self.good(group))
        return reply(answer) if isinstance(answer, dict) else answer

    def good(self, group: int) -> dict:
        """The set of a group, with the values of its brief."""
        found = json.loads(json.dumps(grammar_sets(self.corpus)[group]))
        for each in found["members"]:
            for span in each["spans"]:
                value = self.briefs[group].get(span["factor"], span["value"])
                span["value"] = value
        return found


def spec_for(corpus, server, store, attempts=3, **options) -> written.Written:
    options = {"prices": (1.0, 2.0), "retries": 3, **options}
    service = chat.Service("test", base_url=server.url, **options)
    return written.Written(corpus, service, store, attempts)


def own_name(value: str, row: dict, prompt: written.Prompt) -> str:
    """Of "a | b" the name that is the document's own, by its label."""
    names = value.split(" | ")
    return names[list(prompt.labels).index(row["label"]) % len(names)]


def outline(result: written.Result) -> list[tuple]:
    return [(q["group"], q["attempt"], q["reason"]) for q in result.quarantine]


@pytest.mark.parametrize("corpus", written.CORPORA)
def test_prompts_name_what_the_tables_name(corpus):
    prompt = written.load_prompt(corpus)
    assert tuple(prompt.labels) == synthesis.labels(corpus, switched=False)
    assert prompt.corpus == corpus
    grammar = synthesis.load_grammar(corpus)
    assert prompt.label == grammar.label_factor
    documents = [
        document for seed in range(50)
        for document in grammar.group(random.Random(seed), training=False)
    ]
    known = {factor for document in documents for factor in document.factors}
    assert set(prompt.factors) <= known
    assert prompt.carried_by in {*prompt.factors, "text"}


@pytest.mark.parametrize("corpus", written.CORPORA)
def test_thousands_of_groups_have_their_own_brief(corpus):
    prompt = written.load_prompt(corpus)
    briefs = [written.draw_brief(prompt, g) for g in range(3000)]
    assert len({tuple(b.items()) for b in briefs}) > 0.995 * len(briefs)
    assert briefs[:9] == [written.draw_brief(prompt, g) for g in range(9)]
    assert briefs[0] != written.draw_brief(prompt, 0, seed=1)
    system, user = (m["content"] for m in written.messages(prompt, 0))
    assert all(f"- {name}: " in system for name in prompt.labels)
    assert all(value in user for value in briefs[0].values())
    for factor in {*prompt.factors} & {*briefs[0]}:  # the name it is marked by
        assert f"- {factor}: {briefs[0][factor]}\n" in user


@pytest.mark.parametrize("corpus", written.CORPORA)
def test_good_sets_become_documents_with_exact_spans(tmp_path, corpus):
    model, prompt = Model(corpus), written.load_prompt(corpus)
    with ChatServer(model) as server:
        spec = spec_for(corpus, server, tmp_path / "store.sqlite")
        result = written.write(spec, GROUPS)
        schema = server.requests[0].body["response_format"]["json_schema"]
    assert result.quarantine == [] and schema["strict"]
    labels = [row["label"] for row in result.rows]
    assert labels == list(prompt.labels) * GROUPS
    for row in result.rows:
        sent = model.good(row["group"])["members"]
        one, = [m for m in sent if m["label"] == row["label"]]
        assert row["text"] == one["text"]
        brief = model.briefs[row["group"]]
        asked = {k: own_name(v, row, prompt) for k, v in brief.items()}
        assert asked.items() <= row["factors"].items()
        marked = [s for s in row["spans"] if s[0] != prompt.label]
        assert [
            (f, v, row["text"][start:end]) for f, v, start, end in marked
        ] == [
            (s["factor"], own_name(s["value"], row, prompt), s["quote"])
            for s in one["spans"]
        ]
        carried = [s[2:] for s in row["spans"] if s[0] == prompt.label]
        carriers = [s[2:] for s in marked if s[0] == prompt.carried_by]
        assert carried == (carriers or [[0, len(row["text"])]])
        assert row["factors"][prompt.label] == row["label"]


def test_schema_is_strict():
    """Strict structured outputs: all fields required, no others, no default."""
    def objects(node):
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for child in node.values():
                yield from objects(child)

    found = list(objects(verify.MatchedSet.model_json_schema()))
    assert len(found) == 3
    for node in found:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
        assert not any("default" in p for p in node["properties"].values())


def edit(**changes):
    """A set whose last document is altered."""
    def change(found: dict) -> dict:
        found["members"][-1].update(changes)
        return found

    return change


def edit_span(**changes):
    """A set with another first span in its last document."""
    def change(found: dict) -> dict:
        found["members"][-1]["spans"][0].update(changes)
        return found

    return change


def without_last(found: dict) -> dict:
    return {"members": found["members"][:-1]}


def twice_the_first(found: dict) -> dict:
    first = found["members"][0]
    return {"members": [first, first, *found["members"][2:]]}


def one_more(found: dict) -> dict:
    return {"members": [*found["members"], found["members"][0]]}


def same_text(found: dict) -> dict:
    first, last = found["members"][0], found["members"][-1]
    last |= {"text": first["text"].upper(), "spans": first["spans"]}
    return found


BAD = {
    "refusal": [lambda found: refusal("No.")],
    "invalid": [lambda found: reply("not JSON"),
                lambda found: reply({"members": [{"label": "positive"}]}),
                edit(spans=None)],
    "cut off": [lambda found: reply(found, finish="length")],
    "label": [edit(label="mixed"), without_last, twice_the_first, one_more,
              lambda found: {"members": []}],
    "empty": [edit(text="   "), edit(text="?! 12")],
    "too long": [edit(text="very " * 200)],
    "same text": [same_text],
    "factor": [edit(spans=[]), edit_span(factor="mood"),
               edit_span(value="by magic"), edit_span(value="")],
    "span": [edit_span(quote="words that are not there"),
             edit_span(quote=""), edit_span(quote=" "),
             edit_span(occurrence=0), edit_span(occurrence=-1),
             edit_span(occurrence=99)],
}


def test_every_failure_has_its_name_and_is_asked_again(tmp_path):
    faults = [(r, change) for r, changes in BAD.items() for change in changes]
    script = {(g, 0): change for g, (_, change) in enumerate(faults)}
    script[1, 1] = BAD["refusal"][0]  # a second failure of one group
    with ChatServer(Model("sentiment", script)) as server:
        spec = spec_for("sentiment", server, tmp_path / "store.sqlite")
        result = written.write(spec, len(faults) + 1)
        asked = len(server.requests)
    wanted = [(g, 0, reason) for g, (reason, _) in enumerate(faults)]
    assert outline(result) == [*wanted, (1, 1, "refusal")]
    reasons = {r: len(changes) for r, changes in BAD.items()}
    reasons["refusal"] += 1
    account = result.account
    assert account["reasons"] == reasons
    assert account["complete"] == account["groups"] == len(faults) + 1
    assert account["incomplete"] == 0
    assert account["requests"] == asked == 2 * len(faults) + 2
    assert result.quarantine[0]["reply"] == "No."
    assert result.quarantine[1]["reply"] == "not JSON"
    assert all(q["detail"] for q in result.quarantine)
    assert all(r["text"][s:e] for r in result.rows for *_, s, e in r["spans"])


def test_what_never_succeeds_is_counted_and_left_out(tmp_path):
    never = {(2, attempt): BAD["refusal"][0] for attempt in range(3)}
    with ChatServer(Model("subjects", never)) as server:
        spec = spec_for("subjects", server, tmp_path / "store.sqlite")
        result = written.write(spec, 4)
    assert [row["group"] for row in result.rows[::3]] == [0, 1, 3]
    assert len(result.rows) == 9
    assert outline(result) == [(2, a, "refusal") for a in range(3)]
    account = result.account
    assert (account["complete"], account["incomplete"]) == (3, 1)
    assert (account["requests"], account["model"]) == (6, "test")
    usd = account["prompt_tokens"] + 2 * account["completion_tokens"]
    assert account["cost_usd"] == pytest.approx(usd / 1e6)
    estimated = account["estimated_usd"]
    assert 0 < estimated["expected"] < estimated["at_most"]
    assert account["cost_usd"] < estimated["at_most"]


def taken(model: Model, group: int, index: int, change, place=None):
    """A set with a document of another group, changed a little."""
    def swap(found: dict) -> dict:
        theirs = model.good(group)["members"][index]
        mine = found["members"][index if place is None else place]
        values = {span["factor"]: span["value"] for span in mine["spans"]}
        for span in theirs["spans"]:
            span["value"] = values[span["factor"]]
        mine |= {"text": change(theirs["text"]), "spans": theirs["spans"]}
        return found

    return swap


def spaced(text: str) -> str:
    return text.replace(". ", ".  ") + "\n"


def longer(text: str) -> str:
    return text + " Indeed."


def test_repeats_of_accepted_documents_are_found_in_group_order(tmp_path):
    model, refused = Model("subjects"), BAD["refusal"][0]
    faults = [
        # Group 1 comes first, so 3 is the repeat; 5 is like what is not used.
        ({(1, 0): taken(model, 3, 0, spaced), (5, 0): taken(model, 3, 2, str)},
         [(3, attempt, "duplicate") for attempt in range(3)]),
        ({(5, 0): taken(model, 3, 2, longer)}, [(5, 0, "near duplicate")]),
        # A later round is compared with what earlier ones accepted.
        ({(0, 0): refused, (0, 1): taken(model, 5, 1, longer)},
         [(0, 0, "refusal"), (0, 1, "near duplicate")]),
        ({(0, 0): refused, (0, 1): taken(model, 5, 1, spaced)},
         [(0, 0, "refusal"), (0, 1, "duplicate")]),
        # Under another label the same text is no repeat.
        ({(4, 0): taken(model, 2, 1, str, place=0)}, []),
    ]
    with ChatServer(model) as server:
        for number, (model.script, wanted) in enumerate(faults):
            store = tmp_path / f"{number}.sqlite"
            result = written.write(spec_for("subjects", server, store), 6)
            assert outline(result) == wanted
    assert result.account["complete"] == 6


def test_letters_must_be_of_the_language(tmp_path):
    def latin(found):
        text, = [m for m in found["members"] if m["label"] == "Korean"]
        text["text"] = "Seonsaengnim-i " + text["text"]
        return found

    with ChatServer(Model("languages", {(0, 0): latin})) as server:
        spec = spec_for("languages", server, tmp_path / "store.sqlite")
        result = written.write(spec, 2)
    assert outline(result) == [(0, 0, "script")]
    assert "Korean" in result.quarantine[0]["detail"]


def test_the_ambiguous_sentence_must_not_change(tmp_path):
    def changed(found):
        last = found["members"][-1]
        span, = [s for s in last["spans"] if s["factor"] == "ambiguous"]
        other = span["quote"][:-1] + "!"
        last["text"] = last["text"].replace(span["quote"], other)
        span["quote"] = other
        return found

    with ChatServer(Model("context", {(1, 0): changed})) as server:
        spec = spec_for("context", server, tmp_path / "store.sqlite")
        result = written.write(spec, 3)
    assert outline(result) == [(1, 0, "changed sentence")]


class Slowly:
    """A model whose replies take a different, changing time to come."""

    def __init__(self, model, seconds):
        self.model, self.seconds = model, seconds

    def __call__(self, body, attempt):
        act = self.model(body, attempt)

        def later(handler):
            time.sleep(self.seconds(body["seed"]))
            act(handler)

        return later


def test_the_order_of_replies_does_not_matter(tmp_path):
    script = {(g, 0): BAD["span"][0] for g in (0, 4)}
    results = []
    for name, pause in (("a", lambda seed: seed % 7 / 50),
                        ("b", lambda seed: (7 - seed % 7) / 50)):
        model = Slowly(Model("sentiment", script), pause)
        with ChatServer(model) as server:
            spec = spec_for("sentiment", server, tmp_path / f"{name}.sqlite")
            results.append(written.write(spec, GROUPS))
            assert server.most_at_once > 1
    assert results[0] == results[1] and len(results[0].quarantine) == 2


def test_a_troubled_server_costs_no_group(tmp_path):
    class Troubled(Model):
        def __call__(self, body, attempt):
            group, _ = self.asked[body["seed"]]
            if group < 4 and attempt < 3:
                soon = {"retry-after-ms": "10"}
                return status((429, 500)[attempt - 1], headers=soon)
            return super().__call__(body, attempt)

    with ChatServer(Troubled("sentiment")) as server:
        spec = spec_for("sentiment", server, tmp_path / "store.sqlite")
        result = written.write(spec, GROUPS)
        assert len(server.requests) == GROUPS + 4 * 2
    assert result.quarantine == [] and result.account["complete"] == GROUPS


def test_what_got_no_answer_is_asked_for_anew(tmp_path):
    down = {(3, 0): lambda found: status(500)}
    model = Model("sentiment", down)
    with ChatServer(model) as server:
        spec = spec_for(
            "sentiment", server, tmp_path / "store.sqlite", retries=0
        )
        result = written.write(spec, 5)
        assert outline(result) == [(3, 0, "failed")]
        assert result.account["complete"] == 5
        model.script = {}
        assert written.write(spec, 5).quarantine == []
        assert len(server.requests) == 5 + 1 + 1


def test_a_cassette_replays_without_key_or_server(tmp_path, monkeypatch):
    script = {(2, 0): BAD["label"][0], (3, 0): BAD["invalid"][0]}
    with ChatServer(Model("languages", script)) as server:
        spec = spec_for("languages", server, tmp_path / "store.sqlite")
        live = written.write(spec, 5)
    chat.Store(spec.store).export(tmp_path / "cassette.jsonl")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    service = dataclasses.replace(spec.service, base_url=None, budget=0.0)
    for store in ("cassette.jsonl", "store.sqlite"):
        replayed = written.Written("languages", service, tmp_path / store)
        assert written.write(replayed, 5) == live
    assert written.write(replayed, 2).rows == live.rows[:16]
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        written.write(replayed, 6)


CHILD = """
import sys
from pathlib import Path
from helpers import chat
from helpers.synthesis import written

url, store = sys.argv[1:]
service = chat.Service("test", base_url=url, prices=(1.0, 2.0), retries=3,
                       concurrency=2)
written.write(written.Written("sentiment", service, Path(store)), 12)
"""


def test_killed_half_way_it_goes_on_where_it_stopped(tmp_path):
    script = {(g, 0): BAD["factor"][0] for g in (1, 7)}
    quick, store = Model("sentiment", script), tmp_path / "store.sqlite"
    with ChatServer(Slowly(quick, lambda seed: 0.1)) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, server.url, str(store)],
            cwd=paths.ROOT, stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while len(server.requests) < 7 and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        before = len(server.requests)
        spec = spec_for("sentiment", server, store, concurrency=2)
        prompt, kept = written.load_prompt("sentiment"), chat.Store(store)
        requests = [
            written._request(prompt, g, a, 0)
            for g in range(12) for a in range(3)
        ]
        stored = {
            r.seed for r in requests if kept.get(chat.key(spec.service, r))
        }
        assert 3 <= len(stored) < 12
        assert written.estimate(spec, 12).to_ask == 12 - len(stored) + sum(
            seed in stored for seed, asked in quick.asked.items()
            if asked in script
        )
        result = written.write(spec, 12)
        again = [seen.body["seed"] for seen in server.requests[before:]]
    assert stored.isdisjoint(again) and len(stored) + len(again) == 14
    with ChatServer(quick) as server:
        calm = spec_for("sentiment", server, tmp_path / "calm.sqlite")
        assert written.write(calm, 12) == result
    assert outline(result) == [(1, 0, "factor"), (7, 0, "factor")]


def test_the_budget_is_that_of_all_rounds_together(tmp_path):
    """Each reply costs 100 tokens of 1 USD per million: six can be paid."""
    def bad(body, attempt):
        return reply("not JSON", usage=(50, 100))

    with ChatServer(bad) as server:
        spec = spec_for(
            "sentiment", server, tmp_path / "store.sqlite", max_tokens=100,
            prices=(0.0, 1.0), budget=6e-4,
        )
        with pytest.raises(InputError) as caught:
            written.write(spec, 4)
        assert len(server.requests) == len(chat.Store(spec.store)) == 6
    said = str(caught.value)
    assert "budget" in said and "\n" not in said and len(said) < 250


def test_an_estimate_sends_nothing_and_knows_what_is_stored(tmp_path):
    script = {(1, 0): BAD["span"][0]}
    with ChatServer(Model("sentiment", script)) as server:
        spec = spec_for(
            "sentiment", server, tmp_path / "store.sqlite", prices=(0.0, 1.0)
        )
        before = written.estimate(spec, 4)
        assert server.requests == []
        assert dataclasses.astuple(before) == (
            4, 0, 4, pytest.approx(4 * 1e-3), pytest.approx(12 * 2e-3)
        )
        result = written.write(spec, 4)
        assert result.account["estimated_usd"] == {
            "expected": before.expected, "at_most": before.at_most
        }
        after = written.estimate(spec, 4)
        assert dataclasses.astuple(after) == (5, 5, 0, 0.0, 0.0)
        more = written.estimate(spec, 5)
        assert (more.stored, more.to_ask) == (5, 1)
        mean = result.account["completion_tokens"] / 5
        assert more.expected == pytest.approx(mean / 1e6)
        assert more.at_most == pytest.approx(3 * 2e-3)


def test_mistakes_of_a_reader_are_one_sentence(tmp_path, monkeypatch):
    spec = written.Written("sentiment", chat.Service("test"), tmp_path / "s")
    for corpus, message in [("formats", "cannot draw random characters"),
                            ("sentimnt", "did you mean 'sentiment'")]:
        with pytest.raises(InputError, match=message):
            written.write(dataclasses.replace(spec, corpus=corpus), 3)
    with pytest.raises(InputError, match="groups is 0; at least 1"):
        written.write(spec, 0)
    with pytest.raises(InputError, match="attempts is 0; at least 1"):
        written.estimate(dataclasses.replace(spec, attempts=0), 1)
    good = (written.PROMPTS / "sentiment.md").read_text()
    shared = (written.PROMPTS / "shared.md").read_text()
    monkeypatch.setattr(written, "PROMPTS", tmp_path)
    (tmp_path / "shared.md").write_text(shared)
    for old, new, message in [
        ("{register}", "{registre}", "nothing fills {registre}"),
        ("# User", "# Usr", "is no prompt file"),
        ("longest: 700", "longst: 700", "longst"),
        ("version: 1", "version: [", "is no prompt file"),
    ]:
        (tmp_path / "sentiment.md").write_text(good.replace(old, new))
        with pytest.raises(InputError, match="sentiment.md") as caught:
            written.load_prompt("sentiment")
        assert message in str(caught.value) and "\n" not in str(caught.value)


@settings(deadline=None)
@given(text=st.text("ab 책é", min_size=1, max_size=30), data=st.data())
def test_a_quote_is_found_where_it_stands(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    quote = text[start : data.draw(st.integers(start + 1, len(text)))]
    count = text.count(quote)
    if quote != quote.strip():
        with pytest.raises(verify.Rejected):
            verify.locate(text, quote, 1)
        return
    found = [verify.locate(text, quote, n + 1) for n in range(count)]
    assert [text[s:e] for s, e in found] == [quote] * count
    assert found[0][0] == text.index(quote)
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False))
    for occurrence in (0, count + 1):
        with pytest.raises(verify.Rejected):
            verify.locate(text, quote, occurrence)


def test_a_written_corpus_is_an_artifact_like_any_other(tmp_path, monkeypatch):
    """``make_corpus`` by a model's name: frame, card, quarantine, account."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    script = {(2, 0): lambda _: refusal("no"), (5, 0): lambda _: reply("{")}
    with ChatServer(Model("syntax", script)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        writer = synthesis.writer("syntax", "test", prices=[1, 2])
        made = synthesis.make_corpus("p", "syntax", groups=GROUPS,
                                     writer=writer)
        asked = len(server.requests)
        synthesis.make_corpus("p", "syntax", groups=GROUPS, writer=writer)
        assert len(server.requests) == asked == GROUPS + 2
    frame = synthesis.load_corpus(made)
    assert list(frame.columns) == list(synthesis.COLUMNS)
    assert frame["group"].nunique() == GROUPS
    trained = frame[frame["split"] == "train"]
    assert not trained["label"].str.startswith("ungrammatical").any()
    rejected = pd.read_parquet(made / "quarantine.parquet")
    assert list(rejected["reason"]) == ["refusal", "invalid"]
    assert json.loads((made / "account.json").read_text())["complete"] == 8
    card = (made / "README.md").read_text()
    assert "8 of 8 sets are complete, 2 replies are in quarantine" in card


def test_writers_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    assert synthesis.writer("sentiment", "grammar") is None
    assert synthesis.writer("formats", "gpt-4o-mini") is None  # by grammar
    found = synthesis.writer("context", "gpt-4o-mini", budget=3)
    assert (found.corpus, found.service.budget) == ("context", 3)
    assert found.store == tmp_path / "replies.sqlite"
    costs = synthesis.estimates(2)
    assert (costs["expected"] < costs["at most"]).all()
    twice = synthesis.estimates(4)
    assert (twice["at most"] / costs["at most"]).between(1.9, 2.1).all()
    assert list(tmp_path.iterdir()) == []  # nothing was opened or asked
