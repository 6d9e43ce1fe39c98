"""The L1 SAE of *Towards Monosemanticity*, and the units of its penalty."""

import torch

from helpers import kernels
from helpers.errors import unknown
from helpers.sae.base import PenalisedSAE, unit


class L1SAE(PenalisedSAE):
    """f = ReLU((x - b_dec) W_enc + b_enc), pushed down by an L1 penalty.

    *Towards Monosemanticity*: encoder and decoder are untied and drawn
    Kaiming-uniform, the decoder's rows made unit. ``l1`` is in sum units:
    loss = mean over tokens of (||x_hat - x||^2 + l1 * sum_i f_i).
    """

    architecture = "standard"

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre_activations(x).relu()

    def _step(self, x, dtype, low):
        return kernels.relu_step(x, self.weights(), self.l1, dtype, low)

    def _initial(self, random):
        bound = (6 / self.d_in) ** 0.5
        shape = (self.d_sae, self.d_in)
        encoder, decoder = (
            torch.rand(shape, generator=random) * 2 * bound - bound
            for _ in range(2)
        )
        return encoder, unit(decoder)


def l1_to_sum_units(value: float, convention: str, n: int, batch: int) -> float:
    """An L1 coefficient as others quote it, in this project's units.

    ``n`` is d_in, ``batch`` the number of tokens in a step. Conventions:
    ``"sum"`` (ours, SAELens, dictionary_learning: both terms summed over
    dimensions, mean over tokens); ``"mean"`` (*Towards Monosemanticity*:
    squared error averaged over the n dimensions); ``"batch"``
    (1L-Sparse-Autoencoder: L1 summed over the whole batch).
    """
    factors = {"sum": 1, "mean": n, "batch": batch}
    if convention not in factors:
        raise unknown("L1 convention", convention, factors)
    return value * factors[convention]
