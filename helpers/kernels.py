"""The arithmetic of one SAE training step: losses and gradients by hand.

The fast counterpart of a few lines of autograd (the plain version that the
tests compare with): matrix products run in bfloat16 where the hardware has
units for them, while weights, sums and gradients stay float32; the batch is
worked off in slices, so that no ``[batch, d_sae]`` temporary is kept; and
TopK reads and writes only the k active rows of the dictionary per token.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

SLICE = 512  # tokens worked on at once: the codes then stay in the cache
DENSE_SLICE = 2048  # the same where each slice adds to dense gradients


class Weights(NamedTuple):
    """What an SAE trains, or its gradients: the same shapes."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class Result(NamedTuple):
    """What one training step found."""

    error: torch.Tensor  # [batch, d_in], x_hat - x
    firings: torch.Tensor  # [d_sae], tokens each latent was active on
    gradients: Weights


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, exact, unordered: values and indices.

    ``pre``: [batch, d_sae]. Columns are put in groups; the k largest values
    lie in the k groups with the largest maxima, and finding those first
    spares most of the search. Ties may go to another index than in
    ``torch.topk``, the values are the same.
    """
    width = pre.shape[1]
    groups = 8 if width % 8 == 0 and width // 8 >= 4 * k else 1
    if groups == 1:
        return pre.topk(k, sorted=False)
    columns = width // groups
    best = pre.view(-1, groups, columns).amax(1).topk(k, sorted=False)[1]
    shift = torch.arange(0, width, columns, device=pre.device)
    candidates = (best[:, None, :] + shift[None, :, None]).flatten(1)
    values, place = pre.gather(1, candidates).topk(k, sorted=False)
    return values, candidates.gather(1, place)


def encode_topk(
    x: torch.Tensor, w: Weights, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """ReLU(TopK_k((x - b_dec) W_enc + b_enc)): values, indices [batch, k]."""
    W, b = w.W_enc.to(dtype), w.b_enc.to(dtype)
    centred = (x - w.b_dec).to(dtype)
    found = [
        top_k(torch.addmm(b, part, W), k) for part in centred.split(SLICE)
    ]
    values = torch.cat([values for values, _ in found])
    indices = torch.cat([indices for _, indices in found])
    return values.relu().float(), indices


def topk_step(
    x: torch.Tensor, w: Weights, k: int, dtype: torch.dtype
) -> Result:
    """Loss mean_B ||x_hat - x||^2 of a TopK SAE and its gradients.

    ``x``: [batch, d_in], float32. All sparse: the decoder sums k rows a
    token; the weights' gradients sum, for each latent, over the tokens that
    it is active on (found by one sort of the indices).
    """
    values, indices = encode_topk(x, w, k, dtype)
    values.requires_grad_()
    with torch.enable_grad():
        sums = embedding_bag(
            indices, w.W_dec, per_sample_weights=values, mode="sum"
        )
    error = sums.detach() + w.b_dec - x
    slope = error * (2 / len(x))
    (d_values,) = torch.autograd.grad(sums, values, slope)
    values = values.detach()
    d_values = d_values * (values > 0)
    by_latent = _transpose(indices, len(w.W_dec))
    d_b_enc = _sum_by(indices, d_values, len(w.W_dec))
    gradients = Weights(
        W_enc=_gather(by_latent, x - w.b_dec, d_values).T,
        b_enc=d_b_enc,
        W_dec=_gather(by_latent, slope, values),
        b_dec=slope.sum(0) - w.W_enc @ d_b_enc,
    )
    firings = _sum_by(indices, (values > 0).float(), len(w.W_dec))
    return Result(error, firings, gradients)


def relu_step(
    x: torch.Tensor, w: Weights, l1: float, dtype: torch.dtype
) -> Result:
    """Loss mean_B (||x_hat - x||^2 + l1 sum_i f_i) and its gradients.

    ``x``: [batch, d_in], float32; f = ReLU((x - b_dec) W_enc + b_enc). Each
    slice of the batch goes forward and backward before the next.
    """
    low = Weights(*(part.to(dtype) for part in w))
    total = Weights(*(torch.zeros_like(part) for part in w))
    per_token = torch.full((1,), l1 / len(x), dtype=dtype, device=x.device)
    firings, errors = torch.zeros_like(w.b_enc), []
    for part in x.split(DENSE_SLICE):
        centred = (part - w.b_dec).to(dtype)
        f = torch.addmm(low.b_enc, centred, low.W_enc).relu_()
        errors.append((f @ low.W_dec).float().add_(w.b_dec).sub_(part))
        slope = (errors[-1] * (2 / len(x))).to(dtype)
        active = f > 0
        d_pre = torch.addmm(per_token, slope, low.W_dec.T).mul_(active)
        total.W_enc.T.add_(d_pre.T @ centred)  # latents as rows
        total.W_dec.add_(f.T @ slope)
        total.b_enc.add_(d_pre.sum(0, dtype=torch.float32))
        firings.add_(active.sum(0))
    error = torch.cat(errors)
    total.b_dec.add_(error.sum(0), alpha=2 / len(x))
    total.b_dec.sub_(w.W_enc @ total.b_enc)
    return Result(error, firings, total)


class _Transposed(NamedTuple):
    """Where each latent is active: a [batch, k] table read by column."""

    order: torch.Tensor  # [batch * k], entries sorted by latent
    tokens: torch.Tensor  # [batch * k], the token of each sorted entry
    starts: torch.Tensor  # [d_sae], where each latent's entries begin


def _transpose(indices: torch.Tensor, d_sae: int) -> _Transposed:
    flat = indices.flatten().to(torch.int32)
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=d_sae)
    starts = counts.cumsum(0) - counts
    return _Transposed(order, order // indices.shape[1], starts)


def _gather(
    where: _Transposed, rows: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """For each latent, sum_tokens weight * row: [d_sae, d_in]."""
    return embedding_bag(
        where.tokens,
        rows,
        where.starts,
        per_sample_weights=weights.flatten()[where.order],
        mode="sum",
    )


def _sum_by(
    indices: torch.Tensor, values: torch.Tensor, d_sae: int
) -> torch.Tensor:
    """Sum of the values that fall on each latent: [d_sae]."""
    zeros = torch.zeros(d_sae, device=values.device)
    return zeros.index_add_(0, indices.flatten(), values.flatten())
