"""The phase diagram of two features in one number, and its closed form.

The first feature has importance r, the second 1; each is present with
density s. What one number can do is keep the first (W = [1, 0]), keep the
second ([0, 1]), or keep both at opposite ends ([1, -1]).
"""

from collections.abc import Sequence

import pandas as pd
import torch

from helpers.superposition.toys import Toys, train

PHASES = "first", "second", "both"
POINTS = 64  # of the midpoint rule along each feature's value
# How far training may be off the closed form: it has to find the cheapest
# way where the next is dearer by more than MARGIN (nearer to a boundary,
# unequal weights beat all three ways), and a loss no more than ABOVE higher.
MARGIN = 0.15
ABOVE = 0.02
SHARE = 0.5  # of the longer weight: a feature above it is kept


def closed_form(density: float, importance: float) -> dict[str, float]:
    """Expected loss, summed over both features, of each way.

    A feature that is not kept is answered by its mean s/2 and costs its
    variance s/3 - s^2/4. Opposite features are exact unless both are
    present, and then both are off by the smaller one, E[min^2] = 1/6.
    (wattenberg/superposition; zroe1/toy-models-of-superposition.)
    """
    s, r = density, importance
    variance = s / 3 - s**2 / 4
    both = (1 + r) * s**2 / 6
    return dict(zip(PHASES, (variance, r * variance, both), strict=True))


def expected_losses(
    W: torch.Tensor, b: torch.Tensor, density: float, importance: float
) -> torch.Tensor:
    """The exact counterpart for trained toys: [seeds].

    ``W`` [seeds, 2, 1], ``b`` [seeds, 2]. The values are integrated by the
    midpoint rule, presence is summed over its four cases.
    """
    x, chance = _cases(density)
    back = (W @ (W.mT @ x) + b[..., None]).relu()
    weight = torch.tensor([importance, 1.0], dtype=x.dtype)[:, None]
    return ((back - x).pow(2) * weight * chance).sum((1, 2))


def diagram(
    densities: Sequence[float],
    importances: Sequence[float],
    *,
    seeds: int = 4,
    steps: int = 3000,
    batch: int = 256,
    lr: float = 3e-3,
) -> pd.DataFrame:
    """Train a grid of toys as one batch and lay it beside the closed form.

    For each point the best of ``seeds`` starts is kept. Columns: density,
    importance, the closed form's losses (``PHASES``), phase (the cheapest),
    margin (how much dearer the next is, relative), trained (the phase that
    was found), loss (its expected loss), w_first, w_second.
    """
    points = [(float(s), float(r)) for s in densities for r in importances]
    toys = train(
        [s for s, _ in points],
        torch.tensor([[r, 1.0] for _, r in points]),
        hidden=1, outputs=["relu"], seeds=range(seeds),
        steps=steps, batch=batch, lr=lr,
    )  # fmt: skip
    rows = [_row(toys, at, *point) for at, point in enumerate(points)]
    return pd.DataFrame(rows)


def _row(toys: Toys, at: int, density: float, importance: float) -> dict:
    W, b = toys.W[0, at].double(), toys.b[0, at].double()
    found = expected_losses(W, b, density, importance)
    best = int(found.argmin())
    ways = closed_form(density, importance)
    cheapest, following = sorted(ways, key=ways.get)[:2]
    first, second = W[best, :, 0].tolist()
    return {
        "density": density,
        "importance": importance,
        **ways,
        "phase": cheapest,
        "margin": ways[following] / ways[cheapest] - 1,
        "trained": _phase(first, second),
        "loss": float(found[best]),
        "w_first": first,
        "w_second": second,
    }


def _phase(first: float, second: float) -> str:
    """The way that a pair of weights is nearest to."""
    longest = max(abs(first), abs(second))
    if min(abs(first), abs(second)) > SHARE * longest:
        return "both"
    return "first" if abs(first) == longest else "second"


def _cases(density: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [2, cases] and their chances [cases]: one, other, both, none."""
    value = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    none = torch.zeros_like(value)
    pairs = torch.cartesian_prod(value, value).T
    x = torch.cat([
        torch.stack([value, none]), torch.stack([none, value]), pairs,
        torch.zeros(2, 1, dtype=torch.float64),
    ], dim=1)  # fmt: skip
    one = density * (1 - density) / POINTS
    chance = torch.cat([
        torch.full((2 * POINTS,), one, dtype=torch.float64),
        torch.full((POINTS**2,), (density / POINTS) ** 2, dtype=torch.float64),
        torch.tensor([(1 - density) ** 2], dtype=torch.float64),
    ])  # fmt: skip
    return x, chance
