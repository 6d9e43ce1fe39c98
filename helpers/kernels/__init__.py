"""The arithmetic of one SAE training step: losses and gradients by hand.

The fast counterpart of a few lines of autograd (the plain version that the
tests compare with). ``reference`` is plain PyTorch and runs everywhere;
``native`` is C++ for the CPU, compiled on first use. Which one runs is
decided here, call by call; ``$BOOK_KERNELS`` (``reference`` or ``native``)
decides it for all. Functions are described in ``reference``.
"""

import os
import subprocess
import warnings
from functools import cache

import torch

from helpers.errors import unknown
from helpers.kernels import adam, native, reference
from helpers.kernels.types import (
    Codes,
    GatedWeights,
    JumpReLUWeights,
    Matrices,
    Penalty,
    Result,
    Weights,
)

__all__ = [
    "Adam",
    "Codes",
    "GatedWeights",
    "JumpReLUWeights",
    "Matrices",
    "Penalty",
    "Result",
    "Weights",
    "backend",
    "candidates",
    "encode_topk",
    "gated_step",
    "jumprelu_step",
    "keep",
    "largest",
    "nested_step",
    "relu_step",
    "sparse_step",
    "top_k",
    "topk_step",
]
CHOICE = "BOOK_KERNELS"


def backend() -> str:
    """What runs float32 batches on the CPU: "native" or "reference".

    InputError if ``$BOOK_KERNELS`` names another.
    """
    choice = os.environ.get(CHOICE) or "native"
    if choice not in ("native", "reference"):
        raise unknown(f"${CHOICE}", choice, ["native", "reference"])
    return "native" if choice == "native" and _compiles() else "reference"


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row of [batch, d_sae]: values and indices."""
    return _of(native.ranks(pre, k)).top_k(pre, k)


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the ``count`` largest, the first of equal ones: bool."""
    return _of(native.holds(values)).largest(values, count)


def keep(codes: Codes, which: torch.Tensor) -> Codes:
    """Those entries that ``which`` ([entries], bool) marks."""
    return _of(native.holds(codes.values)).keep(codes, which)


def candidates(x, w, floor, most, dtype, low=None) -> Codes:
    """Codes above a floor, the ``most`` largest among them."""
    backend = _of(native.takes(x, w))
    return backend.candidates(x, w, floor, most, dtype, low)


def encode_topk(x, w, k, dtype, low=None):
    """TopK codes after ReLU: values and indices, [batch, k] each."""
    return _of(native.takes(x, w, k)).encode_topk(x, w, k, dtype, low)


def topk_step(x, w, k, dtype, low=None) -> Result:
    """Error, firings and gradients of a TopK SAE on a batch."""
    return _of(native.takes(x, w, k)).topk_step(x, w, k, dtype, low)


def sparse_step(x, w, codes, dtype, low=None) -> Result:
    """Error, firings and gradients where the codes are already listed."""
    return _of(native.takes(x, w)).sparse_step(x, w, codes, dtype, low)


def nested_step(x, w, codes, widths, dtype, low=None) -> Result:
    """The same of nested dictionaries, of the first m latents each."""
    backend = _of(native.takes(x, w))
    return backend.nested_step(x, w, codes, widths, dtype, low)


def relu_step(x, w, l1, dtype, low=None) -> Result:
    """Error, firings and gradients of an L1 SAE on a batch."""
    return _of(native.takes(x, w)).relu_step(x, w, l1, dtype, low)


def jumprelu_step(x, w, penalty, dtype, low=None) -> Result:
    """Error, firings and gradients of a JumpReLU SAE on a batch."""
    return _of(native.takes(x, w)).jumprelu_step(x, w, penalty, dtype, low)


def gated_step(x, w, l1, dtype, low=None) -> Result:
    """Error, firings and gradients of a Gated SAE on a batch."""
    return _of(native.takes(x, w)).gated_step(x, w, l1, dtype, low)


def Adam(parameters, betas=(0.9, 0.999), dtype=torch.float32,
         unit_rows=("W_dec",)) -> adam.Adam:  # fmt: skip
    """The optimiser of an SAE; see ``adam.Adam``."""
    fits = all(native.holds(value) for value in parameters.values())
    return _of(fits).Adam(parameters, betas, dtype, unit_rows)


def _of(fits: bool):
    return native if fits and backend() == "native" else reference


@cache
def _compiles() -> bool:
    try:
        native.load()
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()
        warnings.warn(
            "the CPU's native kernels could not be built, training takes "
            f"the slower plain ones: {detail.splitlines()[-1]}",
            stacklevel=2,
        )
        return False
    return True
