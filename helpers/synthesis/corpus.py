"""Corpora: documents from a grammar or a language model, as one frame."""

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import random
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from helpers.errors import InputError, unknown
from helpers.synthesis import tables
from helpers.synthesis.grammar import Grammar

CORPORA = ("sentiment", "subjects", "languages", "syntax", "formats",
           "context")
SHARD = 256  # groups per shard: the unit that is seeded
HELD_OUT = 0.15  # share of the groups kept from training
COLUMNS = ("text", "corpus", "label", "group", "split", "factors", "spans")


def generate(
    spec, groups: int, seed: int = 0, processes: int = 1
) -> pd.DataFrame:
    """A corpus of ``groups`` matched sets, one document per label in each.

    ``spec`` says who writes: the name of a corpus or a compiled ``Grammar``
    (the offline default), or ``written.Written`` (a language model, which
    may fail to complete a set; only complete ones are returned).

    Returns a document frame, one row per document: text, corpus, label,
    group, split, factors (JSON {factor: value}) and spans (JSON list of
    [factor, value, start, end], characters, end exclusive). A grammar's
    groups are made in shards seeded by (seed, corpus, shard), so a smaller
    corpus is the beginning of a larger one, and the number of ``processes``
    (for a corpus by its name) does not matter. Training groups are
    without the labels that their table withholds.

    Raises InputError for an unknown name, for fewer than one group or for a
    mistake in the table.
    """
    if groups < 1:
        raise InputError(f"groups is {groups}; a corpus needs at least 1")
    if isinstance(spec, str | Grammar):
        return frame_of(_by_grammar(spec, groups, seed, processes))
    from helpers.synthesis import written

    return frame_of(rows_of(spec.corpus, written.write(spec, groups, seed)))


def labels(name: str, switched: bool = True) -> tuple[str, ...]:
    """The labels of a corpus, in the order of its table.

    Without the ``switched`` ones those that have words of their own.
    """
    grammar = load_grammar(name)
    return tuple(
        label for label in grammar.labels
        if switched or label not in grammar.switches
    )


def table_path(name: str) -> Path:
    """The table of a corpus: the file to open in order to extend it."""
    if name not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    return Path(__file__).with_name(f"{name}.yaml")


def load_grammar(name: str) -> Grammar:
    """The compiled table of a corpus."""
    path = table_path(name)
    return _grammar(path, path.stat().st_mtime_ns)


def extended(name: str, content: str) -> Grammar:
    """A corpus's grammar with the labels of a further table (YAML text).

    Each new label needs the names of the others, or some of them: what it
    has no words for is left out for all, so that sets stay complete.
    """
    path = table_path(name)
    more = tables.parse(content, "the new table")
    return Grammar(tables.extend(tables.read(path), more), path.name)


def split_of(name: str, group: int) -> str:
    """``train`` or ``held_out``: decided by the group's hash alone."""
    digest = hashlib.sha256(f"{name}/{group}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return "held_out" if share < HELD_OUT else "train"


def rows_of(name: str, result) -> list[tuple]:
    """What a language model wrote (``written.Result``), as frame rows.

    Training groups lose the labels that the corpus's table withholds.
    """
    withheld = load_grammar(name).withheld
    return [
        _row(name, r["label"], r["text"], r["group"], r["factors"], r["spans"])
        for r in result.rows
        if r["label"] not in withheld
        or split_of(name, r["group"]) == "held_out"
    ]


def frame_of(rows: Iterable[tuple]) -> pd.DataFrame:
    """A document frame from rows in the order of ``COLUMNS``."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"group": "int64"})


def to_datasets(frame: pd.DataFrame):
    """The documents as a Hugging Face ``DatasetDict``, a part per split."""
    import datasets

    parts = frame.groupby("split", sort=False)
    return datasets.DatasetDict({
        split: datasets.Dataset.from_pandas(part, preserve_index=False)
        for split, part in parts
    })


def _by_grammar(spec, groups: int, seed: int, processes: int) -> list[tuple]:
    shards = range(-(-groups // SHARD))
    make = functools.partial(_shard, spec, seed)
    if processes > 1 and isinstance(spec, str):
        load_grammar(spec)  # a mistake is told before a process starts
        with concurrent.futures.ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn")
        ) as pool:
            made = list(pool.map(make, shards))
    else:
        made = [make(shard) for shard in shards]
    return [row for rows in made for row in rows if row[3] < groups]


def _shard(spec, seed: int, shard: int) -> list[tuple]:
    grammar = load_grammar(spec) if isinstance(spec, str) else spec
    name = grammar.name
    key = hashlib.sha256(f"{seed}/{name}/{shard}".encode()).digest()
    rng = random.Random(int.from_bytes(key))
    rows = []
    for group in range(shard * SHARD, (shard + 1) * SHARD):
        training = split_of(name, group) == "train"
        rows += [
            _row(name, d.label, d.text, group, d.factors, d.spans)
            for d in grammar.group(rng, training)
        ]
    return rows


def _row(name, label, text, group, factors, spans) -> tuple:
    split = split_of(name, group)
    return (text, name, label, group, split, _json(factors), _json(spans))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@functools.lru_cache(maxsize=8)
def _grammar(path: Path, mtime: int) -> Grammar:
    return Grammar.load(path)
