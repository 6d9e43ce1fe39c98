"""The loop: batches of activations, gradients, project, step, renormalise.

Decoder rows stay unit by project -> step -> renormalise. Nothing waits for
the device, but for one line of log every ``log_every`` steps. Over several
ranks each takes its slice of every batch, and gradients are added up.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping

import torch

from helpers import kernels, ranks, sae
from helpers.devices import find_precision
from helpers.errors import InputError
from helpers.train.checkpoint import Checkpoints, Run
from helpers.train.guard import keeping
from helpers.train.meter import Meter
from helpers.train.resampling import Resampler
from helpers.train.settings import Settings, learning_rate
from helpers.train.start import SAMPLE, geometric_median, unit_scale

Batches = Iterable[torch.Tensor] | Callable[[int], Iterable[torch.Tensor]]


def fit(
    model: sae.SAE,
    batches: Batches,
    settings: Settings,
    kept: Checkpoints | None = None,
) -> list[dict]:
    """Set scale and pre-bias from the first batches, then ``train``."""
    if kept and kept.state:
        return train(model, batches, settings, kept=kept)
    found = iter(batches(0) if callable(batches) else batches)
    first = list(itertools.islice(found, min(SAMPLE, settings.steps)))
    sample = torch.cat(first).float()
    scale = unit_scale(sample)
    with torch.no_grad():
        model.b_dec.copy_(geometric_median(sample * scale))
    return train(model, itertools.chain(first, found), settings, scale, kept)


def train(
    model: sae.SAE,
    batches: Batches,
    settings: Settings,
    scale: float = 1.0,
    kept: Checkpoints | None = None,
) -> list[dict]:
    """Train an SAE in place on ``[batch, d_in]`` activations; the log.

    ``batches``: all of them, or a function that gives those from the n-th
    on. ``scale`` multiplies each batch; it is folded back at the end, so
    that the SAE takes raw activations. A line of log holds step, tokens,
    lr, fvu (share of variance not explained), l0 and dead (share of
    latents), over the batches since the line before. With ``kept`` the run
    goes on from its last checkpoint, to the same weights. InputError on a
    loss that breaks, or if the batches end before the budget.
    """
    run, resampler = _begin(model, settings, scale, kept)
    dtype, meter = find_precision(model.W_dec.device), run.meter
    source = resampler.read(batches, run.step)
    with keeping(run, kept) as keeper:
        for x in itertools.islice(source, settings.steps - run.step):
            x = x.to(model.W_dec) * run.scale
            part = ranks.share(x)
            result = model.gradients(part, dtype)
            set_gradients(model, result.gradients, len(part) / len(x))
            if len(meter.dead) and settings.aux:
                aux_loss(model, part, result.error, meter, settings).backward()
            ranks.add([weight.grad for weight in model.parameters()])
            project_gradient(model)
            run.adam.param_groups[0]["lr"] = learning_rate(run.step, settings)
            run.adam.step()
            renormalise(model)
            meter.update(part, result, len(x))
            resampler.after_step(run)
            keeper.after_step(meter.line() if meter.is_due else None)
    if run.step < settings.steps:
        raise InputError(
            f"the activations ended after {run.step} of {settings.steps} "
            "steps; give more text or ask for fewer activations"
        )
    model.fold_scale(run.scale)
    return run.log


def _begin(
    model: sae.SAE,
    settings: Settings,
    scale: float,
    kept: Checkpoints | None,
) -> tuple[Run, Resampler]:
    """A run at its first step, or where its last checkpoint stands."""
    if settings.batch < ranks.count():
        raise InputError(
            f"a batch of {settings.batch} cannot be shared by "
            f"{ranks.count()} ranks; make it larger"
        )
    adam = torch.optim.Adam(
        model.parameters(), lr=settings.lr, betas=settings.betas, fused=True
    )
    run = Run(model, adam, Meter(model, settings), scale)
    if kept and kept.state:
        run.restore(kept.state)
        del kept.state  # as large as the run itself
    if hasattr(model, "gather"):  # it selects over the whole batch
        model.gather = ranks.gather
    return run, Resampler(model, settings)


def set_gradients(
    model: sae.SAE,
    gradients: kernels.Weights | Mapping[str, torch.Tensor],
    weight: float = 1.0,
) -> None:
    """Give each parameter its gradient, times ``weight``.

    ``weight``: the share of the batch that the gradients are the mean over.
    Each takes its parameter's layout, which PyTorch's fused Adam assumes.
    """
    if hasattr(gradients, "_asdict"):
        gradients = gradients._asdict()
    for name, gradient in gradients.items():
        parameter = getattr(model, name)
        if weight != 1:
            gradient = gradient * weight
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


@torch.no_grad()
def project_gradient(model: sae.SAE) -> None:
    """Remove what would change the length of a decoder row.

    Done before the step, so that Adam's moments never hold it.
    """
    gradient, rows = model.W_dec.grad, model.W_dec
    along = torch.linalg.vecdot(gradient, rows)
    gradient.addcmul_(along[:, None], rows, value=-1)


@torch.no_grad()
def renormalise(model: sae.SAE) -> None:
    """Make each decoder row unit again."""
    model.W_dec.div_(torch.linalg.vector_norm(model.W_dec, dim=1)[:, None])


def aux_loss(
    model: sae.SAE,
    x: torch.Tensor,
    error: torch.Tensor,
    meter: Meter,
    settings: Settings,
) -> torch.Tensor:
    """AuxK (Gao et al. 2024): dead latents rebuild what is left over.

    The top ``aux_k`` of the dead latents predict x - x_hat; the squared
    error is relative to that of predicting nothing, and weighs ``aux``
    times the variance of x. Both sides are per token, summed over d_in, and
    over the batches of all ranks: their losses add up to the one loss.
    """
    rows = meter.dead
    encoder, decoder = model.W_enc.T[rows], model.W_dec[rows]
    pre = (x - model.b_dec) @ encoder.T + model.b_enc[rows]
    values, indices = kernels.top_k(pre, min(settings.aux_k, len(rows)))
    codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
    whole = error.pow(2).sum()
    ranks.add([whole])
    left = (codes @ decoder + error).pow(2).sum() / whole
    return torch.nan_to_num(left) * (settings.aux * variance(x))


def variance(x: torch.Tensor) -> torch.Tensor:
    """Mean squared distance from the mean, over the slices of all ranks."""
    mean, count = x.sum(0), torch.tensor([float(len(x))], device=x.device)
    ranks.add([mean, count])
    square = (x - mean / count).pow(2).sum()
    ranks.add([square])
    return square / count[0]
