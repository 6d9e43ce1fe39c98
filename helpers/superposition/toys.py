"""Toy models of superposition, many at once (Elhage et al. 2022).

A toy keeps n features in m < n numbers: h = W^T x, x' = f(W h + b), where W
is [n, m] (row i is where feature i is kept), and f is a ReLU or nothing
("linear"). Feature i is absent with probability S and else uniform on
[0, 1]; its squared error counts ``importance[i]``.

All toys are trained as one batched tensor, by gradients that are worked out
by hand. Every condition (density 1 - S, importances) and both outputs share
the first weights and the random numbers of their seed, so that what differs
between them is due to the condition; seeds share nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from helpers.devices import find_device
from helpers.errors import InputError, unknown
from helpers.progress import track

OUTPUTS = "relu", "linear"
REPORT_EVERY = 50  # steps between two signs of progress
# Numbers of x that are worked on at once: three such buffers then stay in
# the cache of a core. On a GPU everything is worked on at once.
SLICE = 210_000
FRESH = 10**6  # the seed of samples that no toy was trained on


class Toys(NamedTuple):
    """Trained toys: see the module for what the letters mean."""

    W: torch.Tensor  # [outputs, conditions, seeds, n, m]
    b: torch.Tensor  # [outputs, conditions, seeds, n]


def geometric(count: int, decay: float) -> torch.Tensor:
    """Importances that fall by one factor: decay ** i, [count]."""
    return decay ** torch.arange(count, dtype=torch.float32)


def train(
    densities: Sequence[float],
    importance: torch.Tensor,
    hidden: int,
    *,
    outputs: Sequence[str] = OUTPUTS,
    seeds: Sequence[int] = range(5),
    steps: int = 10_000,
    batch: int = 1024,
    lr: float = 1e-3,
) -> Toys:
    """Train one toy for each output, condition and seed.

    ``densities``: 1 - S of each condition; ``importance``: [n], or
    [conditions, n]. As in the paper's notebook: AdamW with PyTorch's
    defaults, the loss a mean over samples and features; W is drawn normal
    with Xavier's variance 2 / (n + m), b is zero. A toy does not depend on
    which others are trained with it, but for rounding.

    Raises InputError for a density outside (0, 1], an unknown output, or
    weights that stop being numbers.
    """
    _check(densities, outputs)
    device = find_device()
    density = _tensor(densities).to(device)
    importance = importance.to(device).expand(len(density), -1)
    n = importance.shape[1]
    weights = _first(n, hidden, seeds).to(device)
    weights = weights.repeat(len(outputs), len(density), 1, 1, 1)
    adam = torch.optim.AdamW([weights], lr=lr, fused=True)
    batches = draw(n, batch, seeds)
    with one_thread(), track("training toys", steps) as progress:
        for step in range(1, steps + 1):
            uniform = next(batches).to(device)
            weights.grad = gradients(
                weights, uniform, density, importance, outputs
            )
            adam.step()
            if step % REPORT_EVERY == 0:
                progress.update(REPORT_EVERY)
    if not weights.isfinite().all():
        raise InputError(f"the toys diverged at lr={lr}; give a lower one")
    weights = weights.cpu()
    return Toys(weights[..., :-1].contiguous(), weights[..., -1].contiguous())


def draw(n: int, batch: int, seeds: Sequence[int]) -> Iterator[torch.Tensor]:
    """Endless uniform numbers, [seeds, n, batch], a generator a seed.

    The tensor is overwritten by the next one.
    """
    random = [torch.Generator().manual_seed(2 * seed + 1) for seed in seeds]
    uniform = torch.empty(len(seeds), n, batch)
    while True:
        for part, generator in zip(uniform, random, strict=True):
            part.uniform_(generator=generator)
        yield uniform


def sparse(uniform: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Features from uniform numbers: [seeds, n, batch] -> [conditions, ...].

    Present where u > S; (u - S) / (1 - S) is then again uniform on [0, 1],
    so that one number decides both presence and value.
    """
    density = density.view(-1, 1, 1, 1)
    x = torch.addcmul(1 - 1 / density, uniform, 1 / density)
    return x.relu_()


def gradients(
    weights: torch.Tensor,
    uniform: torch.Tensor,
    density: torch.Tensor,
    importance: torch.Tensor,
    outputs: Sequence[str] = OUTPUTS,
) -> torch.Tensor:
    """Gradients of the losses, of the shape of ``weights``.

    ``weights``: [outputs, conditions, seeds, n, m + 1], W with b as its
    last column; ``uniform``: [seeds, n, batch], see ``sparse``;
    ``density``: [conditions]; ``importance``: [conditions, n].
    """
    found = torch.empty_like(weights)
    step = max(1, SLICE // uniform.numel())
    if weights.is_cuda:
        step = len(density)
    seeds, n, batch = uniform.shape
    for start in range(0, len(density), step):
        part = slice(start, start + step)
        x = sparse(uniform, density[part]).view(-1, n, batch)
        scale = (2 / (n * batch)) * importance[part]
        scale = scale.repeat_interleave(seeds, 0)[:, :, None]
        for index, output in enumerate(outputs):
            gradient = _relu if output == "relu" else _linear
            flat = weights[index, part].flatten(0, 1)
            found[index, part].flatten(0, 1).copy_(gradient(flat, x, scale))
    return found


def _relu(weights, x, scale):
    """[models, n, m + 1] of the loss sum(scale / 2 * (relu(Wh + b) - x)^2).

    Where the ReLU is off the gradient is zero; where it is on, relu(z) - x
    is z - x.
    """
    W = weights[..., :-1]
    h = x.new_ones(len(x), weights.shape[-1], x.shape[-1])
    h[:, :-1] = torch.bmm(W.mT, x)
    z = torch.bmm(weights, h)
    error = z - x
    torch.ops.aten.threshold_backward.grad_input(
        error, z, 0, grad_input=error
    )
    gradient = scale * torch.bmm(error, h.mT)  # by the output, and to b
    back = torch.bmm((scale * W).mT, error)  # [models, m, batch]
    gradient[..., :-1] += torch.bmm(x, back.mT)
    return gradient


def _linear(weights, x, scale):
    """The same without the ReLU, from the moments sum(x x^T) and sum(x).

    The error is (W W^T - 1) x + b, so that the moments are all that the
    gradient needs of the batch.
    """
    W, b = weights[..., :-1], weights[..., -1:]
    second, first = torch.bmm(x, x.mT), x.sum(2, keepdim=True)
    M = W @ W.mT
    M.diagonal(dim1=1, dim2=2).sub_(1)
    outer = scale * (M @ second + b @ first.mT)  # of error and x
    to_b = scale * (M @ first + x.shape[-1] * b)
    return torch.cat([(outer + outer.mT) @ W, to_b], dim=2)


def losses(
    toys: Toys,
    densities: Sequence[float],
    importance: torch.Tensor,
    outputs: Sequence[str] = OUTPUTS,
    batches: int = 100,
    batch: int = 1024,
) -> torch.Tensor:
    """Mean loss on fresh samples: [outputs, conditions, seeds].

    A mean over samples and features, as in training; the samples are the
    same for all toys of a condition.
    """
    outputs_of, conditions, seeds, n, _ = toys.W.shape
    importance = importance.expand(conditions, -1)[:, None, :, None]
    density = _tensor(densities)
    source = draw(n, batch, [FRESH])
    total = torch.zeros(outputs_of, conditions, seeds)
    for _ in range(batches):
        x = sparse(next(source), density)
        for index, output in enumerate(outputs):
            W, b = toys.W[index], toys.b[index]
            back = W @ (W.mT @ x) + b[..., None]
            if output == "relu":
                back.relu_()
            total[index] += (importance * (back - x).pow(2)).mean((2, 3))
    return total / batches


@contextmanager
def one_thread() -> Iterator[None]:
    """No operation of a toy is large enough to be worth sharing out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first(n: int, hidden: int, seeds: Sequence[int]) -> torch.Tensor:
    """The first weights, [seeds, n, m + 1]."""
    first = torch.zeros(len(seeds), n, hidden + 1)
    deviation = (2 / (n + hidden)) ** 0.5
    for part, seed in zip(first, seeds, strict=True):
        random = torch.Generator().manual_seed(2 * seed)
        part[:, :-1].normal_(0, deviation, generator=random)
    return first


def _tensor(values: Sequence[float]) -> torch.Tensor:
    """Whatever kind of numbers they are, in single precision."""
    return torch.tensor(list(values), dtype=torch.float32)


def _check(densities: Sequence[float], outputs: Sequence[str]) -> None:
    for density in densities:
        if not 0 < density <= 1:
            raise InputError(
                f"a density must lie above 0 and be at most 1, not {density}"
            )
    for output in outputs:
        if output not in OUTPUTS:
            raise unknown("output", output, OUTPUTS)
