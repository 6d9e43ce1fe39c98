"""Activations of a language model, streamed from one forward pass.

A forward pass stops at the layer that is read: the unembedding, most of a
small model's cost, never runs. What is passed on are activations of text
tokens: the positions that hold the separator (which is also the
beginning-of-sequence token) are left out, here and in every metric.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from helpers import ranks
from helpers.errors import InputError, unknown

BOS = 0  # the token before each document, and first in each context


def width(model, hook_point: str) -> int:
    """Numbers per token at a hook point; InputError if there is none."""
    known = model.hook_dict
    if hook_point not in known:
        raise unknown("hook point", hook_point, sorted(known))
    rows = torch.zeros((1, 2), dtype=torch.long)
    return run(model, rows, [hook_point])[hook_point].shape[-1]


def run(
    model, rows: torch.Tensor, hook_points: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Activations at some hook points: each [batch, context, d_in].

    ``rows``: [batch, context] token ids. One forward pass, no gradient.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(value, hook):
        found[hook.name] = value.detach().flatten(2)

    with torch.no_grad():
        model.run_with_hooks(
            rows.to(model.cfg.device),
            return_type=None,
            stop_at_layer=_stop(hook_points),
            fwd_hooks=[(name, keep) for name in hook_points],
        )
    return found


def contexts(tokens: np.ndarray, length: int) -> np.ndarray:
    """Cut a stream into rows: BOS and the next ``length - 1`` tokens.

    ``tokens``: [n] -> [n // (length - 1), length]. The tail that does not
    fill a row is dropped. InputError if not even one row is filled.
    """
    step = length - 1
    count = len(tokens) // step
    if not count:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one context of "
            f"{length}; give more text or a shorter context"
        )
    rows = np.full((count, length), BOS, dtype=np.asarray(tokens[:1]).dtype)
    rows[:, 1:] = np.asarray(tokens[: count * step]).reshape(count, step)
    return rows


def stream(
    model,
    tokens: np.ndarray,
    hook_points: Sequence[str],
    *,
    batch: int = 4096,
    seed: int = 0,
    buffer: int = 2**16,
    rows_per_pass: int = 128,
    dtype: torch.dtype = torch.float32,
    start: int = 0,
) -> Iterator[dict[str, torch.Tensor]]:
    """Shuffled activations of a token stream, without end.

    Yields {hook point: [batch, d_in]}; row i is the same token for every
    hook point. The contexts are visited in a random order, each once before
    any is visited again (with another order). Activations pass through a
    buffer of ``buffer`` tokens (memory: ``buffer * d_in`` numbers for each
    hook point): it is filled, mixed, and half of it given out before it is
    filled again. The same seed gives the same batches; ``start`` leaves out
    that many of them, at the cost of some twenty passes at most.
    """
    random = torch.Generator().manual_seed(seed)
    rows = contexts(tokens, model.cfg.n_ctx)
    buffer = max(buffer, 2 * batch)
    given = buffer // 2 // batch * batch
    refills = _refills(rows, buffer, given, rows_per_pass, random)

    def harvest(part):
        return _harvest(model, part, hook_points, dtype)

    skipped, within = divmod(start, given // batch)
    held = _recall(itertools.islice(refills, skipped), harvest)
    for refill in refills:
        held += [harvest(part) for part in refill.passes]
        mixed = {n: torch.cat([h[n] for h in held]) for n in hook_points}
        for index in refill.out.split(batch)[within:]:
            yield {name: mixed[name][index] for name in hook_points}
        held = [{name: mixed[name][refill.kept] for name in hook_points}]
        within = 0


class _Refill(NamedTuple):
    """How the buffer is filled and mixed once; no activations in it."""

    passes: list[torch.Tensor]  # rows of the forward passes that fill it
    out: torch.Tensor  # places given out, in order
    kept: torch.Tensor  # places that stay for the next refill


def _refills(rows, buffer, given, count, random) -> Iterator[_Refill]:
    """Plan the refills without a forward pass: a pass gives one activation
    for each text token."""
    passes, size = [], 0
    for part in _passes(rows, count, random):
        passes.append(part)
        size += int((part != BOS).sum())
        while size >= buffer:  # a pass may give more than goes out at once
            order = torch.randperm(size, generator=random)
            yield _Refill(passes, order[:given], order[given:])
            passes, size = [], size - given


def _recall(refills: Iterable[_Refill], harvest: Callable) -> list[dict]:
    """What the buffer holds after some refills, as a list of one (or none).

    Half of what is in the buffer goes with each refill, so what is left
    comes from the last twenty or so: only their passes run again, whole,
    because a product's last bits may depend on its number of rows.
    """
    places, passes, total = torch.empty(0, dtype=torch.long), {}, 0
    for refill in refills:
        before = total
        for part in refill.passes:
            passes[total] = part
            total += int((part != BOS).sum())
        fresh = torch.arange(before, total)
        places = torch.cat([places, fresh])[refill.kept]
        starts = torch.tensor(list(passes))
        owner = torch.searchsorted(starts, places, right=True) - 1
        used = set(starts[owner.unique()].tolist())
        passes = {k: part for k, part in passes.items() if k in used}
    held: dict[str, torch.Tensor] = {}
    for first, part in passes.items():
        here = (places >= first) & (places < first + int((part != BOS).sum()))
        for name, found in harvest(part).items():
            if name not in held:
                held[name] = found.new_empty(len(places), found.shape[1])
            held[name][here] = found[places[here] - first]
    return [held] if held else []


def _harvest(model, rows, hook_points, dtype) -> dict[str, torch.Tensor]:
    """Activations of the text tokens of some rows: each [tokens, d_in].

    Several ranks divide the rows among them, and all get all of it.
    """
    text, shared = rows != BOS, len(rows) >= ranks.count()
    found = run(model, ranks.share(rows) if shared else rows, hook_points)
    if shared:
        found = {n: ranks.join(found[n], len(rows)) for n in hook_points}
    return {name: found[name][text].to(dtype) for name in hook_points}


def _passes(rows, count, random) -> Iterator[torch.Tensor]:
    """Rows for one forward pass each, in a new random order every epoch."""
    while True:
        order = torch.randperm(len(rows), generator=random).numpy()
        for start in range(0, len(rows), count):
            chosen = rows[order[start : start + count]].astype(np.int64)
            yield torch.from_numpy(chosen)


def _stop(hook_points: Sequence[str]) -> int | None:
    """The first layer that need not run (None: all must)."""
    layers = [name.split(".") for name in hook_points]
    if any(part[0].startswith("ln_final") for part in layers):
        return None
    return max(
        int(part[1]) + 1 if part[0] == "blocks" else 0 for part in layers
    )
