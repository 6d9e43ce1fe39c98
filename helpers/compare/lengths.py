"""Length as a confound: a maximum over more tokens is larger by itself."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.compare.contrasts import same_length

if TYPE_CHECKING:
    from helpers.features import FeatureTable


def lengths(table: "FeatureTable", documents: pd.DataFrame) -> pd.DataFrame:
    """Size of each class: a row a label, in order of appearance.

    Columns: documents, sets, tokens and characters (means per document),
    tokens_per_character (of the tokens that the model read).
    """
    same_length(table.documents, documents)
    tokens, characters = token_counts(table), _characters(table)
    frame = documents.assign(tokens=tokens, characters=characters)
    by = frame.groupby("label", sort=False)
    return pd.DataFrame(
        {
            "documents": by.size(),
            "sets": by["group"].nunique(),
            "tokens": by["tokens"].mean(),
            "characters": by["characters"].mean(),
            "tokens_per_character": by["tokens"].sum() / by["characters"].sum(),
        }
    )


def token_counts(table: "FeatureTable") -> np.ndarray:
    """Tokens of each document: [documents]."""
    return np.diff(table.offsets)


def equal_length_max(
    table: "FeatureTable", documents: pd.DataFrame
) -> np.ndarray:
    """Document maxima in which length cannot matter: [documents, d_sae].

    Every document is read only as far as the shortest one of its matched
    set is long.
    """
    same_length(table.documents, documents)
    counts = pd.Series(token_counts(table))
    cap = counts.groupby(documents["group"].to_numpy()).transform("min")
    return capped_max(table, cap.to_numpy())


def capped_max(table: "FeatureTable", cap: np.ndarray) -> np.ndarray:
    """Maxima over each document's first ``cap`` [documents] tokens."""
    document = table.document_of[table.token_of]
    position = table.token_of - table.offsets[document]
    kept = position < cap[document]
    largest = np.zeros((table.n_documents, table.d_sae), np.float32)
    np.maximum.at(
        largest,
        (document[kept], table.indices[kept]),
        table.values[kept].astype(np.float32),
    )
    return largest


def _characters(table: "FeatureTable") -> np.ndarray:
    """Characters of each document up to its last token: [documents]."""
    last = table.offsets[1:] - 1
    ends = table.char_end[np.maximum(last, 0)]
    return np.where(np.diff(table.offsets) > 0, ends, 0)
