"""The loop: batches of activations, gradients, project, step, renormalise.

Decoder rows stay unit by project -> step -> renormalise. Nothing waits for
the device, but for one line of log every ``log_every`` steps. Over several
ranks each takes its slice of every batch, and gradients are added up.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

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
Named = Mapping[str, torch.Tensor]  # batches of one text, by hook point


class Job(NamedTuple):
    """One SAE to train, perhaps among several."""

    model: sae.SAE
    settings: Settings
    kept: Checkpoints | None = None


def fit(
    model: sae.SAE,
    batches: Batches,
    settings: Settings,
    kept: Checkpoints | None = None,
) -> list[dict]:
    """Set scale and pre-bias from the first batches, then ``train``."""
    job = Job(model, settings, kept)
    return fit_together([job], _named(model, batches))[0]


def fit_together(
    jobs: Sequence[Job],
    batches: Iterable[Named] | Callable[[int], Iterable[Named]],
) -> list[list[dict]]:
    """``fit`` several SAEs on one stream of activations; their logs.

    Each ends with the weights that it has when trained alone. Their
    settings may differ in all but ``batch``. Raises InputError as ``train``.
    """
    fresh = [job for job in jobs if not (job.kept and job.kept.state)]
    scales = {}
    if fresh:
        found = iter(batches(0) if callable(batches) else batches)
        steps = max(job.settings.steps for job in fresh)
        first = list(itertools.islice(found, min(SAMPLE, steps)))
        scales = {id(job.model): _start(job, first) for job in fresh}
        batches = itertools.chain(first, found)
        del first
    runs = [_begin(*job, scales.get(id(job.model), 1.0)) for job in jobs]
    train_together(runs, batches)
    return [run.log for run in runs]


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
    run = _begin(model, settings, kept, scale)
    train_together([run], _named(model, batches))
    return run.log


def train_together(
    runs: Sequence[Run],
    batches: Iterable[Named] | Callable[[int], Iterable[Named]],
) -> None:
    """Bring each run to its last step, all on the same batches.

    They may stand at different steps: a batch is left out by those that
    have it behind them.
    """
    draw = {id(r): Resampler(r.model, r.settings) for r in runs}
    first = min(draw[id(run)].first_needed(run.step) for run in runs)
    found = batches(first) if callable(batches) else batches
    source = itertools.islice(found, 0 if callable(batches) else first, None)
    last = max(run.settings.steps for run in runs)
    with keeping(runs) as keeper:
        for place, named in zip(range(first, last), source, strict=False):
            for run in keeper.each():
                x = named[run.model.hook_point]
                draw[id(run)].see(place, x)
                if run.step == place < run.settings.steps:
                    take_step(run, x)
                    draw[id(run)].after_step(run)
                    keeper.after_step()
            keeper.after_batch()
    for run in runs:
        if run.step < run.settings.steps:
            raise InputError(
                f"the activations ended after {run.step} of "
                f"{run.settings.steps} steps; give more text or ask for "
                "fewer activations"
            )
        run.model.fold_scale(run.scale)


def take_step(run: Run, x: torch.Tensor) -> None:
    """One step on a batch of raw activations, [batch, d_in].

    Each rank takes its slice; the gradients are means over it, and their
    weighted sum the mean over the batch.
    """
    model, meter, settings = run.model, run.meter, run.settings
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


def _named(model: sae.SAE, batches: Batches):
    """Batches of one hook point, as those of several come."""
    name = model.hook_point
    if callable(batches):
        return lambda start: ({name: x} for x in batches(start))
    return ({name: x} for x in batches)


@torch.no_grad()
def _start(job: Job, first: Sequence[Named]) -> float:
    """Put the pre-bias where the first batches are; their scale."""
    some = first[: min(SAMPLE, job.settings.steps)]
    sample = torch.cat([x[job.model.hook_point] for x in some]).float()
    scale = unit_scale(sample)
    job.model.b_dec.copy_(geometric_median(sample * scale))
    return scale


def _begin(
    model: sae.SAE,
    settings: Settings,
    kept: Checkpoints | None,
    scale: float,
) -> Run:
    """A run at its first step, or where its last checkpoint stands."""
    if settings.batch < ranks.count():
        raise InputError(
            f"a batch of {settings.batch} cannot be shared by "
            f"{ranks.count()} ranks; make it larger"
        )
    adam, meter = optimiser(model, settings), Meter(model, settings)
    run = Run(model, adam, meter, scale, kept=kept)
    if kept and kept.state:
        run.restore(kept.state)
        del kept.state  # as large as the run itself
    if hasattr(model, "gather"):  # it selects over the whole batch
        model.gather = ranks.gather
    return run


def optimiser(model: sae.SAE, settings: Settings) -> kernels.adam.Adam:
    """Adam that keeps decoder rows unit (project -> step -> renormalise)
    and ``low``, the matrices in the precision of the products."""
    parameters = dict(model.named_parameters())
    dtype = find_precision(model.W_dec.device)
    unit = ("W_dec",) if model.is_unit_decoder else ()
    return kernels.Adam(parameters, settings.betas, dtype, unit)
