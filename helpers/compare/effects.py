"""Effect sizes, a column at a time: nothing here knows about corpora."""

import numpy as np

CHUNK = 4096  # features at a time: a [1000, 4096] float32 block is 16 MiB


def cohens_d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference of means over the pooled standard deviation (Cohen 1988).

    ``a`` [n, d_sae], ``b`` [m, d_sae] -> [d_sae]. 0 where the means are
    equal, NaN where they differ but neither class varies.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    difference = a.mean(0) - b.mean(0)
    squares = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    spread = np.sqrt(squares / max(len(a) + len(b) - 2, 1))
    undefined = np.where(difference == 0, 0.0, np.nan)
    return np.divide(difference, spread, out=undefined, where=spread > 0)


def auroc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(a > b) + P(a = b) / 2, the Mann-Whitney U over n m, per column.

    ``a`` [n, d_sae], ``b`` [m, d_sae] -> [d_sae]; 0.5 means that the
    feature's maximum does not order the two classes.
    """
    from scipy.stats import rankdata

    n, m = len(a), len(b)
    scores = [
        rankdata(np.concatenate([a[:, c], b[:, c]]), axis=0)[:n].sum(0)
        for c in chunks(a.shape[1])
    ]
    sums = np.concatenate(scores) if scores else np.zeros(0)
    return (sums - n * (n + 1) / 2) / (n * m)


def chunks(width: int) -> list[slice]:
    """Slices over ``width`` features, small enough to stay in memory."""
    return [slice(s, s + CHUNK) for s in range(0, width, CHUNK)]
