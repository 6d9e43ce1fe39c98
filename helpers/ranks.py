"""One training over several processes, by ``torch.distributed``.

Every rank sees the same global batch and takes its own slice; sums over
the slices are sums over the batch, whatever the number of ranks. Where
nothing is initialised there is one rank and each function returns at once.
"""

from collections.abc import Sequence

import torch
from torch import distributed


def count() -> int:
    """The number of ranks: 1 unless ``torch.distributed`` is initialised."""
    return distributed.get_world_size() if _is_up() else 1


def index() -> int:
    """This process' rank; rank 0 writes."""
    return distributed.get_rank() if _is_up() else 0


def share(x: torch.Tensor) -> torch.Tensor:
    """This rank's rows of a global batch: the slices differ by one at most."""
    return x.tensor_split(count())[index()] if count() > 1 else x


def add(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, in one message.

    The tensors share dtype and device; every rank ends with the same bits.
    """
    if count() > 1 and tensors:
        flat = torch.cat([part.reshape(-1) for part in tensors])
        distributed.all_reduce(flat)
        sizes = [part.numel() for part in tensors]
        for part, found in zip(tensors, flat.split(sizes), strict=True):
            part.copy_(found.view(part.shape))


def join(part: torch.Tensor, total: int) -> torch.Tensor:
    """The slices of all ranks put together: [slice, ...] -> [total, ...]."""
    if count() == 1:
        return part
    whole = part.new_zeros(total, *part.shape[1:])
    share(whole).copy_(part)
    distributed.all_reduce(whole)
    return whole


def gather(values: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """The ranks' 1-D tensors, of any lengths, one after another.

    Returns the whole and where this rank's own part lies in it.
    """
    if count() == 1:
        return values, slice(None)
    sizes = values.new_zeros(count(), dtype=torch.long)
    sizes[index()] = len(values)
    distributed.all_reduce(sizes)
    ends = sizes.cumsum(0).tolist()
    mine = slice(ends[index()] - len(values), ends[index()])
    whole = values.new_zeros(ends[-1])
    whole[mine] = values
    distributed.all_reduce(whole)
    return whole, mine


def tell(value: bool) -> None:
    """Rank 0: send a word to the others, which wait in ``hear``."""
    if count() > 1:
        distributed.broadcast_object_list([value])


def hear() -> bool:
    """The word that rank 0 told."""
    said = [None]
    distributed.broadcast_object_list(said)
    return said[0]


def least(x: torch.Tensor) -> torch.Tensor:
    """The elementwise minimum over the ranks; ``x`` stays as it is."""
    return _extreme(x, "MIN")


def largest(value: int, device: torch.device) -> int:
    """The largest of the ranks' numbers."""
    if count() == 1:
        return value
    return int(_extreme(torch.tensor(value, device=device), "MAX"))


def _extreme(x: torch.Tensor, which: str) -> torch.Tensor:
    if count() > 1:
        x = x.clone()
        distributed.all_reduce(x, getattr(distributed.ReduceOp, which))
    return x


def _is_up() -> bool:
    return distributed.is_available() and distributed.is_initialized()
