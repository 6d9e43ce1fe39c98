"""How the features of a toy lie: who is kept, and who shares with whom.

``W`` is [..., n, m], a row a feature; Ŵ_i is W_i at length one.
"""

from collections.abc import Sequence

import pandas as pd
import torch

from helpers.superposition.toys import OUTPUTS, Toys

KEPT = 0.5  # ||W_i|| above which a feature is represented
OPPOSITE = -0.9  # cosine below which two features are an antipodal pair
DEDICATED = 0.05  # interference below which a feature has its own direction


def norms(W: torch.Tensor) -> torch.Tensor:
    """||W_i||, [..., n]: near 1 for a feature that is kept."""
    return W.norm(dim=-1)


def interference(W: torch.Tensor) -> torch.Tensor:
    """sum over j != i of (Ŵ_i . W_j)^2, [..., n].

    W_j has its length, as in the paper's colours: a feature that is not
    kept disturbs nobody. 0 for a feature of no length.
    """
    return _overlaps(W).sum(-1) - W.pow(2).sum(-1)


def dimensionality(W: torch.Tensor) -> torch.Tensor:
    """D_i = ||W_i||^2 / sum_j (Ŵ_i . W_j)^2, [..., n].

    The share of a hidden dimension that a feature has for itself (Elhage et
    al. 2022): 1 alone, 1/2 in an antipodal pair, 0 for no length.
    """
    square = W.pow(2).sum(-1)
    return square / _overlaps(W).sum(-1).clamp_min(1e-12)


def dimensions_per_feature(W: torch.Tensor) -> torch.Tensor:
    """D* = m / ||W||_F^2, [...]: hidden dimensions for each feature kept."""
    return W.shape[-1] / W.pow(2).sum((-2, -1))


def antipodal_pairs(W: torch.Tensor) -> list[tuple[int, int]]:
    """Pairs of represented features that point opposite ways; W [n, m]."""
    kept = norms(W) > KEPT
    unit = _unit(W)
    opposite = (unit @ unit.T < OPPOSITE) & kept & kept[:, None]
    return [tuple(pair) for pair in opposite.triu().nonzero().tolist()]


def outcomes(
    toys: Toys,
    densities: Sequence[float],
    outputs: Sequence[str] = OUTPUTS,
) -> pd.DataFrame:
    """What each toy came to, a row a toy.

    output, density, seed (its place in the batch); kept (features), first
    (whether those are the most important ones), square (||W||_F^2), pairs
    (antipodal), dedicated (kept, with hardly any interference), bias (mean
    over the features kept).
    """
    rows = []
    for place in _places(toys.W):
        output, condition, seed = place
        W, b = toys.W[place], toys.b[place]
        kept = norms(W) > KEPT
        alone = interference(W) < DEDICATED
        rows.append({
            "output": outputs[output],
            "density": densities[condition],
            "seed": seed,
            "kept": int(kept.sum()),
            "first": bool(kept[: int(kept.sum())].all()),
            "square": float(W.pow(2).sum()),
            "pairs": len(antipodal_pairs(W)),
            "dedicated": int((kept & alone).sum()),
            "bias": float(b[kept].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _places(W: torch.Tensor) -> list[tuple[int, ...]]:
    """Index of every toy: output, condition, seed."""
    every = torch.ones(W.shape[:-2]).nonzero()
    return [tuple(place) for place in every.tolist()]


def _unit(W: torch.Tensor) -> torch.Tensor:
    return W / norms(W).clamp_min(1e-6)[..., None]


def _overlaps(W: torch.Tensor) -> torch.Tensor:
    """(Ŵ_i . W_j)^2: [..., n, n]."""
    return (_unit(W) @ W.mT).pow(2)
