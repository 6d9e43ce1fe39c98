"""Sparse autoencoders: six architectures behind one interface.

All keep the decoder's rows unit while they train (project -> step ->
renormalise, done by the loop), and name weights and files as SAELens does.
"""

from helpers.sae.architectures import ARCHITECTURES, build
from helpers.sae.base import SAE, Convention
from helpers.sae.batchtopk import BatchTopKSAE, MatryoshkaSAE
from helpers.sae.gated import GatedSAE
from helpers.sae.interchange import (
    CONFIG,
    WEIGHTS,
    from_sae_lens,
    load,
    load_openai,
    save,
)
from helpers.sae.jumprelu import JumpReLUSAE
from helpers.sae.standard import L1SAE, l1_to_sum_units
from helpers.sae.topk import TopKSAE

__all__ = [
    "ARCHITECTURES",
    "CONFIG",
    "SAE",
    "WEIGHTS",
    "BatchTopKSAE",
    "Convention",
    "GatedSAE",
    "JumpReLUSAE",
    "L1SAE",
    "MatryoshkaSAE",
    "TopKSAE",
    "build",
    "from_sae_lens",
    "l1_to_sum_units",
    "load",
    "load_openai",
    "save",
]
