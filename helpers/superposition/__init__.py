"""Toy models of superposition (Elhage et al. 2022), where all is known.

``toys`` trains them, ``geometry`` says how their features lie, ``phases``
is the phase diagram of the smallest one, ``stage`` makes artifacts of these,
``recovery`` looks for the features again with a sparse autoencoder.
"""

from helpers.superposition.geometry import (
    antipodal_pairs,
    dimensionality,
    dimensions_per_feature,
    interference,
    norms,
    outcomes,
)
from helpers.superposition.phases import ABOVE, MARGIN, closed_form
from helpers.superposition.recovery import load_recovery, make_recovery
from helpers.superposition.stage import (
    DENSITIES,
    load_diagram,
    load_toys,
    make_diagram,
    make_toys,
)

__all__ = [
    "ABOVE",
    "DENSITIES",
    "MARGIN",
    "antipodal_pairs",
    "closed_form",
    "dimensionality",
    "dimensions_per_feature",
    "interference",
    "load_diagram",
    "load_recovery",
    "load_toys",
    "make_diagram",
    "make_recovery",
    "make_toys",
    "norms",
    "outcomes",
]
