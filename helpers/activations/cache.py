"""Batches of activations kept on disk: made once, read from then on."""

import errno
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from helpers import artifacts, ranks
from helpers.errors import InputError

PER_SHARD = 8  # batches in a file
Batch = dict[str, torch.Tensor]


def cached(
    folder: Path, stream: Callable[[int], Iterator[Batch]], start: int = 0
) -> Iterator[Batch]:
    """The batches of ``stream(start)``, those on disk read from there.

    ``stream`` gives the batches from the n-th on; ``folder`` must be named
    after all that decides their content. A shard (safetensors, read in
    place) holds PER_SHARD batches and is there whole or not at all. What is
    missing comes from the stream and is written; on a full disk one warning
    is given and it is only streamed. Several ranks always stream: they must
    agree on what is there.
    """
    if ranks.count() > 1:
        yield from stream(start)
        return
    number, within = divmod(start, PER_SHARD)
    while batches := _read(_file(folder, number)):
        yield from itertools.islice(batches, within, None)
        number, within = number + 1, 0
    writes, shard = True, []
    with closing(stream(number * PER_SHARD)) as made:
        for place, batch in enumerate(made, number * PER_SHARD):
            if place >= start:
                yield batch
            shard.append(batch)
            if len(shard) == PER_SHARD:
                file = _file(folder, place // PER_SHARD)
                writes, shard = writes and _write(file, shard), []


def _file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.safetensors"


def _read(file: Path) -> Iterator[Batch] | None:
    """A shard's batches, or None where no whole one is."""
    from safetensors import SafetensorError, safe_open

    try:
        shard = safe_open(file, "pt")
    except (FileNotFoundError, SafetensorError):
        return None
    return _batches({n: shard.get_slice(n) for n in shard.keys()})


def _batches(slices: dict) -> Iterator[Batch]:
    sizes = [part.get_shape()[0] // PER_SHARD for part in slices.values()]
    for at in range(PER_SHARD):
        rows = slice(at * sizes[0], (at + 1) * sizes[0])
        yield {name: part[rows] for name, part in slices.items()}


def _write(file: Path, shard: list[Batch]) -> bool:
    """Write a shard; False, with a warning, if the disk is full."""
    from safetensors.torch import save

    parts = {n: torch.cat([b[n].cpu() for b in shard]) for n in shard[0]}
    try:
        with artifacts.replacing(file) as temporary:
            temporary.write_bytes(save(parts))
        return True
    except (InputError, OSError) as error:
        if getattr(error, "errno", errno.EDQUOT) != errno.EDQUOT:
            raise
        warnings.warn(
            f"the activations are not kept on disk any more ({error}); "
            "training goes on without",
            stacklevel=2,
        )
        return False
