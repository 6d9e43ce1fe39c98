"""Labelled corpora whose every generating factor is known.

Each corpus is a readable table (``sentiment.yaml``, ...) that the grammar
engine (``grammar.py``) turns into documents. A document carries its label,
the value of every factor that made it, and the character span in which each
value shows, so that a claim about a feature can be scored.
"""

import functools
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from helpers import artifacts, paths
from helpers.errors import InputError, unknown
from helpers.synthesis.grammar import Grammar

CORPORA = ("sentiment", "subjects", "languages", "formats")
SHARD = 256  # groups per shard: the unit that is seeded
HELD_OUT = 0.15  # share of the groups kept from training
DOCUMENTS = "documents.parquet"
COLUMNS = ("text", "corpus", "label", "group", "split", "factors", "spans")


def generate(name: str, groups: int, seed: int = 0) -> pd.DataFrame:
    """A corpus of ``groups`` matched sets, one document per label in each.

    Returns a document frame, one row per document: text, corpus, label,
    group, split, factors (JSON {factor: value}) and spans (JSON list of
    [factor, value, start, end], characters, end exclusive). Groups are
    made in shards seeded by (seed, corpus, shard), so a smaller corpus is
    the beginning of a larger one. Raises InputError for an unknown name,
    for fewer than one group or for a mistake in the table.
    """
    if groups < 1:
        raise InputError(f"groups is {groups}; a corpus needs at least 1")
    grammar = load_grammar(name)
    shards = range(-(-groups // SHARD))
    rows = [row for s in shards for row in _shard(grammar, name, seed, s)]
    rows = rows[: groups * len(grammar.labels)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"group": "int64"})


def labels(name: str) -> tuple[str, ...]:
    """The labels of a corpus, in the order of its table."""
    return load_grammar(name).labels


def table_path(name: str) -> Path:
    """The table of a corpus: the file to open in order to extend it."""
    if name not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    return Path(__file__).with_name(f"{name}.yaml")


def load_grammar(name: str) -> Grammar:
    """The compiled table of a corpus."""
    path = table_path(name)
    return _grammar(path, path.stat().st_mtime_ns)


def split_of(name: str, group: int) -> str:
    """``train`` or ``held_out``: decided by the group's hash alone."""
    digest = hashlib.sha256(f"{name}/{group}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return "held_out" if share < HELD_OUT else "train"


def factors(frame: pd.DataFrame) -> pd.DataFrame:
    """The factors of each document as columns, beside its label and group."""
    rows = pd.DataFrame(
        [json.loads(text) for text in frame["factors"]], index=frame.index
    )
    return frame[["label", "group", "split"]].join(rows, rsuffix="_factor")


def make_corpus(
    profile: str, name: str, *, groups: int, seed: int = 0
) -> Path:
    """Generate a corpus into its artifact folder, unless it is there.

    Writes ``documents.parquet`` and a data-set card. Returns the folder.
    """
    table_path(name)  # refuses an unknown name before anything is made

    def make(folder: Path) -> None:
        frame = generate(name, groups, seed)
        frame.to_parquet(folder / DOCUMENTS, index=False)
        card = card_text(name, frame, seed)
        (folder / "README.md").write_text(card, encoding="utf-8")

    parameters = {"corpus": name, "groups": groups, "seed": seed}
    return artifacts.produce(
        paths.corpus(profile, name), make, parameters=parameters
    )


def load_corpus(path: Path) -> pd.DataFrame:
    """The document frame that ``make_corpus`` wrote."""
    return pd.read_parquet(artifacts.require(path) / DOCUMENTS)


def card_text(name: str, frame: pd.DataFrame, seed: int) -> str:
    """A short data-set card: what it is, how it was made, what to mind."""
    counts = frame.groupby(["label", "split"], sort=False).size()
    table = counts.unstack(fill_value=0).reset_index()
    head = "| " + " | ".join(map(str, table.columns)) + " |\n"
    head += "|" + "---|" * len(table.columns) + "\n"
    body = "".join(
        "| " + " | ".join(map(str, row)) + " |\n"
        for row in table.itertuples(index=False)
    )
    return _CARD.format(name=name, seed=seed, counts=head + body,
                        characters=frame["text"].str.len().sum(),
                        factor=load_grammar(name).label_factor)


def spans(frame: pd.DataFrame) -> pd.DataFrame:
    """Every span, one row each: document, factor, value, start, end."""
    rows = [
        (index, *span)
        for index, text in zip(frame.index, frame["spans"], strict=True)
        for span in json.loads(text)
    ]
    names = ["document", "factor", "value", "start", "end"]
    return pd.DataFrame(rows, columns=names)


def spans_to_tokens(frame: pd.DataFrame, tokenizer) -> pd.DataFrame:
    """The factors of every token: document, position, token, factor, value.

    ``tokenizer`` is a ``tokenizers.Tokenizer``. A token has a factor if it
    shares a character with its span; pieces of one character (byte-level
    BPE) each have it. ``position`` counts the document's own tokens from 0;
    after a BOS token it is one further. One row for each token and span.
    """
    encodings = tokenizer.encode_batch(
        list(frame["text"]), add_special_tokens=False
    )
    rows = [
        (index, position, encoding.ids[position], factor, value)
        for index, text, encoding in zip(
            frame.index, frame["spans"], encodings, strict=True
        )
        for factor, value, start, end in json.loads(text)
        for position in tokens_in(encoding.offsets, start, end)
    ]
    names = ["document", "position", "token", "factor", "value"]
    return pd.DataFrame(rows, columns=names)


def tokens_in(offsets: list, start: int, end: int) -> Iterator[int]:
    """Positions of the tokens that share a character with [start, end)."""
    for position, (left, right) in enumerate(offsets):
        if max(left, start) < min(right, end):
            yield position


def _shard(grammar: Grammar, name: str, seed: int, shard: int) -> list:
    key = hashlib.sha256(f"{seed}/{name}/{shard}".encode()).digest()
    rng = random.Random(int.from_bytes(key))
    rows = []
    for group in range(shard * SHARD, (shard + 1) * SHARD):
        split = split_of(name, group)
        rows += [
            (d.text, name, d.label, group, split, _json(d.factors),
             _json(d.spans))
            for d in grammar.group(rng)
        ]
    return rows


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@functools.lru_cache(maxsize=8)
def _grammar(path: Path, mtime: int) -> Grammar:
    return Grammar.load(path)


_CARD = """# {name}

A synthetic corpus with per-token ground truth, written by the grammar in
`helpers/synthesis/{name}.yaml` (seed {seed}); {characters} characters.
Each document's label is its *{factor}*. Documents of one `group` are a
matched set and are never divided between training and held-out.

{counts}
Columns: text, corpus, label, group, split, factors (JSON: factor to value),
spans (JSON: [factor, value, start, end], characters, end exclusive).

The sentences follow templates: they are grammatical and their labels are
certain, but they are narrower than what people write.
"""
