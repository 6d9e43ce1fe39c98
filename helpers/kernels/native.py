"""The same arithmetic by native.cpp, for float32 batches on the CPU.

Matrix products stay torch's; what is left is written once through the
cache: selection behind the encoder product, the sparse decoder with the
gradients of the codes, the dictionary's gradients latent by latent, and an
optimiser that reads and writes each weight once. Functions that have no
description here do as their namesakes in ``reference``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from helpers.kernels import adam, library, reference
from helpers.kernels.library import load
from helpers.kernels.memory import empty
from helpers.kernels.thresholded import gated_step, jumprelu_step, relu_step
from helpers.kernels.types import Codes, Matrices, Result, Weights, lowered

__all__ = [
    "Adam",
    "candidates",
    "encode_topk",
    "gated_step",
    "jumprelu_step",
    "keep",
    "largest",
    "load",
    "nested_step",
    "relu_step",
    "sparse_step",
    "top_k",
    "topk_step",
]
SLICE = 1024  # tokens: large products, whose codes stay in the cache


def holds(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of the kind worked on here."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def takes(x: torch.Tensor, w: NamedTuple, k: int = 1) -> bool:
    """Whether a batch can be worked on here; if not, the reference says
    what is wrong with it.
    """
    return all(map(holds, (x, *w))) and 1 <= k <= len(w.W_dec)


def ranks(pre: torch.Tensor, k: int) -> bool:
    """Whether a table's k largest can be selected here."""
    on_cpu = pre.device.type == "cpu" and pre.dtype in library.SUFFIX
    return on_cpu and pre.dim() == 2 and 1 <= k <= pre.shape[1] < 2**31


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; of equal values the first are taken, in order."""
    indices = torch.empty(len(pre), k, dtype=torch.int32)
    table, bias = pre.detach().contiguous(), torch.zeros(pre.shape[1])
    library.top_k(table, bias, k, indices, torch.empty(len(pre), k))
    indices = indices.long()
    return pre.gather(1, indices), indices


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """As the reference."""
    found = torch.ones(len(values), dtype=torch.bool)
    if count < len(values):
        library.call("mark_largest", values, len(values), count, found)
    return found


def keep(codes: Codes, which: torch.Tensor) -> Codes:
    """As the reference."""
    return library.kept(codes, which, int(which.sum()))


def candidates(
    x: torch.Tensor,
    w: Weights,
    floor: float,
    most: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Codes:
    """As the reference."""
    low, b_dec = low or lowered(w, dtype), w.b_dec.contiguous()
    bias, parts = w.b_enc.contiguous(), []
    for part in x.contiguous().split(SLICE):
        pre = _product(library.centre(part, b_dec, dtype), low)
        threshold = torch.full_like(bias, floor)
        marks, marked, _ = library.mark(pre, bias, threshold)
        parts.append(library.listed(pre, bias, marks, marked))
        parts, floor = reference.prune(parts, floor, most, largest)
    return Codes.join(parts)


def encode_topk(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; in order of the indices."""
    centred = library.centre(x.contiguous(), w.b_dec.contiguous(), dtype)
    values, indices = _encode_topk(centred, w, low or lowered(w, dtype), k)
    return values, indices.long()


def topk_step(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    x, low = x.contiguous(), low or lowered(w, dtype)
    centred = library.centre(x, w.b_dec.contiguous(), dtype)
    values, indices = _encode_topk(centred, w, low, k)
    offsets = torch.arange(0, indices.numel() + 1, k)
    codes = Codes(offsets, indices.flatten(), values.flatten())
    return _nested_step(x, w, codes, [len(w.W_dec)], low, centred)


def sparse_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    return nested_step(x, w, codes, [len(w.W_dec)], dtype, low)


def nested_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    widths: Sequence[int],
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    codes = Codes(
        codes.offsets.long().contiguous(),
        codes.indices.int().contiguous(),
        codes.values.detach().float().contiguous(),
    )
    if len(codes.indices) and codes.indices.max() >= len(w.W_dec):
        raise IndexError("a code's index lies beyond the dictionary")
    x = x.contiguous()
    centred = library.centre(x, w.b_dec.contiguous(), dtype)
    low = low or lowered(w, dtype)
    return _nested_step(x, w, codes, list(widths), low, centred)


class Adam(adam.Adam):
    """As the reference, in one pass over each weight and its moments."""

    def _update(self, lr, gradients):
        step = self.steps + 1
        first, second = self.betas
        rates = (
            first,
            second,
            lr / (1 - first**step),
            math.sqrt(1 - second**step),
            self.adam.param_groups[0]["eps"],
        )
        for name, parameter in self.parameters.items():
            _adam(
                [parameter.detach(), *self.moments(name).values()],
                gradients[name],
                name in self.unit_rows,
                rates,
                getattr(self.low, name, None),
            )


def _product(centred: torch.Tensor, low: Matrices) -> torch.Tensor:
    """Pre-activations but for the biases, which the kernels add."""
    pre = empty(len(centred), len(low.W_dec), dtype=centred.dtype)
    return torch.mm(centred, low.W_enc, out=pre)


def _encode_topk(centred, w, low, k):
    """Values after ReLU and int32 indices: [batch, k] each."""
    values = empty(len(centred), k)
    indices = empty(len(centred), k, dtype=torch.int32)
    bias = w.b_enc.contiguous()
    for start in range(0, len(centred), SLICE):
        part = slice(start, start + SLICE)
        pre = _product(centred[part], low)
        library.top_k(pre, bias, k, indices[part], values[part])
    return values, indices


def _nested_step(x, w, codes, widths, low, centred) -> Result:
    low = low._replace(W_dec=low.W_dec.contiguous())
    decoded = library.Decoded(x, widths, centred.dtype)
    b_dec = w.b_dec.contiguous()
    slopes = decoded.fill(slice(None), x, b_dec, codes, low)
    slopes.mul_(codes.values != 0)
    sums = library.Sums(*w.W_dec.shape)
    sums.gather(codes, slopes, decoded, centred)
    gradients = Weights(b_enc=sums.d_pre, **sums.gradients(w.W_enc, decoded))
    return Result(decoded.error, sums.firings, gradients)


def _adam(arrays, gradient, unit, rates, low):
    """One parameter's step; transposed ones are worked on as stored."""
    if gradient.shape != arrays[0].shape:
        raise ValueError("a gradient must have its parameter's shape")
    if not arrays[0].is_contiguous():
        arrays, gradient = [a.T for a in arrays], gradient.T
        low = None if low is None else low.T
    rows, width = torch.atleast_2d(arrays[0]).shape
    library.call("adam_rows", *arrays, gradient.float().contiguous(), rows,
                 width, int(unit), *map(float, rates), low)  # fmt: skip
