"""Steps of SAEs whose codes must exceed a threshold, by native.cpp.

Slices of the batch in which few codes matter are listed and worked off
sparse, others dense. The choice is made by counting, so that it depends on
nothing but the data.
"""

import torch

from helpers.kernels import library
from helpers.kernels.memory import empty
from helpers.kernels.types import (
    Codes,
    GatedWeights,
    JumpReLUWeights,
    Matrices,
    Penalty,
    Result,
    Weights,
    ends,
    lowered,
)

SLICE = 2048  # tokens: dense slices add to all of the gradients
SPARSE = 1 / 32  # share of listed codes up to which a slice goes sparse


def relu_step(
    x: torch.Tensor,
    w: Weights,
    l1: float,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    return _ReLU(x, w, dtype, low, l1 / len(x)).run()


def jumprelu_step(
    x: torch.Tensor,
    w: JumpReLUWeights,
    penalty: Penalty,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    return _JumpReLU(x, w, dtype, low, penalty).run()


def gated_step(
    x: torch.Tensor,
    w: GatedWeights,
    l1: float,
    dtype: torch.dtype,
    low: Matrices | None = None,
) -> Result:
    """As the reference."""
    return _Gated(x, w, dtype, low, l1 / len(x)).run()


class _Step:
    """What the steps have in common: slices, the choice, the sums."""

    half = 0.0  # codes nearer than this to their threshold matter too

    def __init__(self, x, w, dtype, low):
        low = low or lowered(w, dtype)
        self.low = low._replace(W_dec=low.W_dec.contiguous())
        self.x, self.w = x.contiguous(), w
        self.b_dec = w.b_dec.contiguous()
        self.centred = library.centre(self.x, self.b_dec, dtype)
        self.decoded = self._room()
        self.sums = library.Sums(*w.W_dec.shape)
        self.bias, self.threshold = torch.zeros(2, len(w.W_dec))
        self.counts, self.active = torch.zeros(2, len(x), dtype=torch.int64)
        self.lists = []  # one tuple of tensors a sparse slice

    def run(self) -> Result:
        """Forward and backward of each slice before the next."""
        for start in range(0, len(self.x), SLICE):
            self._take(slice(start, start + SLICE))
        if self.lists:
            columns = map(torch.cat, zip(*self.lists, strict=True))
            indices, f, d_pre = columns
            codes = Codes(ends(self.counts), indices, f)
            self.sums.gather(codes, d_pre, self.decoded, self.centred)
        found = self.sums.gradients(self.w.W_enc, self.decoded)
        gradients = type(self.w)(**found, **self._others())
        return Result(self.decoded.error, self.sums.firings, gradients)

    def _take(self, part: slice) -> None:
        centred, bias = self.centred[part], self.bias
        pre = empty(len(centred), len(bias), dtype=centred.dtype)
        torch.mm(centred, self.low.W_enc, out=pre)
        marks, counts, active = library.mark(
            pre, bias, self.threshold, self.half
        )
        self.active[part] = active
        if counts.sum() > SPARSE * pre.numel():
            self._dense(part, pre)
        else:
            self.counts[part] = counts
            codes = library.listed(pre, bias, marks, counts)
            self.lists.append((codes.indices, *self._sparse(part, codes)))

    def _room(self) -> library.Decoded:
        widths = [len(self.w.W_dec)]
        return library.Decoded(self.x, widths, self.centred.dtype)

    def _decode(self, room, part, codes, f) -> torch.Tensor:
        """Of listed codes ``f``; the slopes of the squared error in them."""
        codes = codes._replace(values=f)
        return room.fill(part, self.x, self.b_dec, codes, self.low)

    def _decode_dense(self, room, part, f) -> torch.Tensor:
        """The same of all codes of a slice."""
        error, slope = room.error[part], room.slope[0, part]
        torch.sub(self.b_dec, self.x[part], out=error)
        error.add_(torch.mm(f, self.low.W_dec))
        slope.copy_(error * room.scale)
        return torch.mm(slope, self.low.W_dec.T, out=_like(f))

    def _add(self, part, f, d_pre) -> None:
        slope = self.decoded.slope[0, part]
        self.sums.add(f, d_pre, slope, self.centred[part])


class _ReLU(_Step):
    """All thresholds zero, an L1 penalty on what exceeds them."""

    def __init__(self, x, w, dtype, low, penalty):
        super().__init__(x, w, dtype, low)
        self.penalty, self.bias = penalty, w.b_enc.contiguous()
        self.pull = torch.zeros_like(self.threshold)

    def _sparse(self, part, codes):
        slopes = self._decode(self.decoded, part, codes, codes.values)
        return codes.values, slopes.add_(self.penalty)

    def _dense(self, part, pre):
        size, dtype = pre.shape, pre.dtype
        f = _like(pre) if self.half else pre  # needed again where near
        library.call(
            "jump", pre, self.bias, self.threshold, *size, f, dtype=dtype
        )
        d_f = self._decode_dense(self.decoded, part, f)
        prices = self._prices(self.active[part])
        library.call("jump_back", pre, f, self.bias, self.threshold,
                     self.half, prices, self.penalty, *size, d_f,
                     self.sums.d_pre, self.pull, self.sums.firings,
                     dtype=dtype)  # fmt: skip
        self._add(part, f, d_f)

    def _prices(self, active):
        """What one more active code costs each token, but for its size."""
        return torch.zeros(len(active))

    def _others(self):
        return {"b_enc": self.sums.d_pre}


class _JumpReLU(_ReLU):
    """Thresholds of their own, and a penalty on how many are exceeded."""

    def __init__(self, x, w, dtype, low, l0: Penalty):
        super().__init__(x, w, dtype, low, 0.0)
        self.l0, self.half = l0, l0.bandwidth / 2
        self.threshold = w.threshold.contiguous()

    def _sparse(self, part, codes):
        threshold = self.threshold[codes.indices]
        fires = ~(codes.values <= threshold)
        f = codes.values * fires
        slopes = self._decode(self.decoded, part, codes, f)
        near = (codes.values - threshold).abs_() < self.half
        prices = self._prices(self.active[part])
        prices = prices.repeat_interleave(codes.offsets.diff())
        pull = (slopes * threshold).add_(prices).mul_(near)
        self.pull.index_add_(0, codes.indices, pull)
        return f, slopes.mul_(fires)

    def _prices(self, active):
        return self.l0.slope(active.float()) / len(self.x)

    def _others(self):
        slope = self.pull / -self.l0.bandwidth
        return super()._others() | {"threshold": slope}


class _Gated(_Step):
    """Codes pass where their gate, of another bias, exceeds zero."""

    def __init__(self, x, w, dtype, low, penalty):
        super().__init__(x, w, dtype, low)
        self.penalty, self.gates = penalty, self._room()
        self.b_gate, self.b_mag = w.b_gate.contiguous(), w.b_mag.contiguous()
        self.ratio, self.threshold = w.r_mag.exp(), -self.b_gate
        self.by_gate, self.by_mag, self.by_ratio = torch.zeros(
            3, len(self.ratio)
        )

    def _sparse(self, part, codes):
        latents, shared = codes.indices, codes.values
        ratio = self.ratio[latents]
        gate = shared + self.b_gate[latents]
        f = (shared * ratio).add_(self.b_mag[latents]).relu_()
        d_mag = self._decode(self.decoded, part, codes, f).mul_(f != 0)
        d_gate = self._decode(self.gates, part, codes, gate)
        d_gate.add_(self.penalty)
        self.by_gate.index_add_(0, latents, d_gate)
        self.by_mag.index_add_(0, latents, d_mag)
        self.by_ratio.index_add_(0, latents, d_mag * shared)
        return f, d_gate.addcmul_(d_mag, ratio)

    def _dense(self, part, shared):
        size, dtype = shared.shape, shared.dtype
        gate, f = _like(shared), _like(shared)
        library.call("gate", shared, self.b_gate, self.ratio, self.b_mag,
                     *size, gate, f, dtype=dtype)  # fmt: skip
        d_gate = self._decode_dense(self.gates, part, gate)
        d_f = self._decode_dense(self.decoded, part, f)
        library.call("gate_back", shared, f, self.b_gate, self.ratio,
                     self.penalty, *size, d_gate, d_f, self.sums.d_pre,
                     self.by_gate, self.by_mag, self.by_ratio,
                     self.sums.firings, dtype=dtype)  # fmt: skip
        self._add(part, f, d_f)

    def _others(self):
        r_mag = self.by_ratio * self.ratio
        return dict(b_gate=self.by_gate, b_mag=self.by_mag, r_mag=r_mag)


def _like(codes: torch.Tensor) -> torch.Tensor:
    return empty(*codes.shape, dtype=codes.dtype)
