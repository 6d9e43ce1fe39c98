"""The arithmetic of a training step in plain PyTorch: always works.

What every other backend must agree with. Matrix products run in bfloat16
where the hardware has units for them, while weights, sums and gradients
stay float32; the batch is worked off in slices, so that no ``[batch,
d_sae]`` temporary is kept; and TopK reads and writes only the k active rows
of the dictionary per token.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

SLICE = 512  # tokens worked on at once: the codes then stay in the cache
DENSE_SLICE = 2048  # the same where each slice adds to dense gradients
MOMENTS = "exp_avg", "exp_avg_sq"  # Adam's means of g and g^2


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


class Codes(NamedTuple):
    """Codes of a batch that are not zero, listed token by token.

    Token t has entries ``offsets[t]`` to ``offsets[t + 1]``.
    """

    offsets: torch.Tensor  # [batch + 1], int64
    indices: torch.Tensor  # [entries], int32, the latents
    values: torch.Tensor  # [entries], float32, >= 0


def lowered(w: Weights, dtype: torch.dtype) -> Weights:
    """The weights in the type of the matrix products."""
    return Weights(*(part.to(dtype) for part in w))


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
    candidates = (best[:, None, :] + shift[None, :, None]).flatten(1)
    values, place = pre.gather(1, candidates).topk(k, sorted=False)
    return values, candidates.gather(1, place)


def batch_top_k(pre: torch.Tensor, n: int) -> torch.Tensor:
    """Places of the n largest of all of ``pre``, flattened: [n], rising.

    ``pre``: [batch, d_sae]; place = token * d_sae + latent. Which of
    several equal values is taken is open.
    """
    return pre.flatten().topk(n, sorted=False)[1].sort()[0]


def encode_topk(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ReLU(TopK_k((x - b_dec) W_enc + b_enc)): values, indices [batch, k].

    ``low``: the weights in ``dtype``, where they are at hand.
    """
    low = low or lowered(w, dtype)
    centred = (x - w.b_dec).to(dtype)
    found = [
        top_k(torch.addmm(low.b_enc, part, low.W_enc), k)
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
    low: Weights | None = None,
) -> Result:
    """Loss mean_B ||x_hat - x||^2 of a TopK SAE and its gradients.

    ``x``: [batch, d_in], float32; ``low`` as in ``encode_topk``.
    """
    values, indices = encode_topk(x, w, k, dtype, low)
    ends = torch.arange(0, indices.numel() + 1, k, device=x.device)
    codes = Codes(ends, indices.flatten(), values.flatten())
    return sparse_step(x, w, codes, dtype, low)


def sparse_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> Result:
    """Loss mean_B ||x_hat - x||^2 and its gradients for given codes.

    For every SAE whose listed codes equal their pre-activations where
    positive. All sparse: the decoder sums the listed rows of each token;
    the weights' gradients sum, for each latent, over the tokens that it is
    active on (found by one sort of the indices).
    """
    values = codes.values.detach().requires_grad_()
    d_sae = len(w.W_dec)
    with torch.enable_grad():
        sums = embedding_bag(
            codes.indices.long(),
            w.W_dec,
            codes.offsets,
            per_sample_weights=values,
            mode="sum",
            include_last_offset=True,
        )
    error = sums.detach() + w.b_dec - x
    slope = error * (2 / len(x))
    (d_values,) = torch.autograd.grad(sums, values, slope)
    values = values.detach()
    d_values = d_values * (values > 0)
    by_latent = _transpose(codes, d_sae)
    d_b_enc = _sum_by(codes.indices, d_values, d_sae)
    gradients = Weights(
        W_enc=_gather(by_latent, x - w.b_dec, d_values).T,
        b_enc=d_b_enc,
        W_dec=_gather(by_latent, slope, values),
        b_dec=slope.sum(0) - w.W_enc @ d_b_enc,
    )
    firings = _sum_by(codes.indices, (values > 0).float(), d_sae)
    return Result(error, firings, gradients)


def relu_step(
    x: torch.Tensor,
    w: Weights,
    l1: float,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> Result:
    """Loss mean_B (||x_hat - x||^2 + l1 sum_i f_i) and its gradients.

    ``x``: [batch, d_in], float32; f = ReLU((x - b_dec) W_enc + b_enc);
    ``low`` as in ``encode_topk``. Each slice of the batch goes forward and
    backward before the next.
    """
    low = low or lowered(w, dtype)
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


class Adam:
    """torch.optim.Adam that keeps decoder rows unit.

    ``parameters``: name -> tensor, changed in place. For those named in
    ``unit_rows`` each step is project -> step -> renormalise: the
    gradient's component along a row is removed before Adam sees it, and the
    row made unit after. ``low`` holds the four ``Weights`` in ``dtype``,
    up to date after each step (None in float32: no copy is needed).
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        dtype: torch.dtype = torch.float32,
        unit_rows: tuple[str, ...] = ("W_dec",),
    ):
        self.parameters, self.unit_rows = dict(parameters), unit_rows
        self.betas, self.steps = betas, 0
        kept = list(self.parameters.values())
        self.adam = torch.optim.Adam(kept, betas=betas, fused=True)
        for parameter in kept:
            state = self.adam.state[parameter]
            state["step"] = torch.zeros((), device=parameter.device)
            for name in MOMENTS:
                state[name] = torch.zeros_like(parameter.detach())
        self.low = None
        if dtype != torch.float32:
            self.low = lowered(self._weights(), dtype)

    @torch.no_grad()
    def step(self, lr: float, gradients: Mapping | Weights) -> None:
        """Take one step; ``gradients`` has one tensor a parameter."""
        if isinstance(gradients, tuple):
            gradients = gradients._asdict()
        self._update(lr, gradients)
        self.steps += 1

    def moments(self, name: str) -> dict[str, torch.Tensor]:
        """``exp_avg`` and ``exp_avg_sq``, shaped as the parameter.

        Written in place to reset rows, as resampling does.
        """
        state = self.adam.state[self.parameters[name]]
        return {moment: state[moment] for moment in MOMENTS}

    @torch.no_grad()
    def refresh(self) -> None:
        """Renew ``low`` after someone else changed the parameters."""
        if self.low:
            for low, full in zip(self.low, self._weights(), strict=True):
                low.copy_(full)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds: resuming from it changes no bit."""
        state = {"step": torch.tensor(self.steps)}
        for name in self.parameters:
            for moment, value in self.moments(name).items():
                state[f"{moment}.{name}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from ``state_dict``; the parameters are restored before."""
        self.steps = int(state["step"])
        for name in self.parameters:
            for moment, value in self.moments(name).items():
                value.copy_(state[f"{moment}.{name}"])
        self.refresh()

    def _weights(self) -> Weights:
        found = (self.parameters[name].detach() for name in Weights._fields)
        return Weights(*found)

    def _update(self, lr: float, gradients: Mapping) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = _laid_out_as(parameter, gradients[name])
            if name in self.unit_rows:
                along = torch.linalg.vecdot(parameter.grad, parameter)
                parameter.grad = parameter.grad.addcmul(
                    along[:, None], parameter, value=-1
                )
            self.adam.state[parameter]["step"].fill_(self.steps)
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        for name in self.unit_rows:
            rows = self.parameters[name]
            rows.div_(torch.linalg.vector_norm(rows, dim=1)[:, None])
        self.refresh()


def _laid_out_as(
    like: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """The gradient with strides that the fused Adam reads correctly."""
    if gradient.stride() == like.stride():
        return gradient
    return torch.empty_like(like).copy_(gradient)


class _Transposed(NamedTuple):
    """Where each latent is active: codes read by latent."""

    order: torch.Tensor  # [entries], entries sorted by latent
    tokens: torch.Tensor  # [entries], the token of each sorted entry
    starts: torch.Tensor  # [d_sae], where each latent's entries begin


def _transpose(codes: Codes, d_sae: int) -> _Transposed:
    indices = codes.indices.to(torch.int32)
    order = indices.argsort(stable=True)
    counts = torch.bincount(indices, minlength=d_sae)
    per_token = codes.offsets.diff()
    tokens = torch.arange(len(per_token), device=indices.device)
    tokens = tokens.repeat_interleave(per_token)[order]
    return _Transposed(order, tokens, counts.cumsum(0) - counts)


def _gather(
    where: _Transposed, rows: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """For each latent, sum_tokens weight * row: [d_sae, d_in]."""
    return embedding_bag(
        where.tokens,
        rows,
        where.starts,
        per_sample_weights=weights[where.order],
        mode="sum",
    )


def _sum_by(
    indices: torch.Tensor, values: torch.Tensor, d_sae: int
) -> torch.Tensor:
    """Sum of the values that fall on each latent: [d_sae]."""
    zeros = torch.zeros(d_sae, device=values.device)
    return zeros.index_add_(0, indices, values)
