"""The same arithmetic in plain PyTorch: always works.

What every other backend must agree with. Matrix products run in bfloat16
where the hardware has units for them, while weights, sums and gradients
stay float32; the batch is worked off in slices, so that no ``[batch,
d_sae]`` temporary is kept; and where latents are chosen by rank only the
active rows of the dictionary are read and written.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

from helpers.kernels.adam import Adam
from helpers.kernels.types import (
    Codes,
    GatedWeights,
    JumpReLUWeights,
    Matrices,
    Penalty,
    Result,
    Weights,
    ends,
    lowered,
)

__all__ = [
    "Adam",
    "candidates",
    "encode_topk",
    "gated_step",
    "jumprelu_step",
    "keep",
    "largest",
    "nested_step",
    "relu_step",
    "sparse_step",
    "top_k",
    "topk_step",
]
SLICE = 512  # tokens worked on at once: the codes then stay in the cache
DENSE_SLICE = 2048  # the same where each slice adds to dense gradients


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, exact, unordered: values and indices.

    ``pre``: [batch, d_sae]. Columns are put in groups; the k largest values
    lie in the k groups with the largest maxima, and finding those first
    spares most of the search. Which of several equal values is taken is
    open; the values are those of ``torch.topk``.
    """
    width = pre.shape[1]
    groups = 8 if width % 8 == 0 and width // 8 >= 4 * k else 1
    if groups == 1:
        return pre.topk(k, sorted=False)
    columns = width // groups
    best = pre.view(-1, groups, columns).amax(1).topk(k, sorted=False)[1]
    shift = torch.arange(0, width, columns, device=pre.device)
    places = (best[:, None, :] + shift[None, :, None]).flatten(1)
    values, place = pre.gather(1, places).topk(k, sorted=False)
    return values, places.gather(1, place)


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the ``count`` largest: [n] -> [n], bool.

    Of values equal to the smallest kept, the first ones are taken; NaN
    counts as the largest.
    """
    spare = len(values) - count
    if spare <= 0:
        return torch.ones_like(values, dtype=torch.bool)
    cut = values.kthvalue(spare + 1).values
    over = values.isnan() | (values > cut)
    places = (values == cut).nonzero().squeeze(1)
    over[places[: count - int(over.sum())]] = True
    return over


def keep(codes: Codes, which: torch.Tensor) -> Codes:
    """Those entries that ``which`` ([entries], bool) marks."""
    before, places = ends(which), which.nonzero().squeeze(1)
    return Codes(
        before[codes.offsets], codes.indices[places], codes.values[places]
    )


def candidates(
    x: torch.Tensor,
    w: Weights,
    floor: float,
    most: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Codes:
    """Entries of (x - b_dec) W_enc + b_enc above ``floor`` (>= 0).

    The ``most`` largest are among them (of equal ones the first); others
    may be left out, so that no more than twice as many are held at a time.
    """
    low = low or lowered(w, dtype)
    bias, parts = w.b_enc.to(dtype), []
    for part in x.split(SLICE):
        centred = (part - w.b_dec).to(dtype)
        pre = torch.addmm(bias, centred, low.W_enc)
        over = ~(pre <= floor)  # NaN is above everything
        latents = over.nonzero()[:, 1].to(torch.int32)
        parts.append(Codes(ends(over.sum(1)), latents, pre[over].float()))
        parts, floor = prune(parts, floor, most, largest)
    return Codes.join(parts)


def prune(parts: list[Codes], floor: float, most: int, largest):
    """Few enough candidates, and the floor for those to come."""
    if sum(len(part.values) for part in parts) <= 2 * most:
        return parts, floor
    joined = Codes.join(parts)
    kept = keep(joined, largest(joined.values, most))
    return [kept], float(kept.values.min())


def encode_topk(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ReLU(TopK_k((x - b_dec) W_enc + b_enc)): values, indices [batch, k].

    ``low``: the matrices in ``dtype``, where they are at hand.
    """
    low = low or lowered(w, dtype)
    centred, bias = (x - w.b_dec).to(dtype), w.b_enc.to(dtype)
    found = [
        top_k(torch.addmm(bias, part, low.W_enc), k)
        for part in centred.split(SLICE)
    ]
    values = torch.cat([values for values, _ in found])
    indices = torch.cat([indices for _, indices in found])
    return values.relu().float(), indices


def topk_step(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss mean_B ||x_hat - x||^2 of a TopK SAE and its gradients.

    ``x``: [batch, d_in], float32; ``low`` as in ``encode_topk``.
    """
    values, indices = encode_topk(x, w, k, dtype, low)
    offsets = torch.arange(0, indices.numel() + 1, k, device=x.device)
    codes = Codes(offsets, indices.flatten(), values.flatten())
    return sparse_step(x, w, codes, dtype, low)


def sparse_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss mean_B ||x_hat - x||^2 and its gradients for given codes.

    For every SAE whose listed codes equal their pre-activations where
    positive. All sparse: the decoder sums the listed rows of each token;
    the weights' gradients sum, for each latent, over the tokens that it is
    active on (found by one sort of the indices).
    """
    return nested_step(x, w, codes, [len(w.W_dec)], dtype, low)


def nested_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    widths: Sequence[int],
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss sum_m mean_B ||x_hat_m - x||^2 and its gradients, all sparse.

    x_hat_m decodes the codes of the first m latents, for each m of
    ``widths`` (rising; the last is d_sae, and is the error returned);
    latents rise within a token. The decoder's sums are made once, by level:
    prefixes are running sums.
    """
    latents, tokens = codes.indices.long(), codes.tokens()
    values = codes.values.detach().requires_grad_()
    rows, bags = tokens, _Bags(slice(None), codes.offsets[:-1])
    if len(widths) > 1:
        level = torch.bucketize(latents, latents.new_tensor(widths), right=True)
        rows = level * len(x) + tokens
        bags = _bags(rows, len(x) * len(widths))
    with torch.enable_grad():
        sums = bags.sum(latents, w.W_dec, values)
    levels = sums.detach().view(len(widths), *x.shape)
    errors = levels.cumsum(0) + (w.b_dec - x)
    # A latent's share in the loss goes through every prefix that holds it.
    slopes = errors.flip(0).cumsum(0).flip(0) * (2 / len(x))
    (d_values,) = torch.autograd.grad(sums, values, slopes.view_as(sums))
    values, d_values = values.detach(), d_values * (values != 0)
    by_latent = _bags(latents, len(w.W_dec))
    d_b_enc = sum_by(latents, d_values, len(w.W_dec))
    gradients = Weights(
        W_enc=by_latent.sum(tokens, x - w.b_dec, d_values).T,
        b_enc=d_b_enc,
        W_dec=by_latent.sum(rows, slopes.view_as(sums), values),
        b_dec=slopes[0].sum(0) - w.W_enc @ d_b_enc,
    )
    firings = sum_by(latents, (values != 0).float(), len(w.W_dec))
    return Result(errors[-1], firings, gradients)


def relu_step(
    x: torch.Tensor,
    w: Weights,
    l1: float,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss mean_B (||x_hat - x||^2 + l1 sum_i f_i) and its gradients.

    ``x``: [batch, d_in], float32; f = ReLU((x - b_dec) W_enc + b_enc);
    ``low`` as in ``encode_topk``. Each slice of the batch goes forward and
    backward before the next.
    """
    sums = _Sums(x, w, dtype, low)
    bias = w.b_enc.to(dtype)
    for part, centred in sums.slices():
        f = torch.addmm(bias, centred, sums.low.W_enc).relu_()
        slope = sums.decode(f, part)
        d_pre = (slope @ sums.low.W_dec.T).add_(l1 / len(x)).mul_(f > 0)
        sums.add(f, slope, d_pre, centred)
    return sums.result(b_enc=sums.d_pre)


def jumprelu_step(
    x: torch.Tensor,
    w: JumpReLUWeights,
    penalty: Penalty,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss of a JumpReLU SAE and its straight-through gradients.

    With rect 1 on (-1/2, 1/2): d JumpReLU / d threshold =
    -(threshold / bandwidth) rect((z - threshold) / bandwidth), d Step / d
    threshold = -(1 / bandwidth) rect(...); to z the loss goes only through
    active codes (Rajamanoharan et al. 2024b).
    """
    sums = _Sums(x, w, dtype, low)
    bias, d_threshold = w.b_enc.to(dtype), torch.zeros_like(w.threshold)
    for part, centred in sums.slices():
        pre = torch.addmm(bias, centred, sums.low.W_enc)
        active = ~(pre <= w.threshold)
        slope = sums.decode(pre * active, part)
        d_f = slope @ sums.low.W_dec.T
        price = penalty.slope(active.sum(1).float()) / len(x)
        near = (pre - w.threshold).abs_() < penalty.bandwidth / 2
        pull = (d_f * w.threshold).add_(price[:, None]).mul_(near)
        d_threshold.sub_(pull.sum(0), alpha=1 / penalty.bandwidth)
        sums.add(pre.mul_(active), slope, d_f.mul_(active), centred)
    return sums.result(b_enc=sums.d_pre, threshold=d_threshold)


def gated_step(
    x: torch.Tensor,
    w: GatedWeights,
    l1: float,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """Loss of a Gated SAE and its gradients.

    With c = x - b_dec, gate = c W_enc + b_gate and
    mag = c (W_enc exp(r_mag)) + b_mag, f = 1[gate > 0] ReLU(mag): mean over
    tokens of ||x_hat - x||^2 + l1 sum_i ReLU(gate_i) + ||x_gate - x||^2,
    where x_gate decodes ReLU(gate) with a frozen copy of W_dec and b_dec.
    """
    sums, ratio = _Sums(x, w, dtype, low), w.r_mag.exp()
    b_gate, b_mag, r_mag = (torch.zeros_like(w.b_mag) for _ in range(3))
    for part, centred in sums.slices():
        shared = centred @ sums.low.W_enc
        active = ~(shared <= -w.b_gate)
        gate = ((shared + w.b_gate) * active).to(dtype)
        f = (shared * ratio).add_(w.b_mag).relu_().mul_(active).to(dtype)
        slope_gate = sums.decode(gate, part)
        slope = sums.decode(f, part)
        d_mag = (slope @ sums.low.W_dec.T).mul_(f > 0)
        d_gate = (slope_gate @ sums.low.W_dec.T).add_(l1 / len(x))
        d_gate.mul_(active)
        b_gate.add_(d_gate.sum(0, dtype=torch.float32))
        b_mag.add_(d_mag.sum(0, dtype=torch.float32))
        r_mag.add_((d_mag * shared).sum(0, dtype=torch.float32))
        d_shared = d_gate.addcmul_(d_mag, ratio.to(dtype))
        sums.add(f, slope, d_shared, centred)
    return sums.result(b_gate=b_gate, b_mag=b_mag, r_mag=r_mag.mul_(ratio))


class _Sums:
    """What the dense slices of one batch add up to."""

    def __init__(self, x, w, dtype, low):
        self.x, self.w, self.dtype = x, w, dtype
        self.low = low or lowered(w, dtype)
        self.W_enc = torch.zeros_like(w.W_dec)  # latents as rows
        self.W_dec = torch.zeros_like(w.W_dec)
        self.error = torch.empty_like(x)
        self.d_pre, self.firings = x.new_zeros(2, len(w.W_dec))

    def slices(self):
        """Places in the batch, and x - b_dec there in low precision."""
        for start in range(0, len(self.x), DENSE_SLICE):
            part = slice(start, start + DENSE_SLICE)
            yield part, (self.x[part] - self.w.b_dec).to(self.dtype)

    def decode(self, f: torch.Tensor, part: slice) -> torch.Tensor:
        """The loss's slope in the slice's reconstruction; keeps the error."""
        error = (f @ self.low.W_dec).float()
        error = error.add_(self.w.b_dec).sub_(self.x[part])
        self.error[part] = error
        return error.mul_(2 / len(self.x)).to(self.dtype)

    def add(self, f, slope, d_pre, centred) -> None:
        """Bring the matrices' gradients on by one slice."""
        self.W_enc.add_(d_pre.T @ centred)
        self.W_dec.add_(f.T @ slope)
        self.d_pre.add_(d_pre.sum(0, dtype=torch.float32))
        self.firings.add_((f != 0).sum(0))

    def result(self, **others: torch.Tensor) -> Result:
        """The whole batch's; ``others``: the remaining gradients."""
        d_b_dec = self.error.sum(0).mul_(2 / len(self.x))
        gradients = type(self.w)(
            W_enc=self.W_enc.T,
            W_dec=self.W_dec,
            b_dec=d_b_dec.sub_(self.w.W_enc @ self.d_pre),
            **others,
        )
        return Result(self.error, self.firings, gradients)


class _Bags(NamedTuple):
    """Entries grouped by the row they add to."""

    order: torch.Tensor | slice  # [n], entries sorted by row
    starts: torch.Tensor  # [rows], where each row's entries begin

    def sum(
        self, read: torch.Tensor, table: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """For each row, sum over its entries of scale * table[read]."""
        return embedding_bag(
            read[self.order],
            table,
            self.starts,
            per_sample_weights=scale[self.order],
            mode="sum",
        )


def _bags(into: torch.Tensor, rows: int) -> _Bags:
    flat = into.to(torch.int32)  # sorts faster
    counts = torch.bincount(flat, minlength=rows)
    return _Bags(flat.argsort(stable=True), counts.cumsum(0) - counts)


def sum_by(
    indices: torch.Tensor, values: torch.Tensor, d_sae: int
) -> torch.Tensor:
    """Sum of the values that fall on each latent: [d_sae]."""
    zeros = torch.zeros(d_sae, device=values.device)
    return zeros.index_add_(0, indices, values)
