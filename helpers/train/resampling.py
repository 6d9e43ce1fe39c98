"""Neuron resampling of *Towards Monosemanticity*: dead latents anew.

At four steps early in the run each latent that did not fire in the last
half interval takes the direction of an input that the SAE rebuilds badly.
The text is followed as it stands: the decoder row is the picked input
itself, unit-normed (``b_dec`` is not taken off first), and each input is
picked once at most.
"""

from collections import deque

import torch

from helpers import ranks, sae
from helpers.train.checkpoint import Run
from helpers.train.settings import Settings

SHARE = 1e-4  # of the run's inputs that the loss is taken on (819,200 of 8e9)
BATCHES = 8  # at least, so that a short run has inputs to pick from
SMALL = 0.2  # norm of a new encoder, by the mean of the living
SLICE = 2048  # inputs whose codes are held at once


class Resampler:
    """When to resample, and the inputs seen just before.

    The inputs are not part of a checkpoint: a run that goes on is shown the
    batches from ``first_needed`` on again.
    """

    def __init__(self, model: sae.SAE, settings: Settings):
        self.seed, self.batch = settings.seed, settings.batch
        self.steps, self.window = [], 0
        if isinstance(model, sae.L1SAE) and settings.resample:
            first = settings.resample[0] * settings.steps
            self.window = round(first / 2)
        if self.window:
            self.steps = [
                round(share * settings.steps) for share in settings.resample
            ]
        size = max(round(SHARE * settings.steps), BATCHES)
        self.inputs: deque = deque(maxlen=min(size, max(self.window, 1)))

    def first_needed(self, start: int) -> int:
        """Where a run that goes on at batch ``start`` begins to read."""
        length = self.inputs.maxlen
        wanted = [step - length for step in self.steps if step > start]
        return max(min([start, *wanted]), 0)

    def see(self, place: int, x: torch.Tensor) -> None:
        """Remember the batch at ``place`` of the stream, if it is wanted."""
        if any(0 < at - place <= self.inputs.maxlen for at in self.steps):
            self.inputs.append(x)

    def after_step(self, run: Run) -> None:
        """Resample if the step just done is one of those."""
        if run.step in self.steps:
            inputs = torch.cat(list(self.inputs)).to(run.model.W_dec)
            random = torch.Generator()
            random.manual_seed(self.seed * 2**32 + run.step)
            resample(
                run, inputs * run.scale, self.window * self.batch, random
            )
            self.inputs.clear()


@torch.no_grad()
def resample(
    run: Run, inputs: torch.Tensor, window: int, random: torch.Generator
) -> None:
    """Give each latent silent for ``window`` tokens the direction of an
    input ([n, d_in], scaled), drawn in proportion to its squared loss."""
    dead = ranks.least(run.meter.silent) >= window
    chances = input_losses(run.model, inputs).double().pow(2)
    chances *= inputs.any(1)  # nothing has no direction
    count = min(int(dead.sum()), int((chances > 0).sum()))
    if count:
        picked = torch.multinomial(chances.cpu(), count, generator=random)
        rows = dead.nonzero().flatten()[:count]
        replace(run.model, rows, inputs[picked.to(inputs.device)], dead)
        forget(run, rows)


def input_losses(model: sae.L1SAE, inputs: torch.Tensor) -> torch.Tensor:
    """The training loss on each input: [n, d_in] -> [n]."""
    found = []
    for x in ranks.share(inputs).split(SLICE):
        f = model.encode(x)
        error = (model.decode(f) - x).pow(2).sum(1)
        found.append(error + model.l1 * f.sum(1))
    return ranks.join(torch.cat(found), len(inputs))


@torch.no_grad()
def replace(
    model: sae.SAE,
    rows: torch.Tensor,
    inputs: torch.Tensor,
    dead: torch.Tensor,
) -> None:
    """Point latents ``rows`` [n] at inputs [n, d_in]; ``dead`` [d_sae]."""
    unit = inputs / torch.linalg.vector_norm(inputs, dim=1)[:, None]
    norms = torch.linalg.vector_norm(model.W_enc, dim=0)
    living = norms if dead.all() else norms[~dead]
    model.W_dec[rows] = unit
    model.W_enc[:, rows] = (unit * SMALL * living.mean()).T
    model.b_enc[rows] = 0


def forget(run: Run, rows: torch.Tensor) -> None:
    """Start the moments of these latents' weights, and their age, anew."""
    for moment in run.adam.moments("W_dec").values():
        moment[rows] = 0
    for moment in run.adam.moments("W_enc").values():
        moment[:, rows] = 0
    for moment in run.adam.moments("b_enc").values():
        moment[rows] = 0
    run.adam.refresh()
    run.meter.silent[rows] = 0
