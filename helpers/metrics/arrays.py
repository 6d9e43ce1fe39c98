"""Numbers as the metrics take them, torch or NumPy, checked."""

from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import InputError

if TYPE_CHECKING:
    import torch


def table(values, what: str) -> np.ndarray:
    """A torch tensor or an array as [rows, columns] float64.

    InputError, naming ``what``, where it has another shape, no row, or a
    value that is not finite.
    """
    return rows(values, what).double().cpu().numpy()


def rows(values, what: str) -> "torch.Tensor":
    """The same as a tensor of its own type, where it is."""
    import torch

    if not hasattr(values, "detach"):
        values = torch.from_numpy(np.ascontiguousarray(values))
    found = values.detach()
    if found.dim() != 2 or not found.numel():
        raise InputError(
            f"{what} must be a table with a row for each vector, not of "
            f"shape {list(found.shape)}"
        )
    if not torch.isfinite(found).all():
        raise InputError(f"{what} has values that are not finite numbers")
    return found


def pair(x, x_hat) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Activations and their reconstruction: both [tokens, d_in].

    InputError where their shapes differ.
    """
    x, x_hat = rows(x, "x"), rows(x_hat, "x_hat")
    if x.shape != x_hat.shape:
        raise InputError(
            f"x has shape {list(x.shape)} and x_hat {list(x_hat.shape)}; "
            "they must be alike"
        )
    return x, x_hat
