"""Train the transformers of the book: one loop, on one screen."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from helpers import artifacts, paths
from helpers.devices import find_device, find_precision
from helpers.errors import InputError
from helpers.language_model.models import save
from helpers.language_model.transformer import (
    Architecture,
    Weights,
    initial_weights,
    loss,
    token_losses,
)
from helpers.progress import track
from helpers.text.tokens import Tokens, load_tokens

LEARNING = "learning.parquet"
TRAINING = "training"  # the text class of the training loss in that table
POINTS = 12  # of the learning curve, evenly spaced in log(tokens seen)
FIRST = 0.01  # share of the training at the first of them
CURVE_DOCUMENTS = 32  # held-out documents per class at each point
BETAS = (0.9, 0.99)  # AdamW's; 0.95 forgets rare tokens and learns slower
WARM_UP = 0.02  # share of the steps over which the learning rate rises


def make_language_model(
    profile: str,
    name: str,
    tokens: Path,
    *,
    layers: int = 1,
    d_model: int = 128,
    heads: int = 4,
    d_mlp: int = 512,
    train_tokens: int = 10_000_000,
    batch: int = 8,
    learning_rate: float = 6e-3,
    penalty: float = 0.0,
    seed: int = 0,
) -> Path:
    """Train a transformer on token streams, as ``language_models/NAME``.

    It reads ``train_tokens`` tokens, going over the stream as often as that
    takes, in batches of ``batch`` contexts; the context is that of
    ``tokens``. ``seed`` draws the first weights and the order of reading.
    ``penalty`` (nats) is the weight of an L1 penalty on the neurons, see
    ``train``. Also writes learning.parquet, see ``load_learning``.

    Raises InputError for a shape that does not fit, a stream shorter than
    a context, or a loss that is no longer a number.
    """

    def make(folder: Path) -> None:
        text = load_tokens(tokens)
        shape = Architecture(
            layers, d_model, heads, d_mlp, text.context, text.vocab_size
        )
        weights, curve = train(
            shape, text, train_tokens, batch, learning_rate, seed, name,
            penalty,
        )
        save(folder, shape, weights, seed=seed, train_tokens=train_tokens)
        _write_learning(folder, curve)

    settings = {
        "layers": layers, "d_model": d_model, "heads": heads, "d_mlp": d_mlp,
        "train_tokens": train_tokens, "batch": batch,
        "learning_rate": learning_rate, "penalty": penalty, "seed": seed,
    }
    return artifacts.produce(
        paths.language_model(profile, name),
        make,
        parameters=settings,
        inputs=[tokens],
    )


def load_learning(path: Path):
    """The learning curve: a frame of tokens (seen), text_class, loss (nats
    per token). Class "training" is the mean over the training batches since
    the point before; the others are held-out documents, a few per class."""
    import pandas as pd

    return pd.read_parquet(artifacts.require(path) / LEARNING)


def train(
    shape: Architecture,
    text: Tokens,
    train_tokens: int,
    batch: int,
    learning_rate: float,
    seed: int,
    label: str = "model",
    penalty: float = 0.0,
) -> tuple[Weights, list[dict]]:
    """Train from scratch; returns the weights and the learning curve.

    AdamW on float32 weights, linear warm-up, then linear decay to zero. The
    ``penalty`` is added for each unit of the mean, over tokens, of the sum
    of all neurons after their ReLU; the losses of the curve are without it.
    """
    device = find_device()
    dtype = find_precision(device)
    steps = max(1, round(train_tokens / (batch * shape.context)))
    points = _points(steps)
    weights = {
        name: value.to(device).requires_grad_()
        for name, value in initial_weights(shape, seed).items()
    }
    optimizer = torch.optim.AdamW(
        weights.values(), lr=learning_rate, betas=BETAS, weight_decay=0.0,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate(steps))
    curve, losses = [], []
    with track(f"training {label}", steps * batch * shape.context) as progress:
        for step, tokens in enumerate(
            batches(text.train, shape.context, batch, steps, seed), start=1
        ):
            neurons = [] if penalty else None
            tokens = torch.from_numpy(tokens).to(device)
            mean = loss(weights, tokens, dtype, neurons)
            (mean + _l1(neurons, penalty) if penalty else mean).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(mean.detach())
            if step in points:
                seen = step * batch * shape.context
                curve += _curve_point(weights, text, losses, seen, dtype)
                losses.clear()
            note = f"loss {_checked(mean, step)}" if step % 50 == 0 else ""
            progress.update(batch * shape.context, note)
    return {k: v.detach() for k, v in weights.items()}, curve


def _l1(neurons: list[torch.Tensor], penalty: float) -> torch.Tensor:
    """``penalty`` times the neurons' sum, a mean over tokens."""
    return penalty * sum(a.float().sum(1).mean() for a in neurons)


def rate(steps: int) -> Callable[[int], float]:
    """The learning rate of each step as a share of the highest."""
    rise = max(1, round(WARM_UP * steps))
    return lambda step: min((step + 1) / rise, 1 - step / steps)


def batches(
    stream: np.ndarray, context: int, batch: int, steps: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield ``steps`` batches int64 [batch, context + 1] cut from a stream.

    Neighbours share one token: the last target of one is the first input
    of the next. The stream is read in a new random order, and cut at a new
    place, each time that it is gone through. Raises InputError where it is
    shorter than one row.
    """
    starts = context_starts(len(stream), context, steps * batch, seed)
    within = np.arange(context + 1)
    for rows in starts.reshape(steps, batch):
        yield stream[rows[:, None] + within].astype(np.int64)


def context_starts(
    length: int, context: int, count: int, seed: int
) -> np.ndarray:
    """Where ``count`` contexts start: int64 [count], see ``batches``."""
    if length <= context:
        raise InputError(
            f"the training stream has {length} tokens; a context of "
            f"{context} needs at least {context + 1}"
        )
    random = np.random.default_rng(seed)
    parts, found = [], 0
    while found < count:
        offset = random.integers(min(context, length - context))
        starts = np.arange(offset, length - context, context)
        parts.append(random.permutation(starts))
        found += len(starts)
    return np.concatenate(parts)[:count]


def _points(steps: int) -> set[int]:
    """The steps after which the learning curve gets a point."""
    spaced = np.geomspace(max(1, FIRST * steps), steps, POINTS)
    return set(np.unique(spaced.round().astype(int)).tolist())


def _curve_point(weights, text, losses, seen, dtype) -> list[dict]:
    found = {TRAINING: float(torch.stack(losses).mean())}
    for name in sorted(text.held_out):
        rows = text.held_out[name][:CURVE_DOCUMENTS]
        lengths = text.lengths[name][:CURVE_DOCUMENTS]
        found[name] = _mean_loss(weights, rows, lengths, dtype)
    return [
        {"tokens": seen, "text_class": name, "loss": value}
        for name, value in found.items()
    ]


def _mean_loss(weights, rows, lengths, dtype) -> float:
    """Mean over the tokens of held-out rows [n, context], padding left
    out, in nats."""
    device = weights["embed.W_E"].device
    width = max(2, int(lengths.max()))
    tokens = torch.from_numpy(rows[:, :width].astype(np.int64)).to(device)
    losses = token_losses(weights, tokens, dtype).cpu().numpy()
    valid = np.arange(1, width) < lengths[:, None]
    return float(losses[valid].mean(dtype=np.float64))


def _checked(mean: torch.Tensor, step: int) -> str:
    """The loss as a note, or InputError once it is not a number."""
    value = mean.item()
    if not np.isfinite(value):
        raise InputError(
            f"the training loss is {value} at step {step}; train again with "
            "a lower learning_rate"
        )
    return f"{value:.2f}"


def _write_learning(folder: Path, curve: list[dict]) -> None:
    import pandas as pd

    pd.DataFrame(curve).to_parquet(folder / LEARNING, index=False)
