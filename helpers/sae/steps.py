"""Training steps by hand, beyond those of ``helpers.kernels``.

As there: matrix products run in ``dtype``, sums and gradients in float32,
and the batch is worked off in slices, so that no [batch, d_sae] temporary
is kept. Ranked codes' steps touch active entries only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

from helpers.kernels import Codes, Result, Weights

SLICE = 512  # tokens worked on at once: the codes then stay in the cache
DENSE_SLICE = 2048  # the same where each slice adds to dense gradients


class JumpReLUWeights(NamedTuple):
    """What a JumpReLU SAE trains, or its gradients."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    threshold: torch.Tensor  # [d_sae], >= 0
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class GatedWeights(NamedTuple):
    """What a Gated SAE trains, or its gradients."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_gate: torch.Tensor  # [d_sae]
    r_mag: torch.Tensor  # [d_sae], log of magnitude over gate weights
    b_mag: torch.Tensor  # [d_sae]
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class Penalty(NamedTuple):
    """What a JumpReLU SAE pays for each token's L0."""

    l0: float
    target: float | None  # L0 aimed at: quadratic about it, else linear
    bandwidth: float  # of the straight-through estimate

    def slope(self, count: torch.Tensor) -> torch.Tensor:
        """How the penalty grows with L0, for each token: [batch]."""
        if self.target is None:
            return torch.full_like(count, self.l0)
        return (count - self.target) * (4 * self.l0 / self.target)


class Chosen(NamedTuple):
    """Active entries of a [batch, d_sae] matrix, in order of their tokens."""

    tokens: torch.Tensor  # [n]
    latents: torch.Tensor  # [n]
    values: torch.Tensor  # [n], float32, > 0

    def codes(self, batch: int) -> Codes:
        """The same, as the kernels take them."""
        counts = torch.bincount(self.tokens, minlength=batch)
        ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return Codes(ends, self.latents.to(torch.int32), self.values)


def detached(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's parameters by name, without their history."""
    return {name: part.detach() for name, part in model.named_parameters()}


def above(
    x: torch.Tensor, w: Weights, floor: float, dtype: torch.dtype
) -> Chosen:
    """Entries of (x - b_dec) W_enc + b_enc above ``floor`` (>= 0)."""
    W, b, d_sae = w.W_enc.to(dtype), w.b_enc.to(dtype), len(w.b_enc)
    places, values = [], []
    for part in (x - w.b_dec).to(dtype).split(SLICE):
        pre = torch.addmm(b, part, W).flatten()
        places.append((pre > floor).nonzero().squeeze(1))
        values.append(pre[places[-1]].float())
        places[-1] += (len(places) - 1) * SLICE * d_sae
    place = torch.cat(places)
    tokens = torch.div(place, d_sae, rounding_mode="floor")
    return Chosen(tokens, place - tokens * d_sae, torch.cat(values))


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the ``count`` largest: [n] -> [n], bool.

    Of values equal to the smallest kept, the first ones are taken.
    """
    spare = len(values) - count
    if spare <= 0:
        return torch.ones_like(values, dtype=torch.bool)
    cut = values.kthvalue(spare + 1).values
    over, ties = values > cut, values == cut
    return over | ties & (ties.cumsum(0) <= count - over.sum())


def nested_step(
    x: torch.Tensor, w: Weights, chosen: Chosen, widths: Sequence[int]
) -> Result:
    """Loss sum_m mean_B ||x_hat_m - x||^2 and its gradients, all sparse.

    x_hat_m decodes the chosen entries of the first m latents, for each m of
    ``widths`` (rising; the last is d_sae, and is the error returned). The
    decoder's sums are made once, by level: prefixes are running sums.
    """
    tokens, latents, values = chosen
    ends = torch.tensor(widths, device=x.device)
    level = torch.bucketize(latents, ends, right=True)
    rows = level * len(x) + tokens
    values.requires_grad_()
    with torch.enable_grad():
        sums = _bags(rows, len(x) * len(widths)).sum(latents, w.W_dec, values)
    levels = sums.detach().view(len(widths), *x.shape)
    errors = levels.cumsum(0) + (w.b_dec - x)
    # A latent's share in the loss goes through every prefix that holds it.
    slopes = errors.flip(0).cumsum(0).flip(0) * (2 / len(x))
    (d_values,) = torch.autograd.grad(sums, values, slopes.view_as(sums))
    values, by_latent = values.detach(), _bags(latents, len(w.W_dec))
    d_b_enc = torch.zeros_like(w.b_enc).index_add_(0, latents, d_values)
    gradients = Weights(
        W_enc=by_latent.sum(tokens, x - w.b_dec, d_values).T,
        b_enc=d_b_enc,
        W_dec=by_latent.sum(rows, slopes.view_as(sums), values),
        b_dec=slopes[0].sum(0) - w.W_enc @ d_b_enc,
    )
    firings = by_latent.counts.float()
    return Result(errors[-1], firings, gradients)


def jumprelu_step(
    x: torch.Tensor, w: JumpReLUWeights, penalty: Penalty, dtype: torch.dtype
) -> Result:
    """Loss of a JumpReLU SAE and its straight-through gradients.

    With rect 1 on (-1/2, 1/2): d JumpReLU / d threshold =
    -(threshold / bandwidth) rect((z - threshold) / bandwidth), d Step / d
    threshold = -(1 / bandwidth) rect(...); to z the loss goes only through
    active codes (Rajamanoharan et al. 2024b).
    """
    low = JumpReLUWeights(*(part.to(dtype) for part in w))
    total = JumpReLUWeights(*(torch.zeros_like(part) for part in w))
    firings, errors = torch.zeros_like(w.b_enc), []
    for part in x.split(DENSE_SLICE):
        centred = (part - w.b_dec).to(dtype)
        pre = torch.addmm(low.b_enc, centred, low.W_enc)
        active = pre > w.threshold
        f = pre * active
        errors.append((f @ low.W_dec).float().add_(w.b_dec).sub_(part))
        slope = (errors[-1] * (2 / len(x))).to(dtype)
        d_f = slope @ low.W_dec.T
        price = penalty.slope(active.sum(1).float()) / len(x)
        near = ((pre - w.threshold) / penalty.bandwidth).abs_() < 0.5
        pull = (d_f * w.threshold).add_(price[:, None]).mul_(near)
        total.threshold.sub_(pull.sum(0), alpha=1 / penalty.bandwidth)
        d_pre = d_f.mul_(active)
        total.W_enc.T.add_(d_pre.T @ centred)  # latents as rows
        total.W_dec.add_(f.T @ slope)
        total.b_enc.add_(d_pre.sum(0, dtype=torch.float32))
        firings.add_(active.sum(0))
    error = torch.cat(errors)
    total.b_dec.add_(error.sum(0), alpha=2 / len(x))
    total.b_dec.sub_(w.W_enc @ total.b_enc)
    return Result(error, firings, total)


def gated_step(
    x: torch.Tensor, w: GatedWeights, l1: float, dtype: torch.dtype
) -> Result:
    """Loss of a Gated SAE (see GatedSAE) and its gradients."""
    low = GatedWeights(*(part.to(dtype) for part in w))
    total = GatedWeights(*(torch.zeros_like(part) for part in w))
    ratio = w.r_mag.exp()
    low_ratio = ratio.to(dtype)
    firings, errors = torch.zeros_like(w.b_mag), []
    for part in x.split(DENSE_SLICE):
        centred = (part - w.b_dec).to(dtype)
        shared = centred @ low.W_enc
        gate = (shared + low.b_gate).relu_()
        magnitude = torch.addcmul(low.b_mag, shared, low_ratio).relu_()
        f = magnitude.mul_(gate > 0)
        errors.append((f @ low.W_dec).float().add_(w.b_dec).sub_(part))
        left = (gate @ low.W_dec).float().add_(w.b_dec).sub_(part)
        slope, slope_gate = (
            (error * (2 / len(x))).to(dtype) for error in (errors[-1], left)
        )
        d_mag = (slope @ low.W_dec.T).mul_(f > 0)
        d_gate = (slope_gate @ low.W_dec.T).add_(l1 / len(x)).mul_(gate > 0)
        total.W_dec.add_(f.T @ slope)  # the gate's decoder is a frozen copy
        total.b_gate.add_(d_gate.sum(0, dtype=torch.float32))
        total.b_mag.add_(d_mag.sum(0, dtype=torch.float32))
        total.r_mag.add_((d_mag * shared).sum(0, dtype=torch.float32))
        d_shared = d_gate.addcmul_(d_mag, low_ratio)
        total.W_enc.T.add_(d_shared.T @ centred)  # latents as rows
        firings.add_((f > 0).sum(0))
    total.r_mag.mul_(ratio)
    error = torch.cat(errors)
    total.b_dec.add_(error.sum(0), alpha=2 / len(x))
    total.b_dec.sub_(w.W_enc @ (total.b_gate + ratio * total.b_mag))
    return Result(error, firings, total)


class _Bags(NamedTuple):
    """Entries grouped by the row they add to."""

    order: torch.Tensor  # [n], entries sorted by row
    counts: torch.Tensor  # [rows]

    def sum(
        self, read: torch.Tensor, table: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """For each row, sum over its entries of scale * table[read]."""
        return embedding_bag(
            read[self.order],
            table,
            self.counts.cumsum(0) - self.counts,
            per_sample_weights=scale[self.order],
            mode="sum",
        )


def _bags(into: torch.Tensor, rows: int) -> _Bags:
    flat = into.to(torch.int32)  # sorts faster
    counts = torch.bincount(flat, minlength=rows)
    return _Bags(flat.argsort(stable=True), counts)
