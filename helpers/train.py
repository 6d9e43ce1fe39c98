"""The training loop of the sparse autoencoders, on one screen.

``make_sae`` is the stage; ``train`` is the loop: batches of activations, an
SAE that works out its gradients, a schedule. Decoder rows stay unit by
project -> step -> renormalise. Nothing waits for the device, but for one
line of log every ``log_every`` steps.
"""

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers import activations, artifacts, kernels, paths, sae
from helpers.devices import find_precision
from helpers.errors import InputError, unknown
from helpers.progress import track

LOG = "log.jsonl"
SAMPLE = 8  # batches that set the activation scale and the pre-bias


@dataclass(frozen=True)
class Settings:
    """How to train; budgets are counted in activations seen."""

    activations: int = 3_000_000
    batch: int = 4096  # tokens in a step
    lr: float = 3e-3  # Adam's, at the top of the schedule
    betas: tuple[float, float] = (0.9, 0.999)
    warm_up: float = 0.05  # share of the steps over which lr rises from 0
    decay: float = 0.2  # share of the steps over which lr falls to 0
    dead_after: int = 250_000  # tokens without firing that make a latent dead
    aux: float = 1 / 32  # weight of AuxK (TopK only; Gao et al.), 0 for none
    aux_k: int = 256  # dead latents that AuxK lets rebuild the error
    log_every: int = 20  # steps between two lines of log

    @property
    def steps(self) -> int:
        return max(self.activations // self.batch, 1)


def train(
    model: sae.SAE,
    batches: Iterable[torch.Tensor],
    settings: Settings,
    scale: float = 1.0,
) -> list[dict]:
    """Train an SAE in place on ``[batch, d_in]`` activations; the log.

    ``scale`` multiplies each batch; it is folded back at the end, so that
    the SAE takes raw activations. A line of log holds step, tokens, lr, fvu
    (share of variance not explained), l0 and dead (share of latents), over
    the batches since the line before. InputError on a loss that is not
    finite, or if the batches end before the budget.
    """
    dtype = find_precision(model.W_dec.device)
    adam = torch.optim.Adam(
        model.parameters(), lr=settings.lr, betas=settings.betas, fused=True
    )
    meter, log, step = Meter(model, settings), [], 0
    with track(f"training {model.architecture}", settings.activations) as bar:
        for step, x in enumerate(itertools.islice(batches, settings.steps)):
            x = x.float() * scale
            result = model.gradients(x, dtype)
            set_gradients(model, result.gradients)
            if len(meter.dead) and settings.aux:
                aux_loss(model, x, result.error, meter, settings).backward()
            project_gradient(model)
            adam.param_groups[0]["lr"] = learning_rate(step, settings)
            adam.step()
            renormalise(model)
            meter.update(x, result)
            if meter.is_due(step):
                log.append(meter.line(step))
                bar.update(meter.tokens - bar.done, _note(log[-1]))
    if step + 1 < settings.steps:
        raise InputError(
            f"the activations ended after {step + 1} of {settings.steps} "
            "steps; give more text or ask for fewer activations"
        )
    model.fold_scale(scale)
    return log


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, constant, linear decay to zero after the last step."""
    rise = (step + 1) / max(settings.warm_up * settings.steps, 1)
    fall = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return settings.lr * min(rise, 1.0, fall)


def set_gradients(model: sae.SAE, gradients: kernels.Weights) -> None:
    """Give each parameter its gradient."""
    for name, gradient in gradients._asdict().items():
        getattr(model, name).grad = gradient


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
    meter: "Meter",
    settings: Settings,
) -> torch.Tensor:
    """AuxK (Gao et al. 2024): dead latents rebuild what is left over.

    The top ``aux_k`` of the dead latents predict x - x_hat; the squared
    error is relative to that of predicting nothing, and weighs ``aux``
    times the variance of x. Both sides are per token, summed over d_in.
    """
    rows = meter.dead
    encoder, decoder = model.W_enc.T[rows], model.W_dec[rows]
    pre = (x - model.b_dec) @ encoder.T + model.b_enc[rows]
    values, indices = kernels.top_k(pre, min(settings.aux_k, len(rows)))
    codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
    left = (codes @ decoder + error).pow(2).sum() / error.pow(2).sum()
    weight = settings.aux * x.var(0, correction=0).sum()
    return torch.nan_to_num(left) * weight


class Meter:
    """Counts on the device: error, L0, and how long each latent is silent.

    ``dead`` [n] lists the latents silent for ``dead_after`` tokens; it is
    brought up to date with each line of log, the only moment that waits for
    the device.
    """

    def __init__(self, model: sae.SAE, settings: Settings):
        self.settings, self.tokens = settings, 0
        self.silent = torch.zeros_like(model.b_enc)
        self.revives = model.architecture == sae.TopKSAE.architecture
        self.dead = torch.empty(0, dtype=torch.long)
        self._clear(model.b_dec)

    def update(self, x: torch.Tensor, result: kernels.Result) -> None:
        """Take in one step."""
        self.tokens += len(x)
        self.silent.add_(len(x)).mul_(result.firings == 0)
        self.sums += torch.stack(
            [result.error.pow(2).sum(), x.pow(2).sum(), result.firings.sum()]
        )
        self.mean += x.sum(0)
        self.count += len(x)

    def is_due(self, step: int) -> bool:
        """Whether this step ends a line of log."""
        last = step + 1 == self.settings.steps
        return last or (step + 1) % self.settings.log_every == 0

    def line(self, step: int) -> dict:
        """A line of log; the sums start again from zero."""
        error, square, fired = self.sums.tolist()
        square -= self.mean.double().pow(2).sum().item() / self.count
        silent = self.silent >= self.settings.dead_after
        if not math.isfinite(error):
            raise InputError(
                f"the SAE's loss is not finite at step {step + 1}; lower the "
                f"learning rate (now {self.settings.lr:g})"
            )
        if self.revives:
            self.dead = silent.nonzero().flatten()
        line = {
            "step": step + 1,
            "tokens": self.tokens,
            "lr": learning_rate(step, self.settings),
            "fvu": error / max(square, 1e-30),
            "l0": fired / self.count,
            "dead": silent.float().mean().item(),
        }
        self._clear(self.mean)
        return line

    def _clear(self, like: torch.Tensor) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=like.device)
        self.mean, self.count = torch.zeros_like(like.detach()), 0


def geometric_median(
    points: torch.Tensor, iterations: int = 50
) -> torch.Tensor:
    """The point nearest to all others: [n, d_in] -> [d_in] (Weiszfeld)."""
    guess = points.mean(0)
    for _ in range(iterations):
        distance = (points - guess).norm(dim=1).clamp_min(1e-8)
        guess = (points / distance[:, None]).sum(0) / (1 / distance).sum()
    return guess


def unit_scale(points: torch.Tensor) -> float:
    """The factor that makes the mean norm of [n, d_in] sqrt(d_in)."""
    mean = points.norm(dim=1).mean().item()
    if not mean > 0:
        raise InputError(
            "the activations are all zero; this hook point carries nothing"
        )
    return points.shape[1] ** 0.5 / mean


def build(
    architecture: str,
    d_in: int,
    hook_point: str,
    *,
    expansion: int,
    k: int,
    l1: float,
    seed: int,
) -> sae.SAE:
    """A new SAE with ``expansion * d_in`` latents."""
    d_sae = expansion * d_in
    if architecture == "topk":
        return sae.TopKSAE(d_in, d_sae, hook_point, k, seed)
    if architecture == "l1":
        return sae.L1SAE(d_in, d_sae, hook_point, l1, seed)
    raise unknown("SAE architecture", architecture, ["topk", "l1"])


def make_sae(
    profile: str,
    name: str,
    model: Path,
    tokens: Path,
    hook_point: str = "blocks.0.mlp.hook_post",
    architecture: str = "topk",
    *,
    expansion: int = 8,
    k: int = 32,
    l1: float = 2.0,
    seed: int = 0,
    **settings,
) -> Path:
    """Train an SAE on a language model's activations; its artifact.

    ``model`` and ``tokens`` are artifacts; ``settings`` are fields of
    ``Settings``. ``k`` counts for "topk", ``l1`` (sum units, activations of
    mean norm sqrt(d_in)) for "l1". Raises InputError for an unknown
    architecture, hook point or setting, or text shorter than a context.
    """
    how = _settings(settings)
    kind = {"k": k} if architecture == "topk" else {"l1": l1}

    def make(folder: Path) -> None:
        from helpers.language_model.models import load_language_model
        from helpers.text.tokens import load_tokens

        network = load_language_model(model)
        stream = activations.stream(
            network,
            load_tokens(tokens).train,
            [hook_point],
            batch=how.batch,
            seed=seed,
        )
        d_in = activations.width(network, hook_point)
        new = build(architecture, d_in, hook_point, expansion=expansion,
                    k=k, l1=l1, seed=seed)  # fmt: skip
        log = fit(new, (part[hook_point] for part in stream), how)
        sae.save(new, folder)
        lines = "".join(json.dumps(line) + "\n" for line in log)
        (folder / LOG).write_text(lines)

    return artifacts.produce(
        paths.sae(profile, name),
        make,
        parameters={
            "hook_point": hook_point,
            "architecture": architecture,
            "expansion": expansion,
            "seed": seed,
            **kind,
            **vars(how),
        },
        inputs=[model, tokens],
    )


def fit(
    model: sae.SAE, batches: Iterable[torch.Tensor], settings: Settings
) -> list[dict]:
    """Set scale and pre-bias from the first batches, then ``train``."""
    batches = iter(batches)
    first = list(itertools.islice(batches, min(SAMPLE, settings.steps)))
    sample = torch.cat(first).float()
    scale = unit_scale(sample)
    with torch.no_grad():
        model.b_dec.copy_(geometric_median(sample * scale))
    return train(model, itertools.chain(first, batches), settings, scale)


def load_sae(path: Path) -> sae.SAE:
    """The SAE of an artifact made by ``make_sae``, for inference."""
    return sae.load(artifacts.require(path))


def load_log(path: Path):
    """Its training log as a data frame: step, tokens, lr, fvu, l0, dead."""
    import pandas as pd

    return pd.read_json(artifacts.require(path) / LOG, lines=True)


def _settings(given: dict) -> Settings:
    for name in given:
        if name not in Settings.__dataclass_fields__:
            raise unknown(
                "training setting", name, Settings.__dataclass_fields__
            )
    how = Settings(**given)
    if how.batch < 1 or how.activations < how.batch:
        raise InputError(
            f"{how.activations} activations are fewer than one batch of "
            f"{how.batch}; ask for more, or for a smaller batch"
        )
    return how


def _note(line: dict) -> str:
    return f"FVU {line['fvu']:.3f}, L0 {line['l0']:.1f}"
