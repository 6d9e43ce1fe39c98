"""Contrasts layer by layer: where in the model do two classes differ?

Every layer has an SAE of its own, trained on its own hook point; an SAE
meets the activations of no other layer. Their activations have different
sizes, so deflections are compared after division by a layer's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from helpers import features, paths, text, train
from helpers.compare.contrasts import (
    Contrast,
    class_means,
    class_rows,
    live_in,
    set_means,
)
from helpers.errors import InputError
from helpers.language_model import load_language_model

LEVEL = 0.95
NAME = "layer-{}"  # of the SAE of a layer


@dataclass(frozen=True)
class Depth:
    """What the layers of a model say on a corpus.

    ``deflections``: layer, contrast, feature, deflection, relative (to the
    root mean square of the live features' mean activations in that layer).
    ``lengths``: see ``lengths``.
    """

    deflections: pd.DataFrame
    lengths: pd.DataFrame

    @property
    def count(self) -> int:
        """The number of layers."""
        return self.lengths["layer"].nunique()

    @property
    def leads(self) -> str:
        """For each contrast the layer that differs most, and those that
        may: ``A vs B: layer 2 (or 3)``."""
        said = []
        for name, part in self.lengths.groupby("contrast", sort=False):
            first = part.loc[part["difference"].idxmax(), "layer"]
            rest = part[~part["behind"] & (part["layer"] != first)]["layer"]
            others = f" (or {', '.join(map(str, rest))})" if len(rest) else ""
            said.append(f"{name}: layer {first}{others}")
        return "; ".join(said)


def settings(model, how: Mapping) -> dict[str, dict]:
    """What ``train.make_saes`` is to make: one SAE for the residual stream
    after each layer of ``model``, trained as ``how`` says."""
    return {
        NAME.format(n): {**how, "hook_point": f"blocks.{n}.hook_resid_post"}
        for n in range(model.cfg.n_layers)
    }


def study(
    profile: str,
    documents: pd.DataFrame,
    contrasts: Sequence[Contrast],
    *,
    threshold: float,
    min_documents: int,
) -> Depth | None:
    """Compare classes in every layer that a run has an SAE for, if any.

    ``documents`` are read whole; live features as in ``compare``.
    """
    maxima = _maxima(profile, documents)
    if not maxima:
        return None
    parts = [
        _deflections(values, documents, contrast, threshold, min_documents)
        .assign(layer=layer, contrast=contrast.name)
        for layer, values in maxima.items()
        for contrast in contrasts
    ]
    return Depth(
        pd.concat(parts, ignore_index=True),
        lengths(maxima, documents, contrasts),
    )


def lengths(
    maxima: Mapping[int, np.ndarray],
    documents: pd.DataFrame,
    contrasts: Sequence[Contrast],
) -> pd.DataFrame:
    """How far apart two classes are in each layer, with intervals.

    ``maxima``: layer -> [documents, d_sae]. ``difference`` is the squared
    length of the mean deflection over that of the mean activation; both are
    means of products of *different* matched sets, so that noise adds
    nothing and a layer without a difference has 0 on average. ``low`` and
    ``high`` hold it 95% of the time, by the jackknife over matched sets;
    ``behind``: below the contrast's first layer, the difference of the two
    taken on the same sets.

    Columns: contrast, layer, sets, difference, low, high, behind. Raises
    InputError where fewer than three matched sets have both classes.
    """
    rows = []
    for contrast in contrasts:
        left_out = {
            layer: _left_out(*_matched(values, documents, contrast))
            for layer, values in maxima.items()
        }
        first = max(left_out, key=lambda layer: left_out[layer][0])
        for layer, (value, without) in left_out.items():
            low, high = _interval(value, without)
            gap = _interval(left_out[first][0] - value,
                            left_out[first][1] - without)  # fmt: skip
            rows.append({
                "contrast": contrast.name, "layer": layer,
                "sets": len(without), "difference": value, "low": low,
                "high": high, "behind": bool(layer != first and gap[0] > 0),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _maxima(profile: str, documents: pd.DataFrame) -> dict[int, np.ndarray]:
    """Layer -> document maxima of its SAE, of the layers that have one."""
    saes = []
    while (path := paths.sae(profile, NAME.format(len(saes)))).is_dir():
        saes.append(train.load_sae(path))
    if not saes:
        return {}
    model = load_language_model(paths.language_model(profile, "A"))
    tokenizer = text.load_tokenizer(paths.tokenizer(profile))
    texts, places = documents["text"].tolist(), np.arange(len(documents))
    return {
        layer: features.tabulate(
            model, sae, tokenizer, texts, places
        ).document_max()
        for layer, sae in enumerate(saes)
    }


def _deflections(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    threshold: float,
    min_documents: int,
) -> pd.DataFrame:
    """Feature, deflection and relative deflection of the live features."""
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    means = class_means(maxima[:, live], documents["label"])
    pair = means.loc[[contrast.treatment, contrast.control]].to_numpy()
    deflection, size = pair[0] - pair[1], np.sqrt((pair.mean(0) ** 2).mean())
    return pd.DataFrame({
        "feature": live, "deflection": deflection,
        "relative": deflection / size,
    })  # fmt: skip


def _matched(
    maxima: np.ndarray, documents: pd.DataFrame, contrast: Contrast
) -> tuple[np.ndarray, np.ndarray]:
    """Of each set with both classes, the difference and the mean of the
    two: both [sets, d_sae] float64."""
    groups = documents["group"].to_numpy()
    sides = [
        set_means(maxima[rows].astype(np.float64), groups[rows])
        for rows in class_rows(documents, contrast)
    ]
    (names_a, a), (names_b, b) = sides
    shared, in_a, in_b = np.intersect1d(names_a, names_b, return_indices=True)
    if len(shared) < 3:
        raise InputError(
            f"{contrast.name} has {len(shared)} matched sets with both "
            "classes; layers are compared on three or more"
        )
    a, b = a[in_a], b[in_b]
    return a - b, (a + b) / 2


def _left_out(
    differences: np.ndarray, means: np.ndarray
) -> tuple[float, np.ndarray]:
    """The ratio of the two squared lengths; the same without each set."""
    over, over_without = _squared(differences)
    under, under_without = _squared(means)
    return over / under, over_without / under_without


def _squared(x: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean product of two different rows of ``x`` [sets, d]; the same
    without each row: [sets]."""
    total, own = x.sum(0), (x**2).sum(1)
    n, whole = len(x), total @ total - own.sum()
    # Without row s there go 2 s (total - s), its products with the others.
    without = whole - 2 * (x @ total - own)
    return whole / (n * (n - 1)), without / ((n - 1) * (n - 2))


def _interval(value: float, without: np.ndarray) -> tuple[float, float]:
    """Jackknife: ``value`` less and plus t standard errors."""
    n = len(without)
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    reach = t.ppf((1 + LEVEL) / 2, n - 1) * error
    return value - reach, value + reach
