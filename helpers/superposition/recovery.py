"""Sparse autoencoders on toys, where the true features are known."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from helpers import artifacts, metrics, paths, sae, train
from helpers.superposition.geometry import KEPT, norms
from helpers.superposition.stage import load_toys
from helpers.superposition.toys import one_thread

TABLE = "recovery.parquet"
FOUND = 0.9  # cosine with a latent above which a feature is recovered
HOOK_POINT = "hidden"
FRESH = 10**6  # the seed of samples that no SAE was trained on
SAMPLE = 8192  # of them, to measure on


def samples(
    density: float, n: int, batch: int, random: torch.Generator
) -> torch.Tensor:
    """Features of samples in which at least one is present: [batch, n].

    Exact: the first one present is drawn first (chance S^i (1 - S), made to
    sum to one), those before it are absent, those after it independent.
    """
    chance = (1 - density) ** torch.arange(n, dtype=torch.float64)
    first = torch.multinomial(
        chance, batch, replacement=True, generator=random
    )[:, None]
    at = torch.arange(n)
    present = torch.rand(batch, n, generator=random) < density
    present = (present & (at > first)) | (at == first)
    return present * torch.rand(batch, n, generator=random)


def activations(
    W: torch.Tensor, density: float, batch: int, seed: int = 0
) -> Iterator[torch.Tensor]:
    """Endless hidden activations of a toy, [batch, m], none empty.

    ``W``: [n, m].
    """
    random = torch.Generator().manual_seed(seed)
    while True:
        yield samples(density, len(W), batch, random) @ W


def train_sae(
    W: torch.Tensor,
    density: float,
    *,
    k: int,
    latents: int = 20,
    steps: int = 800,
    batch: int = 256,
    lr: float = 1e-2,
    seed: int = 0,
) -> sae.SAE:
    """A TopK SAE on a toy's hidden activations, by the book's own loop."""
    model = sae.TopKSAE(W.shape[1], latents, HOOK_POINT, k, seed)
    settings = train.Settings(
        activations=steps * batch, batch=batch, lr=lr, seed=seed,
        dead_after=20 * batch,
    )  # fmt: skip
    with one_thread():
        train.fit(model, activations(W, density, batch, seed), settings)
    return model


def make_recovery(
    profile: str, toys: Path, *, seeds: int = 1, **how: float
) -> Path:
    """Train an SAE on each ReLU toy of the first seeds; the artifact.

    k is the number of represented features that a sample has on average, at
    least 1; ``how``: the rest of ``train_sae``.
    """

    def make(folder: Path) -> None:
        run = load_toys(toys)
        rows = [
            row
            for seed in range(seeds)
            for density, W in zip(
                run.densities, run.weights(seed=seed), strict=True
            )
            for row in _features(W, density, seed, how)
        ]
        pd.DataFrame(rows).to_parquet(folder / TABLE, index=False)

    return artifacts.produce(
        paths.superposition(profile, "recovery"),
        make,
        parameters={"seeds": seeds, **how},
        inputs=[toys],
    )


def load_recovery(path: Path) -> pd.DataFrame:
    """A row a feature that its toy represents.

    density, seed, feature; cosine (the largest with a decoder row);
    recovered (above ``FOUND``); and of the SAE: mmcs, mcc, fvu.
    """
    return pd.read_parquet(artifacts.require(path) / TABLE)


def _features(
    W: torch.Tensor, density: float, seed: int, how: dict
) -> list[dict]:
    kept = norms(W) > KEPT
    k = max(1, round(int(kept.sum()) * density))
    model = train_sae(W, density, k=k, seed=seed, **how)
    rows = model.W_dec.detach()
    similar = _cosines(W[kept], rows)
    whole = {
        "density": density,
        "seed": seed,
        "mmcs": metrics.mmcs(W[kept], rows),
        "mcc": metrics.mcc(W[kept], rows),
        "fvu": unexplained(model, W, density),
    }
    return [
        {
            **whole, "feature": feature, "cosine": float(cosine),
            "recovered": bool(cosine > FOUND),
        }
        for feature, cosine in zip(
            kept.nonzero().flatten().tolist(), similar.max(1).values,
            strict=True,
        )
    ]  # fmt: skip


@torch.no_grad()
def unexplained(model: sae.SAE, W: torch.Tensor, density: float) -> float:
    """Share of the activations' variance that the SAE does not explain."""
    x = next(activations(W, density, SAMPLE, FRESH))
    error = (model(x) - x).pow(2).sum()
    return float(error / (x - x.mean(0)).pow(2).sum())


def _cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """[n, d], [m, d] -> [n, m]."""
    return torch.nn.functional.cosine_similarity(
        one[:, None], other[None], dim=2
    )
