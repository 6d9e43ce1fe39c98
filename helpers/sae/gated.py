"""The Gated SAE (Rajamanoharan et al. 2024a, *Improving Dictionary
Learning with Gated Sparse Autoencoders*)."""

import torch

from helpers import kernels
from helpers.sae.base import PenalisedSAE


class GatedSAE(PenalisedSAE):
    """f = 1[gate > 0] ReLU(mag): which latents fire, and how strongly.

    With c = x - b_dec, gate = c W_enc + b_gate and
    mag = c (W_enc exp(r_mag)) + b_mag. Loss, mean over tokens:
    ||x_hat - x||^2 + l1 sum_i ReLU(gate_i) + ||x_gate - x||^2, where x_gate
    decodes ReLU(gate) with a frozen copy of W_dec and b_dec. SAELens does
    not freeze the copy, so its W_dec and b_dec have other gradients; those
    of the other four parameters agree.
    """

    architecture = "gated"
    trains = kernels.GatedWeights
    scaled = ("b_gate", "b_mag", "b_dec")

    def pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        """The gate's: [..., d_in] -> [..., d_sae]."""
        return self.centre(x) @ self.W_enc.contiguous() + self.b_gate

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        W_mag = self.W_enc.contiguous() * self.r_mag.exp()
        magnitude = (self.centre(x) @ W_mag + self.b_mag).relu()
        return magnitude * (self.pre_activations(x) > 0)

    def _step(self, x, dtype, low):
        return kernels.gated_step(x, self.weights(), self.l1, dtype, low)

    def _add_parameters(self):
        for name in ("b_gate", "r_mag", "b_mag"):
            self.register_parameter(
                name, torch.nn.Parameter(torch.zeros(self.d_sae))
            )
