"""Quality of a sparse autoencoder, each number under its own definition.

Three questions: what the language model loses when the reconstruction
replaces the activations (``losses``), how much of the activations is
reconstructed (``reconstruction``), and how sparsely (``sparsity``). A
fourth, where there is something to compare with: how alike two
dictionaries are (``dictionaries``). ``intervals`` says how sure, and
``evaluate`` measures an SAE on the held-out text. ``frontier`` measures many
at once, ``neighbours`` makes
those and controls, ``factors`` what their latents say of known factors,
``rare`` whether those that seldom fire are alike, and ``model_length`` what
the language model's own training has to do with it.
"""

from helpers.metrics.dictionaries import mcc, mmcs, uniqueness
from helpers.metrics.evaluate import (
    Quality,
    baseline,
    evaluate,
    load_quality,
    make_baseline,
    make_quality,
    mean_activation,
)
from helpers.metrics.factors import (
    Rank,
    encode_table,
    load_factors,
    make_factors,
    rank_correlation,
    rank_table,
)
from helpers.metrics.frontier import (
    Sweep,
    load_sweep,
    make_sweep,
    measure,
)
from helpers.metrics.intervals import Interval, bootstrap
from helpers.metrics.losses import (
    DIVERGENCES,
    MARGIN,
    RUNS,
    SCORES,
    document_effects,
    document_losses,
    is_natural,
    kl_score,
    loss_recovered,
    losses_by_class,
    score_intervals,
    score_per_batch,
)
from helpers.metrics.model_length import (
    dimensions,
    length_losses,
    length_steps,
    length_table,
    length_verdict,
    load_skills,
    make_skills,
    model_lengths,
    shorter,
)
from helpers.metrics.neighbours import (
    describe,
    make_control,
    neighbours,
    recipe,
    siblings,
)
from helpers.metrics.rare import (
    Excess,
    by_density,
    cosines,
    rare_cosines,
    rare_distributions,
    rare_excess,
    rare_table,
    rarest,
)
from helpers.metrics.reconstruction import (
    MEASURES,
    Reconstruction,
    explained_variance,
    explained_variance_legacy,
    fvu,
)
from helpers.metrics.sparsity import (
    DEAD,
    FIRES,
    FLOOR,
    RARE,
    Codes,
    RareSimilarity,
    code_sums,
    dead,
    log_density,
    rare_similarity,
    reconstruct,
    since_fired,
    ultra_low_density,
)

__all__ = [
    "DEAD",
    "DIVERGENCES",
    "FIRES",
    "FLOOR",
    "MARGIN",
    "MEASURES",
    "RARE",
    "RUNS",
    "SCORES",
    "Codes",
    "Excess",
    "Interval",
    "Quality",
    "Rank",
    "RareSimilarity",
    "Reconstruction",
    "Sweep",
    "baseline",
    "bootstrap",
    "by_density",
    "code_sums",
    "cosines",
    "dead",
    "describe",
    "dimensions",
    "document_effects",
    "document_losses",
    "encode_table",
    "evaluate",
    "explained_variance",
    "explained_variance_legacy",
    "fvu",
    "is_natural",
    "kl_score",
    "length_losses",
    "length_steps",
    "length_table",
    "length_verdict",
    "load_factors",
    "load_quality",
    "load_skills",
    "load_sweep",
    "log_density",
    "loss_recovered",
    "losses_by_class",
    "make_baseline",
    "make_control",
    "make_factors",
    "make_quality",
    "make_skills",
    "make_sweep",
    "mcc",
    "mean_activation",
    "measure",
    "mmcs",
    "model_lengths",
    "neighbours",
    "rank_correlation",
    "rank_table",
    "rare_cosines",
    "rare_excess",
    "rare_distributions",
    "rare_similarity",
    "rare_table",
    "rarest",
    "recipe",
    "reconstruct",
    "score_intervals",
    "score_per_batch",
    "shorter",
    "siblings",
    "since_fired",
    "ultra_low_density",
    "uniqueness",
]
