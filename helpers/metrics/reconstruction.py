"""How much of the activations a reconstruction keeps.

Many formulas go by the same few names. Each is here under its own, the
legacy and wrong ones too, so that published numbers can be matched; the
first five are the ones to report. With e = x - x_hat, E the mean over
tokens and V = E||x||^2 - ||E x||^2, the variance of x over all dimensions:

============================ ============================================
mse                          E||e||^2
mse_mean                     E||e||^2 / d_in
explained_variance           1 - E||e||^2 / V
fvu                          E||e||^2 / V
shrinkage                    E(||x_hat|| / ||x||)
relative_reconstruction_bias E||x_hat||^2 / E(x . x_hat)
cosine                       E(x . x_hat / ||x|| ||x_hat||)
l2                           E||e||
nmse_by_norm                 E(||e||^2 / ||x||^2)
nmse_by_variance             the same as fvu
fve_centred                  1 - (E||e||^2 - ||E e||^2) / V
explained_variance_bug       1 - E||e||^2 / (E||x||^2 - (E||x||^2/d_in)^2)
explained_variance_legacy    E(1 - ||e||^2 / ||x - E x||^2)
============================ ============================================
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.metrics.arrays import pair

if TYPE_CHECKING:
    import torch

SMALL = 1e-4  # a norm below it is divided by as if it were 1 (SAELens)


@dataclass
class Reconstruction:
    """Sums over tokens of x and x_hat, all float64; ``+`` pools them."""

    tokens: int
    error: float  # of ||x - x_hat||^2
    square: float  # of ||x||^2
    total: np.ndarray  # [d_in], of x
    rebuilt: float  # of ||x_hat||^2
    dot: float  # of x . x_hat
    residual: np.ndarray  # [d_in], of x - x_hat
    distance: float  # of ||x - x_hat||
    norm_ratio: float  # of ||x_hat|| / ||x||
    error_ratio: float  # of ||x - x_hat||^2 / ||x||^2
    cosines: float  # of the cosine of x and x_hat

    @classmethod
    def of(cls, x, x_hat, **more) -> "Reconstruction":
        """The sums for activations and their reconstruction.

        Both [tokens, d_in], torch (on any device) or NumPy. InputError
        where they are not of one shape. ``more``: a subclass's own sums.
        """
        return cls(**_sums(*pair(x, x_hat)), **more)

    def __add__(self, other):
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(one + two for one, two in pairs))

    @property
    def d_in(self) -> int:
        """Numbers in an activation."""
        return len(self.total)

    @property
    def mse(self) -> float:
        """Mean over tokens of ||x - x_hat||^2, summed over dimensions.

        SAELens (training; evaluation since 6.45.2), Gao et al.'s code.
        """
        return self.error / self.tokens

    @property
    def mse_mean(self) -> float:
        """The same, mean over dimensions: Towards Monosemanticity."""
        return self.mse / self.d_in

    @property
    def explained_variance(self) -> float:
        """R^2 on these tokens; see ``explained_variance``."""
        return explained_variance(
            self.error, self.square, self.total, self.tokens
        )

    @property
    def fvu(self) -> float:
        """1 - R^2; what OpenAI's paper (not its code) calls NMSE."""
        return 1 - self.explained_variance

    nmse_by_variance = fvu

    @property
    def shrinkage(self) -> float:
        """Mean of ||x_hat|| / ||x||: SAELens' and others' "L2 ratio".

        The best reconstruction with a given error is shorter than x, so
        that less than 1 need not mean that longer would be better; see
        ``relative_reconstruction_bias``.
        """
        return self.norm_ratio / self.tokens

    @property
    def relative_reconstruction_bias(self) -> float:
        """E||x_hat||^2 / E(x . x_hat): below 1 where x_hat is too short.

        Rajamanoharan et al. 2024, equation 10. It is the inverse of the
        factor that would make the reconstruction best.
        """
        return self.rebuilt / self.dot if self.dot else float("nan")

    @property
    def cosine(self) -> float:
        """Mean cosine of x and x_hat."""
        return self.cosines / self.tokens

    @property
    def l2(self) -> float:
        """Mean of ||x - x_hat||, not squared: dictionary_learning's l2."""
        return self.distance / self.tokens

    @property
    def nmse_by_norm(self) -> float:
        """Mean of ||x - x_hat||^2 / ||x||^2: NMSE in OpenAI's code."""
        return self.error_ratio / self.tokens

    @property
    def fve_centred(self) -> float:
        """1 - Var(x - x_hat) / Var(x): dictionary_learning.

        The mean of the residual is taken off first, so that a constant
        error costs nothing: never below R^2.
        """
        bias = np.square(self.residual / self.tokens).sum()
        variance = _variance(self.square, self.total, self.tokens)
        return 1 - (self.mse - bias) / variance if variance > 0 else np.nan

    @property
    def explained_variance_bug(self) -> float:
        """1 - E||x - x_hat||^2 / (E||x||^2 - (E||x||^2 / d_in)^2).

        WRONG, of the right name: SAELens before 6.45.1, and SAEBench. The
        mean's square was taken of the mean square, over all dimensions, so
        that the "variance" is not even in the units of a variance.
        """
        square = self.square / self.tokens
        variance = square - (square / self.d_in) ** 2
        return 1 - self.mse / variance if variance else float("nan")


MEASURES = (
    "mse",
    "mse_mean",
    "explained_variance",
    "fvu",
    "shrinkage",
    "relative_reconstruction_bias",
    "cosine",
    "l2",
    "nmse_by_norm",
    "nmse_by_variance",
    "fve_centred",
    "explained_variance_bug",
)


def explained_variance(
    error: float, square: float, total: np.ndarray, count: int
) -> float:
    """R^2 = 1 - E||x - x_hat||^2 / (E||x||^2 - ||E x||^2).

    Takes sums over ``count`` tokens: of the squared error, of ||x||^2 and
    of x ([d_in], float64). NaN if x does not vary.
    """
    variance = _variance(square, total, count)
    return 1 - error / count / variance if variance > 0 else float("nan")


def explained_variance_legacy(x, x_hat) -> float:
    """Mean over tokens of 1 - ||x - x_hat||^2 / ||x - E x||^2.

    A mean of ratios: SAELens' ``explained_variance_legacy``, and what the
    SAEBench paper reports. Tokens near the mean weigh most. There E is over
    one batch, so that the number depends on the batches; here it is over
    all tokens given. ``x``, ``x_hat``: [tokens, d_in].
    """
    x, x_hat = (part.double().cpu().numpy() for part in pair(x, x_hat))
    spread = np.square(x - x.mean(0)).sum(1)
    error = np.square(x - x_hat).sum(1)
    if not spread.all():
        return float("nan")
    return float(np.mean(1 - error / spread))


def fvu(x, x_hat) -> float:
    """Fraction of variance unexplained: E||x - x_hat||^2 / E||x - E x||^2.

    1 - R^2, for [tokens, d_in] each: 0 for a perfect reconstruction, 1 for
    one no better than the mean, more for a worse one. NaN if x does not
    vary. Cunningham et al. 2023.
    """
    return Reconstruction.of(x, x_hat).fvu


def _variance(square: float, total: np.ndarray, count: int) -> float:
    """E||x||^2 - ||E x||^2; 0 where that is rounding alone."""
    mean = np.square(total / count).sum()
    variance = square / count - mean
    return float(variance) if variance > 1e-14 * mean else 0.0


def _sums(x: "torch.Tensor", x_hat: "torch.Tensor") -> dict:
    """The fields of ``Reconstruction``, each as float or array."""
    error, x, x_hat = (x - x_hat).double(), x.double(), x_hat.double()
    errors = error.pow(2).sum(1)
    norm, rebuilt = x.norm(dim=1), x_hat.norm(dim=1)
    dot = (x * x_hat).sum(1)
    divisor, other = _divisor(norm), _divisor(rebuilt)
    values = {
        "error": error.pow(2).sum(),
        "square": x.pow(2).sum(),
        "total": x.sum(0),
        "rebuilt": x_hat.pow(2).sum(),
        "dot": dot.sum(),
        "residual": error.sum(0),
        "distance": errors.sqrt().sum(),
        "norm_ratio": (rebuilt / divisor).sum(),
        "error_ratio": (errors / divisor.pow(2)).sum(),
        "cosines": (dot / divisor / other).sum(),
    }
    return {"tokens": len(x)} | {
        name: value.cpu().numpy() if value.dim() else value.item()
        for name, value in values.items()
    }


def _divisor(norm: "torch.Tensor") -> "torch.Tensor":
    return norm.where(norm >= SMALL, norm.new_ones(()))


