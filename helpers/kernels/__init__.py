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
from helpers.kernels import native, reference
from helpers.kernels.reference import Codes, Result, Weights

__all__ = [
    "Adam",
    "Codes",
    "Result",
    "Weights",
    "backend",
    "batch_top_k",
    "encode_topk",
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
    return _of(native.ranks(pre, k, pre.shape[-1])).top_k(pre, k)


def batch_top_k(pre: torch.Tensor, n: int) -> torch.Tensor:
    """Places of the n largest of [batch, d_sae], flattened, rising."""
    return _of(native.ranks(pre, n, pre.numel())).batch_top_k(pre, n)


def encode_topk(x, w, k, dtype, low=None):
    """TopK codes after ReLU: values and indices, [batch, k] each."""
    return _of(native.takes(x, w, k)).encode_topk(x, w, k, dtype, low)


def topk_step(x, w, k, dtype, low=None) -> Result:
    """Error, firings and gradients of a TopK SAE on a batch."""
    return _of(native.takes(x, w, k)).topk_step(x, w, k, dtype, low)


def sparse_step(x, w, codes, dtype, low=None) -> Result:
    """Error, firings and gradients where the codes are already listed."""
    return _of(native.takes(x, w)).sparse_step(x, w, codes, dtype, low)


def relu_step(x, w, l1, dtype, low=None) -> Result:
    """Error, firings and gradients of an L1 SAE on a batch."""
    return _of(native.takes(x, w)).relu_step(x, w, l1, dtype, low)


def Adam(parameters, betas=(0.9, 0.999), dtype=torch.float32,
         unit_rows=("W_dec",)) -> reference.Adam:  # fmt: skip
    """The optimiser of an SAE; see ``reference.Adam``."""
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
