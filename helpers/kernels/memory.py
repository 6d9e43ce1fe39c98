"""Large buffers that are handed out again and again.

A fresh buffer's pages are mapped one by one as they are first written,
which costs more than most of the arithmetic on them. These come from a
store: a block is free again once no tensor uses it.
"""

import math
import mmap
import sys
import threading

import torch

SMALL = 2**20  # bytes below which torch's own allocator serves as well
STALE = 256  # requests after which a block that none of them took is dropped
_FREE = 3  # references to a block that only the store holds, while asking
_lock = threading.Lock()


class _Store:
    """Blocks by size, and the number of the request that last took each."""

    def __init__(self):
        self.blocks: dict[int, list[mmap.mmap]] = {}
        self.taken: dict[int, int] = {}  # by id of the block
        self.requests = 0

    def find(self, size: int) -> mmap.mmap:
        """A block that no tensor uses: an old one, or new."""
        self.requests += 1
        for block in self.blocks.get(size, ()):
            if sys.getrefcount(block) == _FREE:
                break
        else:
            self._forget()
            block = _map(size)
            self.blocks.setdefault(size, []).append(block)
        self.taken[id(block)] = self.requests
        return block

    def _forget(self) -> None:
        """Drop what an SAE of another size has left."""
        for size, blocks in self.blocks.items():
            self.blocks[size] = [
                block
                for block in blocks
                if sys.getrefcount(block) > _FREE
                or self.requests - self.taken[id(block)] < STALE
            ]


_store = _Store()


def _map(size: int) -> mmap.mmap:
    """A new block, of huge pages where the system has them: rows read here
    and there then cost no look-up of their page.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared ones stay small
    block = mmap.mmap(-1, size, flags=flags)
    block.madvise(mmap.MADV_HUGEPAGE)
    return block


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor whose content is undefined, like ``torch.empty``."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return torch.empty(shape, dtype=dtype)
    with _lock:
        return torch.frombuffer(_store.find(size), dtype=dtype).view(shape)
