"""Training sparse autoencoders: the loop on one screen, and what keeps it safe.

``loop`` holds the loop, ``settings`` its settings and schedule, ``start``
where it starts, ``meter`` what is counted, ``resampling`` how L1's dead
latents are drawn anew, ``revival`` AuxK, ``checkpoint`` and ``guard`` what
lets a stopped run go on, ``stage`` the way from a language model to an
artifact.
"""

from helpers.sae import build
from helpers.train.checkpoint import Checkpoints
from helpers.train.loop import (
    Job,
    fit,
    fit_together,
    optimiser,
    take_step,
    train,
)
from helpers.train.meter import Meter
from helpers.train.revival import add_aux_gradients
from helpers.train.settings import Settings, learning_rate
from helpers.train.stage import LOG, load_log, load_sae, make_sae, make_saes
from helpers.train.start import SAMPLE, geometric_median, unit_scale

__all__ = [
    "LOG",
    "SAMPLE",
    "Checkpoints",
    "Job",
    "Meter",
    "Settings",
    "add_aux_gradients",
    "build",
    "fit",
    "fit_together",
    "geometric_median",
    "learning_rate",
    "load_log",
    "load_sae",
    "make_sae",
    "make_saes",
    "optimiser",
    "take_step",
    "train",
    "unit_scale",
]
