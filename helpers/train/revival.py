"""AuxK (Gao et al. 2024): dead latents rebuild what the others leave over.

The top ``aux_k`` of the dead latents predict the residual x - x_hat; the
squared error is relative to that of predicting nothing, and weighs ``aux``
times the variance of x. All sums run over the slices of all ranks, so that
their losses, and their gradients, add up to the one loss.
"""

import torch

from helpers import kernels, ranks, sae
from helpers.kernels import Result, Weights
from helpers.train.settings import Settings

SLICE = 2048  # tokens whose dead codes are held at once


@torch.no_grad()
def add_aux_gradients(
    model: sae.SAE,
    x: torch.Tensor,
    result: Result,
    dead: torch.Tensor,
    settings: Settings,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Add AuxK's gradients to those of a step's ``result``; its loss.

    ``x``: this rank's slice, [batch, d_in]. Of the weights only the rows of
    the ``dead`` latents [n] are read, and only their gradients written
    (and that of ``b_dec``, which the encoder subtracts). The error x_hat - x
    counts as given. Matrix products run in ``dtype``.
    """
    whole = result.error.pow(2).sum()
    ranks.add([whole])
    weight = settings.aux * variance(x) / whole
    weight = weight.nan_to_num(nan=0, posinf=0)  # nothing is left over
    rows = Weights(
        model.W_enc.T[dead].T, model.b_enc[dead], model.W_dec[dead],
        model.b_dec,
    )  # fmt: skip
    aux = _Aux(rows, min(settings.aux_k, len(dead)), weight, dtype)
    for part, error in zip(
        x.split(SLICE), result.error.split(SLICE), strict=True
    ):
        aux.take(part, error)
    found, total = aux.gradients, result.gradients
    total.W_enc.T.index_add_(0, dead, found.W_enc.T)
    total.b_enc.index_add_(0, dead, found.b_enc)
    total.W_dec.index_add_(0, dead, found.W_dec)
    total.b_dec.sub_(rows.W_enc @ found.b_enc)
    return aux.loss


class _Aux:
    """Loss and gradients of the dead latents, slice by slice."""

    def __init__(self, rows: Weights, k: int, weight, dtype: torch.dtype):
        self.rows, self.k, self.weight = rows, k, weight
        self.low = Weights(*(part.to(dtype) for part in rows))
        self.gradients = Weights(*(torch.zeros_like(part) for part in rows))
        self.loss = torch.zeros_like(weight)

    def take(self, x: torch.Tensor, error: torch.Tensor) -> None:
        """Add what a slice gives: both [tokens, d_in]."""
        low, total = self.low, self.gradients
        centred = (x - self.rows.b_dec).to(low.W_enc.dtype)
        pre = torch.addmm(low.b_enc, centred, low.W_enc)
        values, indices = kernels.top_k(pre, self.k)
        codes = torch.zeros_like(pre).scatter_(1, indices, values.relu())
        left = (codes @ low.W_dec).float().add_(error)
        self.loss += left.pow(2).sum() * self.weight
        slope = (left * (2 * self.weight)).to(pre.dtype)
        d_pre = (slope @ low.W_dec.T).mul_(codes > 0)
        total.W_enc.T.add_(d_pre.T @ centred)
        total.W_dec.add_(codes.T @ slope)
        total.b_enc.add_(d_pre.sum(0, dtype=torch.float32))


def variance(x: torch.Tensor) -> torch.Tensor:
    """Mean squared distance from the mean, over the slices of all ranks."""
    mean, count = x.sum(0), torch.tensor([float(len(x))], device=x.device)
    ranks.add([mean, count])
    square = (x - mean / count).pow(2).sum()
    ranks.add([square])
    return square / count[0]
