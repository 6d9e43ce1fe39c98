"""Numbers as the metrics take them: torch or NumPy in, float64 out."""

import numpy as np

from helpers.errors import InputError


def table(values, what: str) -> np.ndarray:
    """A torch tensor or an array as [rows, columns] float64.

    InputError, naming ``what``, where it has another shape, no row, or a
    value that is not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise InputError(
            f"{what} must be a table with a row for each vector, not of "
            f"shape {list(found.shape)}"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{what} has values that are not finite numbers")
    return found


def pair(x, x_hat) -> tuple[np.ndarray, np.ndarray]:
    """Activations and their reconstruction: both [tokens, d_in] float64.

    InputError where their shapes differ.
    """
    x, x_hat = table(x, "x"), table(x_hat, "x_hat")
    if x.shape != x_hat.shape:
        raise InputError(
            f"x has shape {list(x.shape)} and x_hat {list(x_hat.shape)}; "
            "they must be alike"
        )
    return x, x_hat
