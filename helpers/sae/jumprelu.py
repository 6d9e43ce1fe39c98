"""The JumpReLU SAE (Rajamanoharan et al. 2024b, *Jumping Ahead*)."""

import torch

from helpers import kernels
from helpers.errors import InputError
from helpers.sae.base import SAE, check_positive


class JumpReLUSAE(SAE):
    """f = z where z > threshold, else 0; z = (x - b_dec) W_enc + b_enc.

    Loss: mean over tokens of ||x_hat - x||^2 + l0 * L0; with ``target_l0``
    the second term is l0 * 2 (L0 - target_l0)^2 / target_l0 (Gemma Scope 2).
    The thresholds are trained themselves, not their logarithms, in float32;
    their gradient is a straight-through estimate of width ``bandwidth``,
    and no part of it reaches z. They start at ``threshold``; both suit
    activations of mean norm sqrt(d_in).
    """

    architecture = "jumprelu"
    trains = kernels.JumpReLUWeights
    scaled = ("b_enc", "b_dec", "threshold")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        hook_point: str,
        l0: float = 1.0,
        seed: int = 0,
        *,
        target_l0: float | None = None,
        bandwidth: float = 0.05,
        threshold: float = 0.01,
    ):
        check_positive("l0", l0, zero=True)
        check_positive("bandwidth", bandwidth)
        check_positive("threshold", threshold, zero=True)
        if target_l0 is not None and not 0 < target_l0 <= d_sae:
            raise InputError(
                f"target_l0 must lie between 0 and d_sae = {d_sae}, not "
                f"{target_l0}"
            )
        super().__init__(d_in, d_sae, hook_point, seed)
        self.l0, self.target_l0, self.bandwidth = l0, target_l0, bandwidth
        with torch.no_grad():
            self.threshold.fill_(threshold)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        # Below zero a threshold lets through no more than at zero.
        pre = self.pre_activations(x)
        return pre.relu() * (pre > self.threshold)

    def tensors(self):
        clamped = self.threshold.detach().clamp_min(0)
        return super().tensors() | {"threshold": clamped}

    def _step(self, x, dtype, low):
        # Projected before the step's forward pass: clamped inside of it, a
        # threshold that reached zero would have no gradient and stay there.
        self.threshold.detach().clamp_(min=0)
        penalty = kernels.Penalty(self.l0, self.target_l0, self.bandwidth)
        return kernels.jumprelu_step(x, self.weights(), penalty, dtype, low)

    def _add_parameters(self):
        super()._add_parameters()
        self.threshold = torch.nn.Parameter(torch.zeros(self.d_sae))
