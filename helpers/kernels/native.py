"""The same arithmetic by native.cpp, for float32 batches on the CPU.

Matrix products stay torch's; what is left is written once through the
cache: selection behind the encoder product, the sparse decoder with the
gradients of the codes, the dictionary's gradients latent by latent, and an
optimiser that reads and writes each weight once.
"""

import ctypes
import math
import os

import torch

from helpers.kernels import build, reference
from helpers.kernels.memory import empty
from helpers.kernels.reference import (
    DENSE_SLICE,
    SLICE,
    Codes,
    Result,
    Weights,
    lowered,
)

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
SPARSE = 1 / 32  # share of positive codes up to which ReLU goes sparse
_library = None
_one_thread = False  # set in forked children: OpenMP's pool is not theirs


def load() -> None:
    """Compile or load the library; errors as ``build.load``."""
    global _library
    if _library is None:
        _library = build.load()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_stay_alone)


def holds(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of the kind worked on here."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def takes(x: torch.Tensor, w: Weights, k: int = 1) -> bool:
    """Whether a batch can be worked on here; if not, the reference says
    what is wrong with it.
    """
    return all(map(holds, (x, *w))) and 1 <= k <= len(w.b_enc)


def ranks(pre: torch.Tensor, k: int, most: int) -> bool:
    """Whether a table's k largest of ``most`` can be selected here."""
    on_cpu = pre.device.type == "cpu" and pre.dtype in SUFFIX
    return on_cpu and pre.dim() == 2 and 1 <= k <= most < 2**31


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; of equal values the first are taken, in order."""
    indices, _ = _top_k(pre.detach(), k)
    indices = indices.long()
    return pre.gather(1, indices), indices


def batch_top_k(pre: torch.Tensor, n: int) -> torch.Tensor:
    """As the reference; of equal values the first are taken."""
    places = torch.empty(n, dtype=torch.int64)
    pre = pre.detach().contiguous()
    _call("batch_top_k", pre, *pre.shape, n, places, dtype=pre.dtype)
    return places


def encode_topk(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference."""
    low = low or lowered(w, dtype)
    values, indices = _encode_topk(_centred(x, w, dtype), low, k)
    return values, indices.long()


def topk_step(
    x: torch.Tensor,
    w: Weights,
    k: int,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> Result:
    """As the reference."""
    low = low or lowered(w, dtype)
    centred = _centred(x, w, dtype)
    values, indices = _encode_topk(centred, low, k)
    ends = torch.arange(0, indices.numel() + 1, k)
    codes = Codes(ends, indices.flatten(), values.flatten())
    return _sparse_step(x, w, codes, low, centred)


def sparse_step(
    x: torch.Tensor,
    w: Weights,
    codes: Codes,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> Result:
    """As the reference."""
    codes = Codes(
        codes.offsets.long().contiguous(),
        codes.indices.int().contiguous(),
        codes.values.detach().float().contiguous(),
    )
    if len(codes.indices) and codes.indices.max() >= len(w.b_enc):
        raise IndexError("a code's index lies beyond the dictionary")
    centred = _centred(x, w, dtype)
    return _sparse_step(x, w, codes, low or lowered(w, dtype), centred)


def relu_step(
    x: torch.Tensor,
    w: Weights,
    l1: float,
    dtype: torch.dtype,
    low: Weights | None = None,
) -> Result:
    """As the reference; slices with few positive codes go sparse.

    The choice is made for each slice by counting its positive codes, so
    that it depends on nothing but the data.
    """
    low = low or lowered(w, dtype)
    step = _ReluStep(x.contiguous(), w, low, l1 / len(x))
    for start in range(0, len(x), DENSE_SLICE):
        step.take(slice(start, start + DENSE_SLICE))
    return step.result()


class Adam(reference.Adam):
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


class _ReluStep:
    """What the slices of one batch add up to."""

    def __init__(self, x, w, low, penalty):
        self.x, self.w, self.low, self.penalty = x, w, low, penalty
        dtype = low.W_enc.dtype
        self.centred = _centred(x, w, dtype)
        self.error, self.slope = empty(*x.shape), empty(*x.shape, dtype=dtype)
        self.counts = torch.zeros(len(x), dtype=torch.int64)
        self.sparse, self.dense = [], None

    def take(self, part: slice) -> None:
        """Forward and backward of one slice of the batch."""
        centred, low = self.centred[part], self.low
        pre = empty(len(centred), len(low.b_enc), dtype=centred.dtype)
        torch.addmm(low.b_enc, centred, low.W_enc, out=pre)
        counts = self.counts[part]
        _call("count_positive", pre, *pre.shape, counts, dtype=pre.dtype)
        if counts.sum() <= SPARSE * pre.numel():
            self._sparse(part, pre, counts)
        else:
            counts.zero_()
            self._dense(part, pre)

    def result(self) -> Result:
        """Error, firings and gradients of the whole batch."""
        total = self.dense or _empty(self.w)
        if self.sparse:
            columns = [torch.cat(c) for c in zip(*self.sparse, strict=True)]
            indices, values, d_values = columns
            codes = Codes(_ends(self.counts), indices, values)
            _gather(
                codes, d_values, self.slope, self.centred, total,
                add=self.dense is not None,
            )  # fmt: skip
        return _result(self.error, self.w, total, len(self.x))

    def _sparse(self, part, pre, counts):
        ends = _ends(counts)
        indices = torch.empty(int(ends[-1]), dtype=torch.int32)
        values = torch.empty(len(indices))
        _call("list_positive", pre, *pre.shape, ends, indices, values,
              dtype=pre.dtype)  # fmt: skip
        d_values = _decode(
            Codes(ends, indices, values), self.x[part], self.w, self.low,
            2 / len(self.x), self.penalty, self.error[part],
            self.slope[part],
        )  # fmt: skip
        self.sparse.append((indices, values, d_values))

    def _dense(self, part, pre):
        if self.dense is None:
            self.dense = _empty(self.w)
            for gradient in self.dense:
                gradient.zero_()
        W_enc, W_dec, b_enc, firings = self.dense
        size, dtype = pre.shape, pre.dtype
        _call("rectify", pre, *size, firings, dtype=dtype)
        error, slope = self.error[part], self.slope[part]
        torch.sub(self.w.b_dec, self.x[part], out=error)
        error.add_(pre @ self.low.W_dec)
        slope.copy_(error * (2 / len(self.x)))
        d_pre = empty(*size, dtype=dtype)
        torch.mm(slope, self.low.W_dec.T, out=d_pre)
        _call("rectify_back", pre, d_pre, *size, float(self.penalty), b_enc,
              dtype=dtype)  # fmt: skip
        for total, left, right in [
            (W_enc, d_pre, self.centred[part]), (W_dec, pre, slope)
        ]:  # fmt: skip
            product = empty(*total.shape, dtype=dtype)
            total.add_(torch.mm(left.T, right, out=product))


def _centred(x, w, dtype):
    found = empty(*x.shape, dtype=dtype)
    return torch.sub(x, w.b_dec, out=found)


def _sparse_step(x, w, codes, low, centred) -> Result:
    x = x.contiguous()
    error, slope = empty(*x.shape), empty(*x.shape, dtype=centred.dtype)
    d_values = _decode(codes, x, w, low, 2 / len(x), 0.0, error, slope)
    total = _empty(w)
    _gather(codes, d_values, slope, centred, total, add=False)
    return _result(error, w, total, len(x))


def _empty(w: Weights) -> tuple[torch.Tensor, ...]:
    """Room for W_enc's (latents as rows), W_dec's and b_enc's gradients
    and the firings.
    """
    d_sae, d_in = w.W_dec.shape
    return empty(d_sae, d_in), empty(d_sae, d_in), empty(d_sae), empty(d_sae)


def _result(error, w, total, batch) -> Result:
    W_enc, W_dec, b_enc, firings = total
    b_dec = torch.zeros(error.shape[1])
    for table, weights in [
        (error, torch.full((batch,), 2 / batch)),
        (w.W_enc.T.contiguous(), -b_enc),
    ]:
        _call("weigh_rows", table, weights, *table.shape, b_dec)
    return Result(error, firings, Weights(W_enc.T, b_enc, W_dec, b_dec))


def _encode_topk(centred, low, k):
    """Values after ReLU and int32 indices: [batch, k] each."""
    values = empty(len(centred), k)
    indices = empty(len(centred), k, dtype=torch.int32)
    rows = min(SLICE, len(centred))
    pre = empty(rows, len(low.b_enc), dtype=centred.dtype)
    for start in range(0, len(centred), SLICE):
        part = centred[start : start + SLICE]
        found = pre[: len(part)]
        torch.addmm(low.b_enc, part, low.W_enc, out=found)
        end = start + len(part)
        _top_k(found, k, indices[start:end], values[start:end])
    return values, indices


def _top_k(pre, k, indices=None, values=None):
    if indices is None:
        indices = torch.empty(len(pre), k, dtype=torch.int32)
        values = torch.empty(len(pre), k)
    pre = pre.contiguous()
    _call("top_k", pre, *pre.shape, k, indices, values, dtype=pre.dtype)
    return indices, values


def _decode(codes, x, w, low, scale, penalty, error, slope):
    """Fill error and slope; the gradients of the listed values."""
    d_values = empty(len(codes.values))
    W_dec, b_dec = low.W_dec.contiguous(), w.b_dec.contiguous()
    _call("decode", *codes, W_dec, b_dec, x, *x.shape, float(scale),
          float(penalty), error, slope, d_values,
          dtype=W_dec.dtype)  # fmt: skip
    return d_values


def _gather(codes, d_values, slope, centred, total, add):
    """Gradients and firings of each latent, into or on top of ``total``."""
    d_sae, d_in = total[0].shape
    starts = torch.empty(d_sae + 1, dtype=torch.int64)
    tokens = empty(len(codes.values), dtype=torch.int32)
    values, gradients = (empty(len(codes.values)) for _ in range(2))
    _call("transpose_entries", *codes, d_values, len(centred), d_sae, starts,
          tokens, values, gradients)  # fmt: skip
    W_enc, W_dec, b_enc, firings = total
    _call("gather", starts, tokens, values, gradients, slope, centred, d_sae,
          d_in, int(add), W_dec, W_enc, b_enc, firings,
          dtype=centred.dtype)  # fmt: skip


def _adam(arrays, gradient, unit, rates, low):
    """One parameter's step; transposed ones are worked on as stored."""
    if gradient.shape != arrays[0].shape:
        raise ValueError("a gradient must have its parameter's shape")
    if not arrays[0].is_contiguous():
        arrays, gradient = [a.T for a in arrays], gradient.T
        low = None if low is None else low.T
    rows, width = torch.atleast_2d(arrays[0]).shape
    _call("adam_rows", *arrays, gradient.float().contiguous(), rows, width,
          int(unit), *map(float, rates), low)  # fmt: skip


def _ends(counts: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _call(name: str, *arguments, dtype: torch.dtype | None = None) -> None:
    """Call a function of native.cpp: pointers, sizes and real numbers."""
    if dtype is not None:
        name = f"{name}_{SUFFIX[dtype]}"
    threads = 1 if _one_thread else torch.get_num_threads()
    given = [_argument(value) for value in (*arguments, threads)]
    getattr(_library, name)(*given)


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
