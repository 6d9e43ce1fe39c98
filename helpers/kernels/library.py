"""native.cpp's functions from Python: one small wrapper each.

All work on contiguous float32 arrays on the CPU; those with a ``dtype`` of
the matrix products on these arrays in float32 or bfloat16.
"""

import ctypes
import os

import torch

from helpers.kernels import build
from helpers.kernels.memory import empty
from helpers.kernels.types import Codes, Matrices, ends

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16", None: "only"}
LANES = 32  # codes that one integer marks, one bit each
_library = None
_one_thread = False  # set in forked children: OpenMP's pool is not theirs


def load() -> None:
    """Compile or load the library; errors as ``build.load``."""
    global _library
    if _library is None:
        _library = build.load()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_stay_alone)


def call(name: str, *arguments, dtype: torch.dtype | None = None) -> None:
    """Call a function of native.cpp: pointers, sizes and real numbers."""
    threads = 1 if _one_thread else torch.get_num_threads()
    given = [_argument(value) for value in (*arguments, threads)]
    name = f"{name}_{SUFFIX[dtype]}"
    address = ctypes.c_void_p.in_dll(_library, name).value
    ctypes.CFUNCTYPE(None)(address)(*given)


def centre(x: torch.Tensor, b_dec: torch.Tensor, dtype) -> torch.Tensor:
    """x - b_dec in ``dtype``: [batch, d_in]."""
    found = empty(*x.shape, dtype=dtype)
    call("centre", x, b_dec, *x.shape, found, dtype=dtype)
    return found


def top_k(pre, bias, k, indices, values) -> None:
    """Fill in the k largest of each row, in order of their indices."""
    call("top_k", pre, bias, *pre.shape, k, indices, values, dtype=pre.dtype)


def mark(pre, bias, threshold, half: float = 0.0):
    """Which codes exceed their latent's threshold or lie within ``half``.

    Codes are products plus biases. Returned are their marks, and how many
    are marked and how many exceed it, by row: [rows].
    """
    rows, width = pre.shape
    marks = empty(rows, -(-width // LANES), dtype=torch.int32)
    marked, active = torch.empty(2, rows, dtype=torch.int64)
    call("mark", pre, bias, threshold, half, rows, width, marks, marked, active,
         dtype=pre.dtype)  # fmt: skip
    return marks, marked, active


def listed(pre, bias, marks, marked) -> Codes:
    """The marked codes of [rows, d_sae], as they are."""
    offsets = ends(marked)
    count = int(offsets[-1])
    codes = Codes(offsets, empty(count, dtype=torch.int32), empty(count))
    call("list_marked", pre, bias, marks, *pre.shape, *codes, dtype=pre.dtype)
    return codes


def kept(codes: Codes, which: torch.Tensor, count: int) -> Codes:
    """Those ``count`` entries that ``which`` ([entries], bool) marks."""
    found = Codes(
        torch.empty_like(codes.offsets),
        empty(count, dtype=torch.int32),
        empty(count),
    )
    call("keep", *codes, which, len(codes.offsets) - 1, *found)
    return found


class Decoded:
    """Room for what decoding a batch leaves, whole or slice by slice.

    ``widths``: those of nested dictionaries, the last d_sae; [d_sae] where
    there is but one.
    """

    def __init__(self, x: torch.Tensor, widths: list[int], dtype):
        self.widths = torch.tensor(widths)
        self.error = empty(*x.shape)  # x_hat - x, of the last level
        nested = len(widths) > 1
        self.total = empty(*x.shape) if nested else self.error  # all levels'
        self.slope = empty(len(widths), *x.shape, dtype=dtype)
        self.scale = 2 / len(x)  # d loss / d x_hat = scale * error

    def fill(self, part: slice, x, b_dec, codes, low: Matrices):
        """Decode the codes of a part of the batch (nested: only all of it);
        the slopes of the squared error in their values: [entries].
        """
        slopes = empty(len(codes.values))
        call("decode", *codes, low.W_dec, b_dec, x[part], self.widths,
             len(self.widths), *x[part].shape, self.scale, self.error[part],
             self.total[part], self.slope[:, part].flatten(0, 1), slopes,
             dtype=low.W_dec.dtype)  # fmt: skip
        return slopes


class Sums:
    """What a batch adds up to for each latent, from lists and slices."""

    def __init__(self, d_sae: int, d_in: int):
        self.W_enc, self.W_dec = empty(d_sae, d_in), empty(d_sae, d_in)
        self.d_pre, self.firings = torch.zeros(2, d_sae)
        self.is_empty = True  # W_enc and W_dec hold nothing yet

    def add(self, f, d_pre, slope, centred) -> None:
        """Add to W_enc and W_dec what a slice of dense codes gives."""
        for total, left, right in [
            (self.W_enc, d_pre, centred), (self.W_dec, f, slope)
        ]:  # fmt: skip
            product = empty(*total.shape, dtype=f.dtype)
            torch.mm(left.T, right, out=product)
            total.copy_(product) if self.is_empty else total.add_(product)
        self.is_empty = False

    def gather(self, codes: Codes, d_pre, decoded: Decoded, centred) -> None:
        """Add listed codes and the slopes in their pre-activations."""
        (d_sae, d_in), count = self.W_dec.shape, len(codes.values)
        starts = torch.empty(d_sae + 1, dtype=torch.int64)
        tokens = empty(count, dtype=torch.int32)
        values, slopes = empty(count), empty(count)
        call("transpose", *codes, d_pre, len(centred), d_sae, starts, tokens,
             values, slopes)  # fmt: skip
        call("gather", starts, tokens, values, slopes, decoded.slope,
             centred, decoded.widths, len(decoded.widths), len(centred),
             d_sae, d_in, int(not self.is_empty), self.W_enc, self.W_dec,
             self.d_pre, self.firings, dtype=centred.dtype)  # fmt: skip
        self.is_empty = False

    def gradients(self, W_enc, decoded: Decoded) -> dict[str, torch.Tensor]:
        """Those of W_enc, W_dec and b_dec."""
        total, b_dec = decoded.total, torch.zeros(len(W_enc))
        for table, weights in [
            (total, torch.full((len(total),), decoded.scale)),
            (W_enc.T.contiguous(), -self.d_pre),
        ]:
            call("weigh_rows", table, weights, *table.shape, b_dec)
        return {"W_enc": self.W_enc.T, "W_dec": self.W_dec, "b_dec": b_dec}


def _argument(value):
    if value is None:
        return ctypes.c_void_p()
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous(), "native code reads whole arrays"
        return ctypes.c_void_p(value.data_ptr())
    return (ctypes.c_float if isinstance(value, float) else ctypes.c_long)(
        value
    )


def _stay_alone() -> None:
    global _one_thread
    _one_thread = True
