"""Sparse autoencoders on toys, where the true features are known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers import artifacts, metrics, paths, sae, train
from helpers.progress import track
from helpers.superposition.geometry import KEPT, norms
from helpers.superposition.stage import load_toys

TABLE = "recovered.parquet"
FOUND = 0.9  # cosine with a latent above which a feature is recovered
HOOK_POINT = "hidden"


def samples(
    density: float, n: int, batch: int, random: torch.Generator
) -> torch.Tensor:
    """Features of samples in which at least one is present: [batch, n].

    Exact: the first one present is drawn first (chance S^i (1 - S)), those
    after it are present independently, those before it are absent.
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
    """Endless hidden activations x W of a toy, [batch, m], none empty."""
    random = torch.Generator().manual_seed(seed)
    while True:
        yield samples(density, len(W), batch, random) @ W


def train_sae(
    W: torch.Tensor,
    density: float,
    *,
    latents: int,
    l1: float,
    steps: int,
    batch: int = 1024,
    lr: float = 3e-3,
    seed: int = 0,
) -> sae.SAE:
    """An L1 SAE on a toy's hidden activations, by the book's own loop."""
    model = sae.L1SAE(W.shape[1], latents, HOOK_POINT, l1, seed)
    settings = train.Settings(
        activations=steps * batch, batch=batch, lr=lr, seed=seed
    )
    train.fit(model, activations(W, density, batch, seed), settings)
    return model


def cosines(W: torch.Tensor, model: sae.SAE) -> torch.Tensor:
    """The largest cosine of each feature with a decoder row: [n]."""
    unit = W / norms(W).clamp_min(1e-6)[:, None]
    return (unit @ model.W_dec.detach().T).max(1).values
