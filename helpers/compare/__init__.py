"""Compare what features (or neurons) do on two classes of documents.

The poster's definition: a feature's activation for a class is the *mean
over documents of the maximum over tokens*; its *deflection* is that mean
minus the control's. Everything here starts from those document maxima, an
array [documents, d_sae] from ``helpers.features``, and from the corpus's
document frame, whose rows are in the same order. Features and neurons go
through the same functions.

Documents come in matched sets (column ``group``): the same sentence in two
moods or two languages. They are therefore exchanged, split and resampled
by matched set and never one by one.
"""

from helpers.compare.contrasts import (
    Contrast,
    against,
    class_means,
    live_features,
    pairs,
)
from helpers.compare.effects import auroc, cohens_d
from helpers.compare.lengths import equal_length_max, lengths
from helpers.compare.nulls import (
    halve,
    null_contrast,
    null_pair,
    null_splits,
    planted_power,
)
from helpers.compare.overlap import Overlap, pivots, shared_mass, shared_table
from helpers.compare.paired import (
    carried,
    divergence,
    paired,
    paired_contrast,
    twins,
)
from helpers.compare.permutation import (
    Significance,
    Units,
    matched_sets,
    permutation_p,
)
from helpers.compare.tables import (
    STRONG,
    best_unit,
    best_units,
    compare,
    compare_pair,
    leads,
    side_by_side,
    strongest,
    summary,
    with_intervals,
)
from helpers.compare.tendency import Tendency, tendencies, tendency, verdict

__all__ = [
    "STRONG",
    "Contrast",
    "Overlap",
    "Significance",
    "Tendency",
    "Units",
    "against",
    "auroc",
    "best_unit",
    "best_units",
    "carried",
    "class_means",
    "cohens_d",
    "compare",
    "compare_pair",
    "divergence",
    "equal_length_max",
    "halve",
    "leads",
    "lengths",
    "live_features",
    "matched_sets",
    "null_contrast",
    "null_pair",
    "null_splits",
    "paired",
    "paired_contrast",
    "pairs",
    "permutation_p",
    "pivots",
    "planted_power",
    "shared_mass",
    "shared_table",
    "side_by_side",
    "strongest",
    "summary",
    "tendencies",
    "tendency",
    "twins",
    "verdict",
    "with_intervals",
]
