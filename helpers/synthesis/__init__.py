"""Labelled corpora whose every generating factor is known.

Each corpus is a readable table (``sentiment.yaml``, ...) that the grammar
engine (``grammar.py``) turns into documents; a language model can write the
same sets (``written.py``). A document carries its label, the value of every
factor that made it, and the character span in which each value shows, so
that a claim about a feature can be scored.
"""

from helpers.synthesis.artifact import card_text, load_corpus, make_corpus
from helpers.synthesis.corpus import (
    COLUMNS,
    CORPORA,
    SHARD,
    extended,
    generate,
    labels,
    load_grammar,
    split_of,
    table_path,
    to_datasets,
)
from helpers.synthesis.truth import factors, spans, spans_to_tokens
from helpers.synthesis.writers import estimates, writer

__all__ = [
    "CORPORA", "COLUMNS", "SHARD", "card_text", "estimates", "extended",
    "factors",
    "generate", "labels", "load_corpus", "load_grammar", "make_corpus",
    "spans", "spans_to_tokens", "split_of", "table_path", "to_datasets",
    "writer",
]
