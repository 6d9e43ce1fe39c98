"""How much of the activations a reconstruction keeps.

``x`` and ``x_hat`` are [tokens, d_in], torch or NumPy; all sums in float64.
"""

import numpy as np

from helpers.metrics.arrays import pair


def fvu(x, x_hat) -> float:
    """Fraction of variance unexplained: E||x - x_hat||^2 / E||x - E x||^2.

    1 - R^2: 0 for a perfect reconstruction, 1 for one no better than the
    mean, more for a worse one. NaN if x does not vary. "Fraction variance
    unexplained" of Cunningham et al. 2023; what OpenAI's paper (not its
    code) calls NMSE.
    """
    x, x_hat = pair(x, x_hat)
    variance = np.square(x - x.mean(0)).sum()
    error = np.square(x - x_hat).sum()
    return float(error / variance) if variance > 0 else float("nan")
