"""Shuffled activations of a token stream, through a bounded buffer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch

from helpers import ranks
from helpers.activations import forward
from helpers.activations.ahead import ahead
from helpers.errors import InputError

BOS = 0  # the token before each document, and first in each context


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
    rows_per_pass: int = 32,
    dtype: torch.dtype = torch.float32,
    start: int = 0,
    overlap: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Shuffled activations of a token stream, without end.

    Yields {hook point: [batch, d_in]}; row i is the same token for every
    hook point. The contexts are visited in a random order, each once before
    any is visited again (with another order). Activations pass through a
    buffer of ``buffer`` tokens (memory: ``buffer * d_in`` numbers for each
    hook point): it is filled, mixed, and half of it given out before it is
    filled again. They are of ``dtype``, and so are the matrix products that
    make them. The same seed gives the same batches; ``start`` leaves out
    that many of them, at the cost of some twenty refills' passes at most.

    With ``overlap`` a thread makes the next refill while this one is used
    (another half of the memory; the same batches). Close the iterator to
    end it. Several ranks take turns instead: messages of two threads could
    cross.
    """
    random = torch.Generator().manual_seed(seed)
    rows = contexts(tokens, model.cfg.n_ctx)
    buffer = max(buffer, 2 * batch)
    given = buffer // 2 // batch * batch
    most = buffer + rows_per_pass * rows.shape[1]
    plan = _refills(rows, buffer, given, rows_per_pass, most, random)
    held = _Buffer(
        most, lambda part: _harvest(model, part, hook_points, dtype)
    )
    made = _batches(held, plan, given, batch, start)
    if overlap and ranks.count() == 1:
        return ahead(made, given // batch)
    return made


class _Refill(NamedTuple):
    """How the buffer is filled and mixed once; no activations in it."""

    # rows of each forward pass that fills it, and each position's slot
    passes: list[tuple[torch.Tensor, torch.Tensor]]
    out: torch.Tensor  # slots given out, in order


class _Buffer:
    """Slots for activations; the one after the last takes what is unwanted."""

    def __init__(self, size: int, harvest: Callable):
        self.size, self.harvest = size, harvest
        self.held: dict[str, torch.Tensor] = {}  # [size + 1, d_in] each

    def fill(self, passes: Iterable[tuple[torch.Tensor, torch.Tensor]]):
        """Run forward passes into their slots."""
        for rows, slots in passes:
            for name, found in self.harvest(rows).items():
                if name not in self.held:
                    shape = self.size + 1, found.shape[1]
                    self.held[name] = found.new_empty(shape)
                slots = slots.to(found.device)
                self.held[name].index_copy_(0, slots, found)

    def take(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """A copy of some slots, in their order."""
        return {
            name: value.index_select(0, slots.to(value.device))
            for name, value in self.held.items()
        }


def _batches(
    held: _Buffer,
    plan: Iterator[_Refill],
    given: int,
    batch: int,
    start: int,
) -> Iterator[dict[str, torch.Tensor]]:
    skipped, within = divmod(start, given // batch)
    held.fill(_alive(plan, skipped, held.size))
    for refill in plan:
        held.fill(refill.passes)
        for slots in refill.out.split(batch)[within:]:
            yield held.take(slots)
        within = 0


def _refills(rows, buffer, given, per_pass, most, random) -> Iterator[_Refill]:
    """Plan the refills without a forward pass.

    A pass gives one activation for each text token; what is given out makes
    its slots free again.
    """
    free, filled, passes = torch.arange(most), torch.arange(0), []
    for part in _passes(rows, per_pass, random):
        text = (part != BOS).flatten()
        fresh, free = free.tensor_split([int(text.sum())])
        slots = torch.full((len(text),), most)
        slots[text] = fresh
        passes.append((part, slots))
        filled = torch.cat([filled, fresh])
        while len(filled) >= buffer:  # a pass may give more than goes out
            mixed = filled[torch.randperm(len(filled), generator=random)]
            out, filled = mixed.tensor_split([given])
            yield _Refill(passes, out)
            passes, free = [], torch.cat([free, out]).sort()[0]


def _alive(plan: Iterator[_Refill], refills: int, size: int) -> list[tuple]:
    """The passes that still have tokens in the buffer after some refills.

    Half of what is in the buffer goes with each refill, so they belong to
    the last twenty or so. They run again whole, because a product's last
    bits may depend on its number of rows, and in order: of two that wrote a
    slot the later one counts.
    """
    owner, passes, numbers = torch.full((size + 1,), -1), {}, count()
    for refill in islice(plan, refills):
        for part in refill.passes:
            number = next(numbers)
            passes[number] = part
            owner[part[1]] = number
        owner[refill.out] = owner[size] = -1
        alive = set(owner.unique().tolist())
        passes = {k: part for k, part in passes.items() if k in alive}
    return list(passes.values())


def _harvest(model, rows, hook_points, dtype) -> dict[str, torch.Tensor]:
    """Activations of all positions of some rows: each [positions, d_in].

    Several ranks divide the rows among them, and all get all of it.
    """
    shared = len(rows) >= ranks.count()
    part = ranks.share(rows) if shared else rows
    found = forward.run(model, part, hook_points, dtype)
    if shared:
        found = {n: ranks.join(found[n], len(rows)) for n in hook_points}
    return {n: found[n].flatten(0, 1) for n in hook_points}


def _passes(rows, per_pass, random) -> Iterator[torch.Tensor]:
    """Rows for one forward pass each, in a new random order every epoch."""
    while True:
        order = torch.randperm(len(rows), generator=random).numpy()
        for start in range(0, len(rows), per_pass):
            chosen = rows[order[start : start + per_pass]].astype(np.int64)
            yield torch.from_numpy(chosen)
