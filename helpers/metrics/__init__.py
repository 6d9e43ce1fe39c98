"""Quality of a sparse autoencoder, each number under its own definition.

Three questions: what the language model loses when the reconstruction
replaces the activations, how much of the activations is reconstructed, and
how sparsely. And a fourth, where there is something to compare with: how
alike two dictionaries are.
"""

from helpers.metrics.dictionaries import mcc, mmcs, uniqueness
from helpers.metrics.evaluate import (
    FIRES,
    MARGIN,
    RUNS,
    Codes,
    Quality,
    baseline,
    code_sums,
    document_losses,
    evaluate,
    explained_variance,
    is_natural,
    load_quality,
    loss_recovered,
    losses_by_class,
    make_baseline,
    make_quality,
    mean_activation,
)
from helpers.metrics.reconstruction import fvu

__all__ = [
    "FIRES",
    "MARGIN",
    "RUNS",
    "Codes",
    "Quality",
    "baseline",
    "code_sums",
    "document_losses",
    "evaluate",
    "explained_variance",
    "fvu",
    "is_natural",
    "load_quality",
    "loss_recovered",
    "losses_by_class",
    "make_baseline",
    "make_quality",
    "mcc",
    "mean_activation",
    "mmcs",
    "uniqueness",
]
