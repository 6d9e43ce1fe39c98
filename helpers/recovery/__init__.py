"""Feature recovery: which unit says that a token carries a known factor?

The synthetic corpora know, for each token, the factors that made it
(``helpers.synthesis.truth``). Every factor, and every value of it that is
frequent enough, is a *target*: a yes or no for each token. A unit (feature,
neuron, random direction) is a detector of it: it says yes where it is active
at least at a threshold. The best unit and its threshold are chosen on one
half of the matched sets and scored on the other half.
"""

from helpers.recovery.columns import Columns
from helpers.recovery.contest import (
    Gap,
    contest,
    median_gap,
    penalty_verdict,
)
from helpers.recovery.levels import (
    by_level,
    correlations,
    effective_classes,
    fires_on,
    made_of,
    strong_classes,
)
from helpers.recovery.sample import choose, make_sample, sets_with
from helpers.recovery.scores import (
    Study,
    averages,
    duel,
    headline,
    recover,
    specialists,
    tally,
)
from helpers.recovery.several import together
from helpers.recovery.tables import along, halves, take
from helpers.recovery.targets import PRESENT, Targets, find_targets

__all__ = [
    "PRESENT",
    "Columns",
    "Gap",
    "Study",
    "Targets",
    "along",
    "averages",
    "by_level",
    "choose",
    "contest",
    "correlations",
    "duel",
    "effective_classes",
    "find_targets",
    "fires_on",
    "halves",
    "headline",
    "made_of",
    "make_sample",
    "median_gap",
    "penalty_verdict",
    "recover",
    "sets_with",
    "specialists",
    "strong_classes",
    "take",
    "tally",
    "together",
]
