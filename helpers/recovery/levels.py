"""What one unit does, level by level, and on how many kinds of text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.errors import InputError

if TYPE_CHECKING:
    from helpers.features import FeatureTable


def by_level(
    activations: np.ndarray, truth: np.ndarray, levels: int = 11
) -> pd.DataFrame:
    """A unit's activations in equal intervals from 0 to its maximum.

    ``activations`` [tokens], ``truth`` [tokens] bool -> a row an interval:
    start, end; true and false (its tokens with and without the factor);
    specificity (share of the true ones among them); sensitivity (share of
    all true tokens at this level or above); true_mass and false_mass (sums
    of activations: Towards Monosemanticity's expected value). Silent tokens
    are in none of the intervals.

    Raises InputError for a unit that is silent everywhere.
    """
    top = float(activations.max(initial=0))
    if not top > 0:
        raise InputError(
            "this unit is silent on all of these tokens; choose a live one"
        )
    edges = np.linspace(0, top, levels + 1)
    active = activations > 0
    place = np.clip(np.searchsorted(edges, activations) - 1, 0, levels - 1)
    columns = {"start": edges[:-1], "end": edges[1:]}
    for name, kind in {"true": truth, "false": ~truth}.items():
        at, values = place[active & kind], activations[active & kind]
        columns[name] = np.bincount(at, minlength=levels)
        columns[f"{name}_mass"] = np.bincount(at, values, minlength=levels)
    frame = pd.DataFrame(columns)
    tokens = frame["true"] + frame["false"]
    frame["specificity"] = frame["true"] / tokens.where(tokens > 0)
    above = frame["true"][::-1].cumsum()[::-1]
    frame["sensitivity"] = above / max(int(truth.sum()), 1)
    return frame


def correlations(table: "FeatureTable", column: np.ndarray) -> np.ndarray:
    """Pearson's r of every unit with a column [tokens]: [d_sae].

    0 for a unit (or a column) that never changes.
    """
    matrix = table.matrix()
    n = table.n_tokens
    mean, square = matrix.mean(0), matrix.power(2).mean(0)
    covariance = matrix.T @ (column - column.mean()) / n
    spread = np.sqrt((square - mean**2).clip(0)) * column.std()
    return np.divide(
        covariance, spread, out=np.zeros(table.d_sae), where=spread > 0
    )


def made_of(rows: np.ndarray, least: float = 0.1) -> pd.DataFrame:
    """How many neurons each dictionary row is made of: ``rows`` [d_sae, d_in].

    Columns: above (coefficients of the unit row of at least ``least`` in
    size, as Towards Monosemanticity counts them), effective (participation
    ratio, 1 / sum of fourth powers: n for n equal coefficients), largest
    (the largest coefficient's size) and neuron (whose it is).
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    size = np.abs(unit)
    return pd.DataFrame(
        {
            "above": (size >= least).sum(1),
            "effective": 1 / (unit**4).sum(1),
            "largest": size.max(1),
            "neuron": size.argmax(1),
        }
    )


def strong_classes(
    tables: Mapping[str, "FeatureTable"],
    labels: Mapping[str, np.ndarray],
    share: float = 0.5,
) -> tuple[pd.DataFrame, np.ndarray]:
    """On which classes of text is each unit strongly active?

    A unit is *strong* on a token above ``share`` of its maximum over all
    ``tables`` (several corpora, the same units). ``labels``: the class of
    each document of each table. -> a frame [d_sae, classes]: of all the
    unit's strong tokens, the share in each class if every class had equally
    many tokens (0 in all for a silent unit); and how many strong tokens
    there are [d_sae].
    """
    width = next(iter(tables.values())).d_sae
    peak = np.zeros(width, np.float32)
    for table in tables.values():
        np.maximum.at(peak, table.indices, table.values.astype(np.float32))
    rates, strong = {}, np.zeros(width, int)
    for name, table in tables.items():
        hit = table.values > share * peak[table.indices]
        kind = np.asarray(labels[name])[table.document_of]
        of_hit = kind[table.token_of[hit]]
        strong += np.bincount(table.indices[hit], minlength=width)
        for label in dict.fromkeys(kind.tolist()):
            units = table.indices[hit][of_hit == label]
            count = np.bincount(units, minlength=width)
            rates[label] = count / (kind == label).sum()
    frame = pd.DataFrame(rates)
    total = frame.sum(axis=1)
    return frame.div(total.where(total > 0, 1), axis=0), strong


def effective_classes(shares: pd.DataFrame) -> np.ndarray:
    """exp(entropy) of each row: n for n equal shares, [d_sae]."""
    p = shares.to_numpy()
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.exp(-(p * logs).sum(1))


def fires_on(
    tables: Mapping[str, "FeatureTable"], units, thresholds
) -> pd.DataFrame:
    """Share of the tokens of each table on which units reach thresholds.

    -> a row a unit (in the order given), a column a table.
    """
    columns = {}
    for name, table in tables.items():
        level = np.full(table.d_sae, np.inf, np.float32)
        shares = []
        for unit, threshold in zip(units, thresholds, strict=True):
            level[:] = np.inf
            level[unit] = threshold
            shares.append(
                np.count_nonzero(table.values >= level[table.indices])
                / table.n_tokens
            )
        columns[name] = shares
    return pd.DataFrame(columns)
