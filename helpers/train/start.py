"""Where training starts: the activations' scale and the pre-encoder bias."""

import torch

from helpers.errors import InputError

SAMPLE = 8  # batches that set the activation scale and the pre-bias


def geometric_median(
    points: torch.Tensor, iterations: int = 50
) -> torch.Tensor:
    """The point nearest to all others: [n, d_in] -> [d_in] (Weiszfeld)."""
    guess = points.mean(0)
    for _ in range(iterations):
        distance = (points - guess).norm(dim=1).clamp_min(1e-8)
        guess = (points / distance[:, None]).sum(0) / (1 / distance).sum()
    return guess


def unit_scale(points: torch.Tensor) -> float:
    """The factor that makes the mean norm of [n, d_in] sqrt(d_in)."""
    mean = points.norm(dim=1).mean().item()
    if not mean > 0:
        raise InputError(
            "the activations are all zero; this hook point carries nothing"
        )
    return points.shape[1] ** 0.5 / mean
