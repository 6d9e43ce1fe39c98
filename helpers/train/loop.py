"""The loop: batches of activations, gradients, project, step, renormalise.

Decoder rows stay unit by project -> step -> renormalise. Nothing waits for
the device, but for one line of log every ``log_every`` steps. Over several
ranks each takes its slice of every batch, and gradients are added up.
"""

import itertools
from collections.abc import Callable, Iterable

import torch

from helpers import kernels, ranks, sae
from helpers.devices import find_precision
from helpers.errors import InputError
from helpers.train.checkpoint import Checkpoints, Run
from helpers.train.guard import keeping
from helpers.train.meter import Meter
from helpers.train.resampling import Resampler
from helpers.train.revival import add_aux_gradients
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
    source = resampler.read(batches, run.step)
    with keeping(run, kept) as keeper:
        for x in itertools.islice(source, settings.steps - run.step):
            take_step(run, x)
            resampler.after_step(run)
            keeper.after_step(run.meter.line() if run.meter.is_due else None)
    if run.step < settings.steps:
        raise InputError(
            f"the activations ended after {run.step} of {settings.steps} "
            "steps; give more text or ask for fewer activations"
        )
    model.fold_scale(run.scale)
    return run.log


def take_step(run: Run, x: torch.Tensor) -> None:
    """One step on a batch of raw activations, [batch, d_in].

    Each rank takes its slice; the gradients are means over it, and their
    weighted sum the mean over the batch.
    """
    model, meter, settings = run.model, run.meter, run.meter.settings
    x = x.to(model.W_dec) * run.scale
    part = ranks.share(x)
    dtype = find_precision(x.device)
    result = model.gradients(part, dtype, run.adam.low)
    if len(part) < len(x):
        for gradient in result.gradients:
            gradient.mul_(len(part) / len(x))
    if len(meter.dead) and settings.aux:
        add_aux_gradients(model, part, result, meter.dead, settings, dtype)
    ranks.add(result.gradients)
    run.adam.step(learning_rate(run.step, settings), result.gradients)
    meter.update(part, result, len(x))


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
    run = Run(model, optimiser(model, settings), Meter(model, settings), scale)
    if kept and kept.state:
        run.restore(kept.state)
        del kept.state  # as large as the run itself
    if hasattr(model, "gather"):  # it selects over the whole batch
        model.gather = ranks.gather
    return run, Resampler(model, settings)


def optimiser(model: sae.SAE, settings: Settings) -> kernels.reference.Adam:
    """Adam that keeps decoder rows unit: project -> step -> renormalise.

    It keeps ``low``, the weights in the precision of the products, for the
    architectures that have all four of them.
    """
    parameters = dict(model.named_parameters())
    common = set(kernels.Weights._fields) <= set(parameters)
    dtype = find_precision(model.W_dec.device) if common else torch.float32
    unit = ("W_dec",) if model.is_unit_decoder else ()
    return kernels.Adam(parameters, settings.betas, dtype, unit)
